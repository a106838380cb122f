"""The shipped ground truth: losses of retrained models and the scores beside them.

    python -m benchmarks.attribution.ground_truth pack RUN SETTING     # RUN: what benchmarks.attribution.lds made
    python -m benchmarks.attribution.ground_truth unpack SETTING
    python attribute.py runs/ground_truth/SETTING evaluate --what lds --name NAME
    python -m benchmarks.attribution.ground_truth cell SETTING [--subset K --seed S]

A setting is shipped as a few compressed files (`benchmarks.attribution.packing`). `unpack` makes a
run folder of them: without members, with codes, queries, scores, influence and losses,
each with its digest. The third command makes the table again, in minutes and from what
is shipped. `cell` trains a model of one subset from scratch, one that chance takes, and
compares its loss at every query with the one on record. For MNIST's table `unpack` also
writes the pictures that all of them look at.

Of the scores, those are shipped that took hours and that a number of the README rests on:
posteriors, and the best single scorers for the queries that they are best for. All
others are in the tables on record, and `python -m benchmarks.attribution.lds FOLDER` scores again.
"""

import argparse
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.attribution import mnist, packing
from ensemble.evaluation import ground_truth, losses, retraining
from ensemble.evaluation.options import Options
from ensemble.evaluation.predictors import TABLES
from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.models.objective import objective_of
from ensemble.provenance import drawing, plans
from ensemble.run import files, manifest, records
from ensemble.run.folder import Run, create, open_run
from ensemble.sampling import queries
from ensemble.scorers.interface import Examples
from ensemble.training.members import train_members
from ensemble.training.process import Stopping
from splits.errors import BadInput

PACKAGES = Path("benchmarks/ground_truth")
# Where packages are unpacked.
FOLDER = Path("runs/ground_truth")
# In an unpacked folder: the manifest of the package that it comes from.
ORIGIN = ".package.json"
# Where the pictures of a setting are written, if the project does not ship them.
MNIST = Path("runs/mnist_14")
PICTURES = {"digits": None, "mnist": MNIST}
# Methods whose scores are shipped, by the name of the queries.
_SHIPPED = ("posterior_ensemble", "posterior", "members", "unlearning_all")
SHIPPED = {
    "held_out": _SHIPPED,
    "generated": (*_SHIPPED, "posterior_displacement", "ekfac_all"),
}
# Facts of a plan that an extracted run must share with its origin.
FACTS = ("data_fingerprint", "source_of_digest", "code_book_digest")


