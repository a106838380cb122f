"""The deletion evaluation: models are trained without the sources that a method names.

For some queries, each method's top sources are removed from the training images
together, and a model is trained on the rest. The same is done with as many random
sources, and with none. Both models have the same training seed and sample from the same
noise, so the comparison shows how much the query's loss rises and how far its picture
moves, in pixels and in features. Only what exceeds random sources speaks for a method.

Where some members never saw the removed sources, the ensemble gives the same numbers by
votes, without training. A rank correlation says how well they predict retraining.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from ensemble.ablation.measurements import denoising_loss_form
from ensemble.ablation.removal_sets import votes_without
from ensemble.data import encoders
from ensemble.evaluation import losses, predictors, retraining, tables
from ensemble.evaluation.metrics import intervals, rank_correlation
from ensemble.evaluation.options import Options
from ensemble.evaluation.predictors import Predictor
from ensemble.evaluation.tables import Row
from ensemble.models.objective import objective_of
from ensemble.provenance.plans import Plan
from ensemble.run.config import SplitsConfig
from ensemble.run.folder import Run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries, on_device
from ensemble.system import seeding
from splits.codes import CodeBook
from splits.errors import BadInput

SEED = 0
RANDOM, NOTHING = "control_random", "nothing"
# Effects of a removal: a model without some sources, minus the model of everything.
EFFECTS = ("loss_rise", "pixel_distance", "feature_distance")


@dataclass(frozen=True, eq=False)
class Removals:
    """Sets of sources that one method removes.

    Attributes:
        method: The method that chose them.
        removed: removed[k, s] is True if set k holds source s.
        query: The query that each set is meant for; -1: all of them.
        top: How many sources each set holds.
    """

    method: str
    removed: Bool[np.ndarray, "sets sources"]
    query: Int64[np.ndarray, " sets"]
    top: Int64[np.ndarray, " sets"]

    def about(self, query: int, top: int) -> Int64[np.ndarray, " some"]:
        """The sets of that size that are meant for a query."""
        meant = (self.query == query) | (self.query == -1)
        return np.flatnonzero(meant & (self.top == top))


def top_sources(method: Predictor, top: Sequence[int], n_queries: int) -> Removals:
    """The sources with a method's highest scores, for each query."""
    order = np.argsort(-method.score[:n_queries], axis=1, kind="stable")
    sets = [(query, k) for query in range(n_queries) for k in top]
    removed = np.zeros((len(sets), order.shape[1]), dtype=bool)
    for row, (query, k) in zip(removed, sets, strict=True):
        row[order[query, :k]] = True
    query, size = np.array(sets, dtype=np.int64).T
    return Removals(method.method, removed, query, size)


def random_sources(n_sources: int, top: Sequence[int], n_random: int) -> Removals:
    """Random sources: the same sets for all queries."""
    sizes = np.repeat(np.array(top, dtype=np.int64), n_random)
    removed = np.zeros((len(sizes), n_sources), dtype=bool)
    for number, (row, k) in enumerate(zip(removed, sizes, strict=True)):
        rng = seeding.rng(SEED, "random removal", int(k), number % n_random)
        row[rng.permutation(n_sources)[:k]] = True
    return Removals(RANDOM, removed, np.full(len(sizes), -1, dtype=np.int64), sizes)


def no_sources(n_sources: int) -> Removals:
    """The removal of nothing, which gives the model of everything."""
    none = np.zeros(1, dtype=np.int64)
    return Removals(NOTHING, np.zeros((1, n_sources), dtype=bool), none - 1, none)


def work(run: Run, plan: Plan, options: Options) -> str:
    """Describe in one line what has to be trained."""
    removals, _ = _all_removals(run, plan, options)
    n_sets = 1 + sum(len(one.removed) for one in removals)
    steps = options.steps or run.config.training.steps
    return (
        f"{n_sets} sets of sources x {options.n_seeds} seeds x {steps} steps = "
        f"{n_sets * options.n_seeds * steps:,} steps of training, less what is trained "
        "already"
    )


def evaluate(run: Run, pipe: EnsemblePipeline, plan: Plan, options: Options) -> Path:
    """Remove the sources that every method names; returns the table's file.

    Raises:
        BadInput: If more sources are to be removed than leave one.
    """
    removals, digests = _all_removals(run, plan, options)
    asked = _first(queries.load(run, options.name), options.n_queries)
    seeds = retraining.seeds(run, options.n_seeds)
    path = tables.file(run, "deletion", options.name)
    identity = {
        **asked.facts(),
        "code_book_digest": plan.codes.digest(),
        "weights_digest": queries.membership_of(run, pipe).weights_digest,
        "methods": digests,
        "seeds": seeds,
        "steps": options.steps or run.config.training.steps,
        "top": list(options.top),
        "n_random": options.n_random,
        "n_draws": options.n_draws,
    }
    if tables.is_current(path, identity):
        return path
    experiment = DeletionExperiment(run, pipe, plan, options, asked)
    found = {
        one.method: np.stack(
            [experiment.effects_of_retraining(one, seed) for seed in seeds]
        )
        for one in removals
    }
    effects_by_votes = {
        one.method: experiment.effects_by_votes(one) for one in removals
    }
    rows = [
        row
        for one in removals
        for row in rows_of(one, found[one.method], removals[0], found[RANDOM])
    ]
    facts = {
        "n_queries": len(asked.seeds),
        "n_seeds": len(seeds),
        "encoder": f"hidden layer of a small network, taught {experiment.encoder.taught}",
        "votes": agreement(removals, found, effects_by_votes),
    }
    tables.write(path, identity, rows, facts)
    return path


