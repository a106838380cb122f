"""The ground truth of the linear datamodeling score: models of half of the sources.

Subsets are of one size and drawn at random, the code book's design `random_subsets`.
On each of them a model is trained with each of several seeds, and it is measured at
every query: its loss, or how far from the query the picture lies that it samples from
the same noise. These are small arrays, `evaluation/truth/NAME/seed-S.npy` of losses,
`evaluation/truth_displacement/NAME/seed-S.npy`; where they are, nothing is trained.
If more subsets are asked for later, the first ones are kept, and `seed-S-from-N.npy`
holds those from the N-th on; if fewer are asked for, the first ones are read.
(Park et al. 2023, https://arxiv.org/abs/2303.14186)
"""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from tqdm.auto import tqdm

from ensemble.evaluation import losses, retraining, tables
from ensemble.evaluation.options import Options
from ensemble.models.objective import objective_of
from ensemble.provenance.plans import Plan
from ensemble.run import files, query_names
from ensemble.run.config import SplitsConfig
from ensemble.run.folder import Run, open_run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.system import environment
from splits.codes import CodeBook
from splits.designs import registry
from splits.errors import BadInput


@dataclass(frozen=True, eq=False)
class Truth:
    """What is measured at the queries of models that were trained on subsets.

    Attributes:
        subsets: subsets[s, k] is True if subset k holds source s.
        losses: Mean loss at each query of the model of each subset and seed, or
            another measure.
        identity: What was measured, and how.
    """

    subsets: Bool[np.ndarray, "sources subsets"]
    losses: Float64[np.ndarray, "seeds queries subsets"]
    identity: dict[str, Any]

    @property
    def mean(self) -> Float64[np.ndarray, "queries subsets"]:
        """Mean over the seeds."""
        return self.losses.mean(axis=0)


def find(run: Run, pipe: EnsemblePipeline, plan: Plan, options: Options) -> Truth:
    """Read the truth; train and measure what is missing.

    Raises:
        BadInput: If what is there was made with other options, or for other queries.
    """
    asked = queries.load(run, options.name)
    # Before hours of training: what cannot be measured is refused.
    _wanted(run, plan, options, asked)
    rows = {}
    for seed in retraining.seeds(run, options.n_seeds):
        # What fits is found before hours are spent on the rest, or on the next seed.
        rows[seed] = _read(run, plan, options, asked, seed)
        while (first := rows[seed].shape[1]) < options.n_subsets:
            _extend(run, pipe, plan, options, asked, seed, first)
            rows[seed] = _read(run, plan, options, asked, seed)
    return _joined(run, plan, options, asked, rows)


def read(run: Run, plan: Plan, options: Options) -> Truth:
    """Read the truth; all of it must have been measured.

    Raises:
        BadInput: If it was not, or with other options, or for other queries.
    """
    missing = work(run, options)
    if missing:
        raise BadInput(
            f"{_folder(run, options)} lacks {missing}. The "
            "evaluation `lds` trains and measures them."
        )
    asked = queries.load(run, options.name)
    seeds = retraining.seeds(run, options.n_seeds)
    rows = {seed: _read(run, plan, options, asked, seed) for seed in seeds}
    return _joined(run, plan, options, asked, rows)


def _joined(
    run: Run,
    plan: Plan,
    options: Options,
    asked: Queries,
    rows: dict[int, Float64[np.ndarray, "queries subsets"]],
) -> Truth:
    book, identity = _wanted(run, plan, options, asked)
    losses_of_seeds = np.stack(list(rows.values()))
    return Truth(book.bits, losses_of_seeds, {**identity, "seeds": list(rows)})


def work(run: Run, options: Options) -> str:
    """Describe in one line what has to be trained; empty if nothing has."""
    seeds = retraining.seeds(run, options.n_seeds)
    missing = sum(
        max(0, options.n_subsets - _n_measured(run, options, seed)) for seed in seeds
    )
    steps = options.steps or run.config.training.steps
    if not missing:
        return ""
    return (
        f"{missing} models of subsets x {steps} steps = {missing * steps:,} steps of "
        "training, less what is trained already"
    )


def no_fewer(run: Run, options: Options) -> Options:
    """The same options, with all subsets that every seed has measured already."""
    seeds = retraining.seeds(run, options.n_seeds)
    measured = min(_n_measured(run, options, seed) for seed in seeds)
    return dataclasses.replace(options, n_subsets=max(options.n_subsets, measured))


def _n_measured(run: Run, options: Options, seed: int) -> int:
    """Subsets, in a row, of which the model with this seed is measured."""
    return max((last for _, last in _parts(run, options, seed)), default=0)


def splits_of(run: Run, options: Options) -> SplitsConfig:
    """How the subsets are drawn."""
    # Another seed than the run's: its members must not have seen these very subsets.
    seed = run.config.splits.seed + 1
    return SplitsConfig("random_subsets", options.n_subsets, seed=seed)