def extract(
    run: Run,
    to: Path,
    pictures: Path | None,
    shipped: Mapping[str, Sequence[str]] | None = None,
) -> Run:
    """Copy what a table needs into a run folder of its own, without members.

    Args:
        run: Where everything was computed.
        to: The new folder, as its config will call it.
        pictures: Where its config will look for pictures; None: the project has them.
        shipped: Methods whose scores are copied, by the name of the queries; None: all.

    Raises:
        BadInput: If the new folder is made from other data or codes.
    """
    data = run.config.data
    if pictures is not None:
        mnist.write(pictures)
        data = dataclasses.replace(data, path=str(pictures))
    made = create(dataclasses.replace(run.config, run=str(to), data=data))
    drawing.prepare(made)
    origin = files.read_json(run.manifest)
    manifest.check_manifest(made, {fact: origin[fact] for fact in FACTS})
    for file in files_of(run, shipped):
        place = to / file.relative_to(run.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    return made


def files_of(
    run: Run, shipped: Mapping[str, Sequence[str]] | None = None
) -> list[Path]:
    """Queries, scores and losses, and of influence the tables that are evaluated."""
    wanted = {"info.json", *(f"{table}.npy" for table in TABLES)}
    found = [*run.path.glob("queries/*/*"), *run.path.glob("evaluation/truth*/*/*")]
    found += [file for file in run.path.glob("influence/**/*") if file.name in wanted]
    for sidecar in run.path.glob("scores/[!.]*/[!.]*.json"):
        method, name = files.read_json(sidecar)["method"], sidecar.parent.name
        if shipped is None or method in shipped.get(name, ()):
            found += sidecar.parent.glob(f"{sidecar.stem}.*")
    return [file for file in found if file.is_file()]


def pack(run: Run, setting: str) -> Path:
    """Ship a run folder without members; returns the package."""
    origin = files.read_json(run.manifest)
    # It is a path of the machine that packs, and no fact about the run.
    origin.pop("working_directory", None)
    files.write_json(run.manifest, origin)
    facts = {"setting": setting, "created": origin["created"]}
    packing.pack(run.path, PACKAGES / setting, {**facts, "commit": origin["commit"]})
    return PACKAGES / setting


def unpacked(setting: str) -> Run:
    """The run folder of a shipped setting, unpacked if it is not there.

    Raises:
        BadInput: If what is there comes from another package, or if the package is
            damaged.
    """
    package, to = PACKAGES / setting, FOLDER / setting
    digest = files.sha256(package / packing.MANIFEST)
    if not to.exists():
        packing.unpack(package, to)
        files.write_json(to / ORIGIN, {"package_sha256": digest})
    elif files.read_json(to / ORIGIN)["package_sha256"] != digest:
        raise BadInput(
            f"{to} was unpacked from another package than {package} holds now. "
            f"Delete {to}, and it is unpacked again."
        )
    return open_run(to)


def cell(
    run: Run, options: Options, subset: int, seed: int, folder: Path
) -> dict[str, Any]:
    """Train the model of a subset again, and compare its losses with the committed.

    Args:
        run: An unpacked run.
        options: Of the truth.
        subset: Which.
        seed: The training seed.
        folder: Where to train.

    Raises:
        BadInput: If the truth has no such subset or seed.
    """
    found = ground_truth.read(run, plans.load(run), options)
    seeds = found.identity["seeds"]
    if seed not in seeds or not 0 <= subset < options.n_subsets:
        raise BadInput(
            f"There is no cell of subset {subset} and seed {seed}: subsets are 0 to "
            f"{options.n_subsets - 1}, seeds {', '.join(map(str, seeds))}."
        )
    models = create(
        retraining.config(run, folder, ground_truth.splits_of(run, options), seed, None)
    )
    ready = drawing.prepare(models)
    train_members(models, [subset], ready, Stopping())
    asked = queries.load(run, options.name)
    pictures = Examples(
        images=torch.from_numpy(asked.images.copy()),
        condition=UNCONDITIONAL,
        keys=torch.from_numpy(asked.seeds.copy()),
    )
    objective = objective_of(models.config.model)
    (again,) = losses.measure(
        [models.member(subset)], objective, pictures, options.n_draws
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
    """With which the truth of an unpacked run was measured."""
    folder = run.evaluation / "truth" / name
    sidecars = [files.read_json(file) for file in records.list_records(folder, ".npy")]
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
    command = commands.add_parser("unpack")
    command.add_argument("setting", choices=PICTURES)
    command = commands.add_parser("cell")
    command.add_argument("setting", choices=PICTURES)
    command.add_argument("--name", default="held_out", help="the queries")
    command.add_argument("--subset", type=int, help="default: chance takes one")
    command.add_argument("--seed", type=int, help="default: chance takes one")
    options = parser.parse_args()
    if options.command == "pack":
        origin, pictures = open_run(options.run), PICTURES[options.setting]
        made = extract(origin, FOLDER / options.setting, pictures, SHIPPED)
        print(f"Packed: {pack(made, options.setting)}")
        return
    run, pictures = unpacked(options.setting), PICTURES[options.setting]
    if pictures is not None:
        mnist.write(pictures)
    if options.command == "unpack":
        print(f"Unpacked: {run.path}")
        return
    torch.set_num_threads(1)
    wanted, rng = options_of(run, options.name), np.random.default_rng()
    seeds = retraining.seeds(run, wanted.n_seeds)
    subset, seed = int(rng.integers(wanted.n_subsets)), int(rng.choice(seeds))
    subset = subset if options.subset is None else options.subset
    seed = seed if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as again:
        found = cell(run, wanted, subset, seed, Path(again) / "run")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
