"""The demo's time and memory: train.py, then attribute.py, in a fresh run folder.

    python -m benchmarks.models.demo

Target: at most 6 minutes on two cores, with the exact ablation of every source on at
least eight queries, and placebos beside them.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import record
from ensemble.run import files

CONFIG = "configs/digits.yaml"


def timed(*command: str) -> float:
    """Seconds that a script takes, from outside."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "digits"
        train = timed("train.py", CONFIG, f"run={run}")
        attribute = timed("attribute.py", str(run))
        manifest = files.read_json(run / "manifest.json")
        members = [
            files.read_json(path) for path in sorted(run.glob("members/*/member.json"))
        ]
        influence = files.read_json(run / "influence" / "demo" / "exact" / "info.json")
        n_queries = len(files.read_json(run / "queries/demo/info.json")["seeds"])
    record.write(
        "demo",
        [0],
        {
            "train_seconds": round(train, 1),
            "attribute_seconds": round(attribute, 1),
            "total_seconds": round(train + attribute, 1),
            "target_seconds": 360,
            "n_members": manifest["n_members"],
            "n_sources": manifest["n_sources"],
            "n_queries": n_queries,
            "n_placebos": influence["n_placebos"],
            "queries_above_placebo": n_queries - len(influence["unattributable"]),
            "ablation_member_forwards": influence["member_forwards"],
            "ablation_seconds": influence["seconds"],
            "peak_training_mb_per_process": round(
                max(member["peak_memory_bytes"] for member in members) / 2**20
            ),
            "peak_ablation_mb": round(influence["peak_memory_bytes"] / 2**20),
        },
    )


if __name__ == "__main__":
    main()