def _wanted(
    run: Run, plan: Plan, options: Options, asked: Queries
) -> tuple[CodeBook, dict[str, Any]]:
    """The subsets, and what must be on record of each seed's losses."""
    splits, n_sources = splits_of(run, options), plan.codes.n_sources
    book = registry.draw(splits.design, n_sources, splits.n_members, seed=splits.seed)
    how: dict[str, Any] = {"measure": options.measure, "n_draws": options.n_draws}
    if options.measure != "loss":
        queries.require_noise(asked)
        sampling = dataclasses.asdict(run.config.sampling)
        how = {"measure": options.measure, "sampling": sampling}
    return book, {
        "n_subsets": options.n_subsets,
        "steps": options.steps or run.config.training.steps,
        **how,
        **asked.facts(),
        "code_book_digest": book.digest(),
    }


def _parts(run: Run, options: Options, seed: int) -> Iterator[tuple[Path, int]]:
    """Files of a seed, each with the subset that the next one begins with."""
    first = 0
    while (file := _file(run, options, seed, first)).with_suffix(".json").exists():
        last = files.read_json(file.with_suffix(".json"))["n_subsets"]
        yield file, last
        first = last


def _folder(run: Run, options: Options) -> Path:
    """Where the truth is written, one folder for what is measured of which queries."""
    kind = "truth" if options.measure == "loss" else f"truth_{options.measure}"
    return run.evaluation / kind / query_names.checked(options.name)


def _file(run: Run, options: Options, seed: int, first: int) -> Path:
    """What is measured of a seed, from that subset on.

    Version 0.1 kept displacements in `truth/NAME-displacement`, which is also where it
    kept the losses of queries that are called so. They are read there.
    """
    called = f"{_name(seed, first)}.npy"
    file = _folder(run, options) / called
    if options.measure == "loss" or file.exists():
        return file
    before = run.evaluation / "truth" / f"{options.name}-{options.measure}" / called
    record = before.with_suffix(".json")
    if record.exists() and files.read_json(record).get("measure") == options.measure:
        return before
    return file


def _name(seed: int, first: int) -> str:
    """Of what begins with this subset."""
    return f"seed-{seed}-from-{first}" if first else f"seed-{seed}"


def _extend(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    options: Options,
    asked: Queries,
    seed: int,
    first: int,
) -> None:
    """Train models of the subsets from the first on, and measure them."""
    folder = run.evaluation / "subsets" / _name(seed, first)
    if (folder / "config.yaml").exists():
        # As many as were begun there: when something else was measured, say.
        begun = open_run(folder).config.splits.n_members
        options = dataclasses.replace(options, n_subsets=min(begun, options.n_subsets))
    book, identity = _wanted(run, plan, options, asked)
    splits = splits_of(run, options)
    wanted = retraining.config(run, folder, splits, seed, options.steps)
    models = retraining.train(plan, book.bits, wanted, first)
    found = _measured(models, pipe, asked, options, range(first, options.n_subsets))
    file = _folder(run, options) / f"{_name(seed, first)}.npy"
    digest = files.write_array(file, found.T)
    facts = {**identity, "training_seed": seed, "commit": environment.commit()}
    files.write_json(file.with_suffix(".json"), {**facts, "sha256": digest})


def _measured(
    models: Run,
    pipe: EnsemblePipeline,
    asked: Queries,
    options: Options,
    subsets: range,
) -> Float64[np.ndarray, "subsets queries"]:
    if options.measure == "loss":
        return losses.measure(
            [models.member(subset) for subset in subsets],
            objective_of(models.config.model),
            losses.examples_of(pipe, asked),
            options.n_draws,
            pipe.members.side_by_side,
        )
    return _displacements(models, pipe, asked, subsets)


def _displacements(
    models: Run, pipe: EnsemblePipeline, asked: Queries, subsets: range
) -> Float64[np.ndarray, "subsets queries"]:
    """Root mean squared difference of each model's picture of a query's noise."""

    def of_subset(subset: int) -> Float64[np.ndarray, " queries"]:
        alone = retraining.model_alone(models, subset, pipe)
        pictures = queries.sampled_again(alone, asked, np.ones(1))
        return queries.distance(pictures, asked.images)

    with ThreadPoolExecutor(pipe.members.side_by_side) as pool:
        rows = pool.map(of_subset, subsets)
        bar = tqdm(
            rows, total=len(subsets), desc="sampling", unit=" models", disable=None
        )
        return np.stack(list(bar))


def _read(
    run: Run, plan: Plan, options: Options, asked: Queries, seed: int
) -> Float64[np.ndarray, "queries subsets"]:
    """What is measured of the subsets so far, in a row."""
    rows = [np.empty((len(asked.images), 0))]
    for file, last in _parts(run, options, seed):
        part = dataclasses.replace(options, n_subsets=last)
        _, identity = _wanted(run, plan, part, asked)
        sidecar = files.read_json(file.with_suffix(".json"))
        tables.require_same(file, sidecar, identity)
        rows.append(files.read_array(file, sidecar["sha256"]))
    return np.concatenate(rows, axis=1)[:, : options.n_subsets]
