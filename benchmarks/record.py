"""Write a benchmark's numbers with what is needed to make them again."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from ensemble import store

RESULTS = Path(__file__).parent / "results"


def write(name: str, seeds: list[int], results: dict[str, Any]) -> None:
    """Write results/NAME.json: numbers, machine, versions, commit, seeds and date."""
    content = {
        "benchmark": f"python -m benchmarks.{name}",
        "date": store.now(),
        "commit": store.commit(),
        "machine": {
            "processor": store.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": store.versions(),
        "seeds": seeds,
        "results": results,
    }
    text = json.dumps(content, indent=1) + "\n"
    store.write_text(RESULTS / f"{name}.json", text)
    print(text)