class DeletionExperiment:
    """Trains models without sources, and compares them with the model of everything.

    Args:
        run: The run folder.
        pipe: The ensemble.
        plan: Sources and codes.
        options: How much to train and to measure.
        asked: The queries.
    """

    def __init__(
        self,
        run: Run,
        pipe: EnsemblePipeline,
        plan: Plan,
        options: Options,
        asked: Queries,
    ) -> None:
        self.run, self.pipe, self.plan = run, pipe, plan
        self.options, self.asked = options, asked
        self.encoder = encoders.train(np.asarray(plan.data.images), plan.data.labels)
        self.objective = objective_of(run.config.model)
        self.no_sources = no_sources(plan.codes.n_sources)
        self.full: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def effects_of_retraining(
        self, removals: Removals, seed: int
    ) -> Float64[np.ndarray, "effects sets queries"]:
        """Effects of training without each set, on every query."""
        if seed not in self.full:
            self.full[seed] = self._measured(self.no_sources, seed)
        full_loss, full_pictures = self.full[seed]
        loss, pictures = self._measured(removals, seed)
        return self._effects(loss - full_loss, pictures, full_pictures[0])

    def effects_by_votes(
        self, removals: Removals
    ) -> Float64[np.ndarray, "effects sets queries"]:
        """Effects of ablating each set by votes; NaN where no member is left."""
        members = self.pipe.members
        codes = self.plan.seen_by(members.member_ids)
        deactivated = np.stack([codes[row].any(axis=0) for row in removals.removed])
        left = ~np.all(deactivated, axis=1, keepdims=True)[:, 0]
        form = denoising_loss_form(
            members,
            self.objective,
            on_device(self.pipe, self.asked.images),
            self.asked.condition(self.pipe),
            self.options.n_draws,
        ).numpy()
        found = np.full((len(EFFECTS), len(left), len(form)), np.nan)
        if not left.any():
            return found
        votes = votes_without(deactivated[left])
        loss = np.einsum("vm,qmn,vn->vq", votes, form, votes, dtype=np.float64)
        rise = loss - form.mean(axis=(1, 2), dtype=np.float64)
        pictures = np.stack([self._pictures(self.pipe, row) for row in votes])
        found[:, left] = self._effects(rise, pictures, self.asked.images)
        return found

    def _measured(self, removals: Removals, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Losses (sets, queries) and pictures of the models without each set."""
        kept = ~removals.removed.T
        digest = CodeBook(kept).digest()[:8]
        folder = self.run.evaluation / "deletion" / f"{removals.method}-{digest}"
        wanted = retraining.config(
            self.run,
            folder / f"seed-{seed}",
            SplitsConfig(retraining.GIVEN, kept.shape[1]),
            seed,
            self.options.steps,
        )
        models = retraining.train(self.plan, kept, wanted)
        loss = losses.measure(
            [models.member(number) for number in range(kept.shape[1])],
            self.objective,
            losses.examples_of(self.pipe, self.asked),
            self.options.n_draws,
            self.pipe.members.side_by_side,
        )
        pictures = [
            self._pictures(
                retraining.model_alone(models, number, self.pipe), np.ones(1)
            )
            for number in range(kept.shape[1])
        ]
        return loss, np.stack(pictures)

    def _pictures(
        self, pipe: EnsemblePipeline, votes: Float[np.ndarray, " members"]
    ) -> Float32[np.ndarray, "queries channels height width"]:
        """The pictures that these votes sample from the queries' own noise.

        Held-out queries have no noise, so their pictures are NaN.
        """
        if self.asked.held_out:
            return np.full_like(self.asked.images, np.nan)
        return queries.sampled_again(pipe, self.asked, votes)

    def _effects(
        self,
        rise: Float64[np.ndarray, "sets queries"],
        pictures: Float32[np.ndarray, "sets queries channels height width"],
        full: Float32[np.ndarray, "queries channels height width"],
    ) -> Float64[np.ndarray, "effects sets queries"]:
        before = self.encoder(full)
        apart = [
            np.linalg.norm(self.encoder(some) - before, axis=1) for some in pictures
        ]
        return np.stack([rise, queries.distance(pictures, full), np.stack(apart)])


def rows_of(
    one: Removals,
    found: Float64[np.ndarray, "seeds effects sets queries"],
    control: Removals,
    of_control: Float64[np.ndarray, "seeds effects controls queries"],
) -> list[Row]:
    """The effects of a method's removals of each size, and their excess over random."""
    rows = []
    for top in np.unique(one.top).tolist():
        row: Row = {"method": one.method, "top": top}
        own = _of_own_queries(one, top, found)
        random = _of_own_queries(control, top, of_control)
        for number, effect in enumerate(EFFECTS):
            row[effect] = interval(own[:, number])
            if one is not control:
                row[f"{effect}_beyond_random"] = interval(
                    own[:, number] - random[:, number]
                )
        rows.append(row)
    return rows


def interval(
    values: Float64[np.ndarray, "seeds queries"],
) -> dict[str, float | None]:
    """The mean over seeds and queries, with an interval that resamples both."""
    rng = seeding.rng(SEED, "resamples of seeds and queries")
    n_seeds, n_queries = values.shape
    seeds = rng.integers(n_seeds, size=(intervals.N_RESAMPLES, n_seeds))
    chosen = rng.integers(n_queries, size=(intervals.N_RESAMPLES, n_queries))
    samples = values[seeds[:, :, None], chosen[:, None, :]].mean(axis=(1, 2))
    return intervals.described(float(values.mean()), samples)


def agreement(
    removals: Sequence[Removals],
    found: dict[str, Float64[np.ndarray, "seeds effects sets queries"]],
    effects_by_votes: dict[str, Float64[np.ndarray, "effects sets queries"]],
) -> dict[str, Any]:
    """Rank correlation of effects by votes with effects of training again.

    Over all sets, each with the queries that it is meant for; intervals over queries.
    """
    n_queries = found[RANDOM].shape[3]
    facts: dict[str, Any] = {
        "n_sets": sum(len(one.removed) for one in removals),
        "sets_that_leave_no_member": sum(
            int(np.isnan(table[0, :, 0]).sum()) for table in effects_by_votes.values()
        ),
    }
    for number, effect in enumerate(EFFECTS):
        pairs = [
            _pairs(removals, found, effects_by_votes, number, q)
            for q in range(n_queries)
        ]
        # Held-out queries have a loss only.
        facts.setdefault("n_pairs", sum(pair.shape[1] for pair in pairs))
        rng = seeding.rng(SEED, "resamples of queries")

        def spearman(chosen: np.ndarray, of: list[np.ndarray] = pairs) -> float:
            guess, truth = np.concatenate([of[query] for query in chosen], axis=1)
            if len(guess) < 2:
                return np.nan
            return float(rank_correlation.rank_correlation(guess[None], truth[None])[0])

        facts[effect] = intervals.bootstrap(spearman, n_queries, rng)
    return facts


def _pairs(
    removals: Sequence[Removals],
    found: dict[str, np.ndarray],
    effects_by_votes: dict[str, np.ndarray],
    effect: int,
    query: int,
) -> Float64[np.ndarray, "2 pairs"]:
    """Effects on a query by votes, and of training again, of sets meant for it."""
    both = []
    for one in removals:
        meant = (one.query == query) | (one.query == -1)
        guess = effects_by_votes[one.method][effect, meant, query]
        truth = found[one.method].mean(axis=0)[effect, meant, query]
        both.append(np.stack([guess, truth]))
    pairs = np.concatenate(both, axis=1)
    return pairs[:, np.isfinite(pairs[0])]


def _of_own_queries(
    one: Removals, top: int, found: np.ndarray
) -> Float64[np.ndarray, "seeds effects queries"]:
    """Mean over the sets of that size that are meant for each query."""
    return np.stack(
        [
            found[:, :, one.about(query, top), query].mean(axis=2)
            for query in range(found.shape[3])
        ],
        axis=2,
    )


def _all_removals(
    run: Run, plan: Plan, options: Options
) -> tuple[list[Removals], dict[str, str]]:
    """Random removals first, then every method's; and the methods' digests."""
    n_sources = plan.codes.n_sources
    if max(options.top) >= n_sources:
        raise BadInput(
            f"--top has {max(options.top)}, and there are {n_sources} sources: remove "
            "fewer, so that some are left to train on."
        )
    asked = queries.load(run, options.name)
    n_queries = min(options.n_queries, len(asked.seeds))
    methods = predictors.find(run, options.name, options.methods)
    removals = [random_sources(n_sources, options.top, options.n_random)]
    removals += [top_sources(method, options.top, n_queries) for method in methods]
    return removals, {method.method: method.digest for method in methods}


def _first(asked: Queries, n_queries: int) -> Queries:
    conditions = None if asked.conditions is None else asked.conditions[:n_queries]
    return Queries(
        asked.seeds[:n_queries],
        conditions,
        asked.images[:n_queries],
        asked.held_out,
    )
