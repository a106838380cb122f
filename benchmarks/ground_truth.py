"""The shipped ground truth: losses of retrained models and the scores beside them.

    python -m benchmarks.ground_truth pack RUN SETTING     # RUN: what benchmarks.lds made
    python attribute.py benchmarks/ground_truth/SETTING evaluate --what lds --name NAME
    python -m benchmarks.ground_truth cell SETTING [--subset K --seed S]

The second command makes the table again, in minutes and from what is committed: a run
folder without members, with codes, queries, scores, influence and losses, each with its
digest. The third trains a model of one subset from scratch, one that chance takes, and
compares its loss at every query with the committed one. For MNIST's table it also writes
the pictures that both look at.
"""

import argparse
import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import mnist
from ensemble.evaluation import (
    ground_truth,
    losses,
    retraining,
)
from ensemble.evaluation.options import Options
from ensemble.evaluation.predictors import TABLES
from ensemble.models.ensemble_model import noise_schedule
from ensemble.provenance import plan
from ensemble.run import files, manifest, records
from ensemble.run.folder import Run, create, open_run
from ensemble.sampling import queries
from ensemble.scorers.interface import Examples
from ensemble.training import trainer
from splits.errors import BadInput

FOLDER = Path("benchmarks/ground_truth")
# Where the pictures of a setting are written, if the project does not ship them.
MNIST = Path("runs/mnist_14")
PICTURES = {"digits": None, "mnist": MNIST}
# Facts of a plan that a packed run must share with its origin.
FACTS = ("data_fingerprint", "source_of_digest", "code_book_digest")


def pack(run: Run, to: Path, pictures: Path | None) -> Run:
    """Copy what a table needs into a run folder of its own, without members.

    Args:
        run: Where everything was computed.
        to: The new folder, as its config will call it.
        pictures: Where its config will look for pictures; None: the project has them.

    Raises:
        BadInput: If the new folder is made from other data or codes.
    """
    data = run.config.data
    if pictures is not None:
        mnist.write(pictures)
        data = dataclasses.replace(data, path=str(pictures))
    packed = create(dataclasses.replace(run.config, run=str(to), data=data))
    plan.prepare(packed)
    origin = files.read_json(run.manifest)
    manifest.check_manifest(packed, {fact: origin[fact] for fact in FACTS})
    for file in files_of(run):
        place = to / file.relative_to(run.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    return packed


def files_of(run: Run) -> list[Path]:
    """Queries, scores and losses, and of influence the tables that are evaluated."""
    wanted = {"info.json", *(f"{table}.npy" for table in TABLES)}
    found = [*run.path.glob("queries/*/*"), *run.path.glob("evaluation/truth*/*/*")]
    found += run.path.glob("scores/[!.]*/[!.]*")
    found += [file for file in run.path.glob("influence/**/*") if file.name in wanted]
    return [file for file in found if file.is_file()]


def cell(
    run: Run, options: Options, subset: int, seed: int, folder: Path
) -> dict[str, Any]:
    """Train the model of a subset again, and compare its losses with the committed.

    Args:
        run: A packed run.
        options: Of the truth.
        subset: Which.
        seed: The training seed.
        folder: Where to train.

    Raises:
        BadInput: If the truth has no such subset or seed.
    """
    found = ground_truth.read(run, plan.load(run), options)
    seeds = found.identity["seeds"]
    if seed not in seeds or not 0 <= subset < options.n_subsets:
        raise BadInput(
            f"There is no cell of subset {subset} and seed {seed}: subsets are 0 to "
            f"{options.n_subsets - 1}, seeds {', '.join(map(str, seeds))}."
        )
    models = create(
        retraining.config(run, folder, ground_truth.splits_of(run, options), seed, None)
    )
    ready = plan.prepare(models)
    trainer.train_members(models, [subset], ready, trainer.Stopping())
    asked = queries.load(run, options.name)
    pictures = Examples(
        images=torch.from_numpy(asked.images.copy()),
        condition=None,
        keys=torch.from_numpy(asked.seeds.copy()),
    )
    schedule = noise_schedule(models.config.model)
    (again,) = losses.measure(
        [models.member(subset)], schedule, pictures, options.n_draws
    )
    kept = found.losses[seeds.index(seed), :, subset]
    return {
        "queries": options.name,
        "subset": subset,
        "seed": seed,
        "mean_loss": float(again.mean()),
        "largest_relative_difference": float(np.abs(again / kept - 1).max()),
        "same_bits": bool(np.array_equal(again, kept)),
    }


def options_of(run: Run, name: str) -> Options:
    """With which the truth of a packed run was measured."""
    folder = run.evaluation / "truth" / name
    sidecars = [files.read_json(file) for file in records.records(folder, ".npy")]
    return Options(
        name,
        n_seeds=len({sidecar["training_seed"] for sidecar in sidecars}),
        n_subsets=max(sidecar["n_subsets"] for sidecar in sidecars),
        n_draws=sidecars[0]["n_draws"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("pack")
    command.add_argument("run")
    command.add_argument("setting", choices=PICTURES)
    command = commands.add_parser("cell")
    command.add_argument("setting", choices=PICTURES)
    command.add_argument("--name", default="held_out", help="the queries")
    command.add_argument("--subset", type=int, help="default: chance takes one")
    command.add_argument("--seed", type=int, help="default: chance takes one")
    options = parser.parse_args()
    folder, pictures = FOLDER / options.setting, PICTURES[options.setting]
    if options.command == "pack":
        print(f"Packed: {pack(open_run(options.run), folder, pictures).path}")
        return
    torch.set_num_threads(1)
    if pictures is not None:
        mnist.write(pictures)
    run, rng = open_run(folder), np.random.default_rng()
    wanted = options_of(run, options.name)
    seeds = retraining.seeds(run, wanted.n_seeds)
    subset, seed = int(rng.integers(wanted.n_subsets)), int(rng.choice(seeds))
    subset = subset if options.subset is None else options.subset
    seed = seed if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as again:
        found = cell(run, wanted, subset, seed, Path(again) / "run")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
