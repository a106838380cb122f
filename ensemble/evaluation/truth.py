"""The truth of the linear datamodeling score: what models of half of the sources do.

Subsets are of one size and drawn at random, the code book's design `random_subsets`.
On each of them a model is trained with each of several seeds, and it is measured at
every query: its loss, or how far from the query the picture lies that it samples from
the same noise. These are small arrays, `evaluation/truth/NAME/seed-S.npy` of losses,
`evaluation/truth/NAME-displacement/seed-S.npy`; where they are, nothing is trained.
(Park et al. 2023, https://arxiv.org/abs/2303.14186)

Before: retraining.py, losses.py. After: lds.py.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from tqdm.auto import tqdm

from ensemble import queries, store
from ensemble.config import SplitsConfig
from ensemble.evaluation import losses, retraining, tables
from ensemble.evaluation.options import Options
from ensemble.model import noise_schedule
from ensemble.pipeline import EnsemblePipeline
from ensemble.plan import Plan
from ensemble.queries import Queries
from ensemble.store import Run
from splits import designs
from splits.codes import CodeBook


@dataclass(frozen=True, eq=False)
class Truth:
    """What models of subsets make of the queries.

    Attributes:
        subsets: subsets[s, k] is True if subset k holds source s.
        losses: Mean loss at each query of the model that each seed makes of each
            subset, or what else was measured there.
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
    book, identity = _wanted(run, plan, options, asked)
    rows = {}
    for seed, file in _files(run, options).items():
        if not _is_measured(file):
            wanted = retraining.config(
                run,
                run.evaluation / "subsets" / f"seed-{seed}",
                splits_of(run, options),
                seed,
                options.steps,
            )
            models = retraining.train(plan, book.bits, wanted)
            _measure(models, pipe, asked, options, file, identity)
        # What fits is found before hours are spent on the next seed.
        rows[seed] = _read(file, identity)
    return _joined(book, rows, identity)


def read(run: Run, plan: Plan, options: Options) -> Truth:
    """Read the truth; all of it must have been measured.

    Raises:
        BadInput: If it was not, or with other options, or for other queries.
    """
    asked = queries.load(run, options.name)
    book, identity = _wanted(run, plan, options, asked)
    files = _files(run, options)
    rows = {seed: _read(file, identity) for seed, file in files.items()}
    return _joined(book, rows, identity)


def _joined(
    book: CodeBook,
    rows: dict[int, Float64[np.ndarray, "queries subsets"]],
    identity: dict[str, Any],
) -> Truth:
    losses_of_seeds = np.stack(list(rows.values()))
    return Truth(book.bits, losses_of_seeds, {**identity, "seeds": list(rows)})


def work(run: Run, options: Options) -> str:
    """What is still to be trained, in a line; empty if nothing is."""
    files = _files(run, options).values()
    missing = [file for file in files if not _is_measured(file)]
    steps = options.steps or run.config.training.steps
    shown = len(missing) * options.n_subsets * steps
    if not missing:
        return ""
    return (
        f"{options.n_subsets} subsets x {len(missing)} seeds x {steps} steps = "
        f"{shown:,} steps of training, less what is trained already"
    )


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
    book = designs.draw(splits.design, n_sources, splits.n_members, seed=splits.seed)
    how: dict[str, Any] = {"n_draws": options.n_draws}
    if options.measure != "loss":
        # Before hours of training.
        queries.require_noise(asked)
        sampling = dataclasses.asdict(run.config.sampling)
        how = {"measure": options.measure, "sampling": sampling}
    return book, {
        "n_subsets": options.n_subsets,
        "steps": options.steps or run.config.training.steps,
        **how,
        "queries_digest": store.array_digest(asked.images),
        "code_book_digest": book.digest(),
    }


def _files(run: Run, options: Options) -> dict[int, Path]:
    """Where the losses of each seed are, or what else is measured."""
    folder = run.evaluation / "truth" / options.called
    seeds = retraining.seeds(run, options.n_seeds)
    return {seed: folder / f"seed-{seed}.npy" for seed in seeds}


def _is_measured(file: Path) -> bool:
    return file.with_suffix(".json").exists()


def _measure(
    models: Run,
    pipe: EnsemblePipeline,
    asked: Queries,
    options: Options,
    file: Path,
    identity: dict[str, Any],
) -> None:
    if options.measure == "loss":
        found = losses.measure(
            [models.member(subset) for subset in range(options.n_subsets)],
            noise_schedule(models.config.model),
            losses.examples_of(pipe, asked),
            options.n_draws,
            pipe.members.side_by_side,
        )
    else:
        found = _displacements(models, pipe, asked, options.n_subsets)
    digest = store.write_array(file, found.T)
    seed = models.config.training.seed
    facts = {**identity, "training_seed": seed, "commit": store.commit()}
    store.write_json(file.with_suffix(".json"), {**facts, "sha256": digest})


def _displacements(
    models: Run, pipe: EnsemblePipeline, asked: Queries, n_subsets: int
) -> Float64[np.ndarray, "subsets queries"]:
    """Root mean squared difference of each model's picture of a query's noise."""

    def of_subset(subset: int) -> Float64[np.ndarray, " queries"]:
        alone = retraining.model_alone(models, subset, pipe)
        pictures = queries.sampled_again(alone, asked, np.ones(1))
        return queries.distance(pictures, asked.images)

    with ThreadPoolExecutor(pipe.members.side_by_side) as pool:
        rows = pool.map(of_subset, range(n_subsets))
        bar = tqdm(rows, total=n_subsets, desc="sampling", unit=" models", disable=None)
        return np.stack(list(bar))


def _read(
    file: Path, identity: dict[str, Any]
) -> Float64[np.ndarray, "queries subsets"]:
    sidecar = store.read_json(file.with_suffix(".json"))
    tables.require_same(file, sidecar, identity)
    return store.read_array(file, sidecar["sha256"])
