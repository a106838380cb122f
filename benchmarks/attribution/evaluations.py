"""Deletion, quality and false attribution at benchmark scale.

    python -m benchmarks.attribution.evaluations deletion RUN    # RUN: what benchmarks.attribution.lds made
    python -m benchmarks.attribution.evaluations quality RUN     # of 1,797 digits, benchmarks.influence.excess
    python -m benchmarks.attribution.evaluations far RUN...      # of ever more digits, the same

Each is `attribute.py RUN evaluate`, whose table goes on record as it is: retraining
without the top sources of four methods, two seeds; the ensemble beside single models of
equal steps and of equal compute; and how often a rule names a source that is gone, for 64
pictures of each run, with the counterfactual radius of the pictures that were ablated.
What is trained stays in RUN; started again, each goes on where it was.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import record
from ensemble.cli import attribute
from ensemble.evaluation import plots
from ensemble.run import folder
from ensemble.run.files import read_json

METHODS = (
    "posterior_ensemble",
    "ekfac-reference",
    "pixel_cosine",
    "differential_ablation_displacement",
)
FLAGS = {
    "deletion": {
        "name": "generated",
        "method": ",".join(METHODS),
        "top": "4,16",
        "queries": "8",
        "random": "3",
        "seeds": "2",
    },
    "quality": {"seeds": "2", "images": "1024"},
    "far": {"name": "far"},
}
N_QUERIES = 64


def evaluated(run: Path, what: str, **flags: str) -> Path:
    """The table's file of one evaluation of a run."""
    given = [part for flag, value in flags.items() for part in (f"--{flag}", value)]
    attribute.main([str(run), "evaluate", "--what", what, *given])
    # Quality is no query's.
    about = "ensemble" if what == "quality" else flags.get("name", "demo")
    return folder.open_run(run).evaluation / f"{what}-{about}.json"


def false_attribution(runs: list[Path]) -> dict[str, Any]:
    """Rates of 64 pictures of each run, and the radius of those that were ablated.

    A plot of the rates over the number of images lies beside the record.
    """
    found, files = {}, []
    for run in runs:
        attribute.main([str(run), "generate", "--name", "far", "--n", str(N_QUERIES)])
        files.append(evaluated(run, "far", **FLAGS["far"]))
        rates = read_json(files[-1])
        radius = read_json(evaluated(run, "far"))["radius"]
        found[str(rates["n_images"])] = {**rates, "radius": radius}
    plots.curve(files, record.RESULTS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=FLAGS)
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.what == "far":
        results = false_attribution(arguments.runs)
    else:
        (run,) = arguments.runs
        table = evaluated(run, arguments.what, **FLAGS[arguments.what])
        results = read_json(table)
    trained_at = [
        read_json(folder.open_run(run).manifest)["commit"] for run in arguments.runs
    ]
    facts = {"flags": FLAGS[arguments.what], "members_trained_at": trained_at}
    record.write("evaluations", [0], {**facts, **results}, arguments.what)


if __name__ == "__main__":
    main()
