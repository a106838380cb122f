"""Write a benchmark's numbers with what is needed to make them again."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from ensemble.run import files
from ensemble.system import environment

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results"
# Of the code that is running: a long benchmark may see others commit meanwhile.
COMMIT = environment.commit()


def write(
    name: str, seeds: list[int], results: dict[str, Any], part: str | None = None
) -> None:
    """Write results/NAME.json: numbers, machine, versions, commit, seeds and date.

    A part of a benchmark that can be run alone has a file of its own, NAME_PART.json.
    """
    (script,) = BENCHMARKS.glob(f"*/{name}.py")
    command = f"python -m benchmarks.{script.parent.name}.{name}"
    content = {
        "benchmark": " ".join(filter(None, [command, part])),
        "date": environment.now(),
        "commit": COMMIT,
        "machine": {
            "processor": environment.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": environment.versions(),
        "seeds": seeds,
        "results": results,
    }
    text = json.dumps(content, indent=1) + "\n"
    file = "_".join(filter(None, [name, part]))
    files.write_text(RESULTS / f"{file}.json", text)
    print(text)
