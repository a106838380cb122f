"""Should members share initial weights and noise? The demo's setting, both ways.

    python -m benchmarks.influence.shared_noise

For `training.shared_noise` true and false, one seed: mean exact displacement of
the 16 digits and of the placebos, its excess over placebo, and the pictures for which
some digit stands out. What sharing does to the quality of the ensemble as a model is
in benchmarks/models/quality.py.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

from benchmarks import record
from ensemble.run import files
from ensemble.run.folder import open_run

SEEDS = [0]
N_QUERIES = 8


def measured(folder: Path, seed: int, shared: bool) -> dict[str, float]:
    """Train the demo's ensemble and ablate every digit from every query."""
    tree = yaml.safe_load(Path("configs/digits.yaml").read_text())
    tree["run"] = str(folder / "run")
    tree["training"] |= {"seed": seed, "shared_noise": shared}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    for command in (
        ["train.py", str(path)],
        ["attribute.py", tree["run"], "generate", "--n", str(N_QUERIES)],
        ["attribute.py", tree["run"], "ablate"],
    ):
        subprocess.run([sys.executable, *command], check=True)
    found = open_run(tree["run"]).influence("demo") / "exact"
    return {
        "real": float(np.load(found / "displacement.npy").mean()),
        "placebo": float(np.load(found / "placebo.npy").mean()),
        "queries_above_placebo": N_QUERIES
        - len(files.read_json(found / "info.json")["unattributable"]),
    }


def main() -> None:
    results = {}
    for shared in (True, False):
        rows = []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measured(Path(folder), seed, shared))
            print(shared, rows[-1], flush=True)
        results["shared" if shared else "own"] = {
            **{name: [round(row[name], 4) for row in rows] for name in rows[0]},
            "excess_percent": [
                round(100 * (row["real"] / row["placebo"] - 1), 1) for row in rows
            ],
        }
    record.write("shared_noise", SEEDS, {**results, "n_queries": N_QUERIES})


if __name__ == "__main__":
    main()
