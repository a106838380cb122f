"""The linear datamodeling score, with a ceiling, controls and intervals.

A score predicts the loss of a model of a subset by minus the sum over the sources that
the subset holds. The LDS is the rank correlation of that with the loss that such models
really have, over subsets, mean over queries; on request with their displacement in the
place of their loss. (Park et al. 2023, https://arxiv.org/abs/2303.14186)

Subset models differ by their seeds too, so even a perfect predictor stays below a
*ceiling*, and the LDS is also told as a share of it. Where a method's damping is
chosen, one half of the subsets chooses and the other half reports; the *oracle* chooses
on the half that reports, as published tables do.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from ensemble.evaluation import ground_truth, predictors, tables
from ensemble.evaluation.ground_truth import Truth
from ensemble.evaluation.metrics import intervals, rank_correlation
from ensemble.evaluation.metrics.rank_correlation import Resamples
from ensemble.evaluation.options import Options
from ensemble.evaluation.predictors import Predictor
from ensemble.evaluation.tables import Row
from ensemble.provenance.plans import Plan
from ensemble.run.folder import Run
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.scorers import READOUTS
from ensemble.system import seeding

SEED = 0


def predicted_losses(
    score: Float[np.ndarray, "queries sources"],
    subsets: Bool[np.ndarray, "sources subsets"],
) -> Float64[np.ndarray, "queries subsets"]:
    """Minus the sum of the scores of the sources that a subset holds.

    Subsets are of one size, so adding a constant to a query's scores changes no rank.
    Their median is taken off: equal scores then predict exactly equal losses.
    """
    exact = score.astype(np.float64)
    return -(exact - np.median(exact, axis=1, keepdims=True)) @ subsets


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Mean losses as they are and resampled: how an LDS gets its interval.

    Attributes:
        losses: Mean loss of the models of each subset.
        drawn: Resamples of subsets and queries, the same for every predictor, so that
            differences between predictors have intervals too.
        ceilings: Correlation that a perfect predictor reaches: as it is, and in each
            resample; None with a single seed.
    """

    losses: Float64[np.ndarray, "queries subsets"]
    drawn: Resamples
    ceilings: tuple[float, Float64[np.ndarray, " resamples"]] | None

    def lds(
        self, predicted: Float[np.ndarray, "queries subsets"]
    ) -> tuple[float, Float64[np.ndarray, " resamples"]]:
        """The LDS, as it is and in each resample."""
        value = float(rank_correlation.rank_correlation(predicted, self.losses).mean())
        return value, rank_correlation.resampled(predicted, self.losses, self.drawn)

    def row(self, predicted: Float[np.ndarray, "queries subsets"]) -> Row:
        """The LDS with its interval, and as a share of the ceiling."""
        return self.described(*self.lds(predicted))

    def described(
        self, value: float, samples: Float64[np.ndarray, " resamples"]
    ) -> Row:
        """An LDS with its interval, and as a share of the ceiling."""
        row: Row = {"lds": intervals.described(value, samples)}
        if self.ceilings is not None:
            ceiling, ceilings = self.ceilings
            share = value / ceiling if ceiling > 0 else np.nan
            shares = np.full_like(samples, np.nan)
            np.divide(samples, ceilings, out=shares, where=ceilings > 0)
            row["share_of_ceiling"] = intervals.described(share, shares)
        return row


def bootstrap(found: Truth, n_resamples: int = intervals.N_RESAMPLES) -> Bootstrap:
    """Resample a truth."""
    n_seeds, n_queries, n_subsets = found.losses.shape
    rng = seeding.rng(SEED, "resamples of subsets and queries")
    drawn = rank_correlation.resamples(n_subsets, n_queries, n_resamples, rng)
    ceilings = None
    if n_seeds > 1:
        once = rank_correlation.as_they_are(n_subsets, n_queries)
        value, samples = (
            rank_correlation.ceiling(
                rank_correlation.reliability(found.losses, some), n_seeds
            )
            for some in (once, drawn)
        )
        ceilings = (float(value[0]), samples)
    return Bootstrap(found.mean, drawn, ceilings)


def rows_of(
    found: Truth, strapped: Bootstrap, methods: Sequence[Predictor]
) -> list[Row]:
    """Every method with every read-out."""
    return [
        {
            "method": method.method,
            "kind": method.kind,
            "readout": readout,
            **strapped.row(predicted_losses(read(method.score), found.subsets)),
            "seconds": method.seconds,
            "peak_memory_bytes": method.facts.get("own_peak_memory_bytes"),
        }
        for method in methods
        for readout, read in READOUTS.items()
    ]


def controls(found: Truth, strapped: Bootstrap) -> list[Row]:
    """Control rows: two predictors without information, and one exact retraining."""
    n_sources, n_queries = len(found.subsets), len(strapped.losses)
    rng = seeding.rng(SEED, "random scores")
    blind = {
        "random": rng.standard_normal((n_queries, n_sources)),
        "constant": np.ones((n_queries, n_sources)),
    }
    rows = [
        {
            "method": f"control_{name}",
            "kind": "control",
            "readout": "raw",
            **strapped.row(predicted_losses(score, found.subsets)),
        }
        for name, score in blind.items()
    ]
    if len(found.losses) > 1:
        once = rank_correlation.as_they_are(found.losses.shape[2], n_queries)
        value = float(rank_correlation.exact_retraining(found.losses, once)[0])
        samples = rank_correlation.exact_retraining(found.losses, strapped.drawn)
        lds = {"lds": intervals.described(value, samples)}
        # Its target is the mean of one seed less, so its share of this ceiling would
        # not compare.
        name = {"method": "control_exact_retraining", "kind": "control"}
        rows.append({**name, "readout": "raw", **lds})
    return rows


def chosen_dampings(
    found: Truth, methods: Sequence[Predictor], rng: np.random.Generator
) -> list[Row]:
    """Methods that scored at several dampings: the chosen one, and the oracle's.

    Args:
        found: The truth.
        methods: Scores; those at a single damping are left out.
        rng: Halves the subsets.
    """
    n_subsets = found.subsets.shape[1]
    order = rng.permutation(n_subsets)
    choosing, reporting = (
        of_subsets(found, np.sort(half)) for half in np.split(order, [n_subsets // 2])
    )
    strapped = bootstrap(reporting)
    rows = []
    for method in methods:
        dampings = list(method.path)
        if len(dampings) < 2:
            continue
        for readout, read in READOUTS.items():
            scores = [read(method.path[damping]) for damping in dampings]
            best, oracle = (
                int(np.argmax([_lds(score, half) for score in scores]))
                for half in (choosing, reporting)
            )
            rows.append(
                {
                    "method": method.method,
                    "readout": readout,
                    "n_dampings": len(dampings),
                    "damping": dampings[best],
                    **strapped.row(predicted_losses(scores[best], reporting.subsets)),
                    "oracle_damping": dampings[oracle],
                    "oracle_lds": _lds(scores[oracle], reporting),
                }
            )
    return rows


def against_best(
    found: Truth, strapped: Bootstrap, methods: Sequence[Predictor]
) -> list[Row]:
    """Methods that combine scores with measurements, minus the best single scorer.

    The best single scorer is chosen, with read-out and damping, on the subsets that are
    reported, which favours it. It uses no more networks than the combination does. Both
    are resampled together, so the interval is that of their difference.
    """
    singles = [
        (method, readout, damping, read(score))
        for method in methods
        if method.single
        for damping, score in (method.path or {None: method.score}).items()
        for readout, read in READOUTS.items()
    ]
    values = [_lds(score, found) for *_, score in singles]

    # Several combinations have the same rival.
    @functools.cache
    def of_rival(number: int) -> tuple[float, Float64[np.ndarray, " resamples"]]:
        return strapped.lds(predicted_losses(singles[number][-1], found.subsets))

    rows = []
    for method in methods:
        numbers = [
            number for number, one in enumerate(singles) if _no_dearer(one[0], method)
        ]
        if not method.combined or not numbers:
            continue
        best = max(numbers, key=values.__getitem__)
        rival, readout, damping, _ = singles[best]
        value, samples = strapped.lds(predicted_losses(method.score, found.subsets))
        theirs, their_samples = of_rival(best)
        row = {
            "method": method.method,
            **strapped.described(value, samples),
            "best_single": rival.method,
            "n_networks": rival.n_networks,
            "readout": readout,
            "damping": damping,
            "best_single_lds": theirs,
            "difference": intervals.described(value - theirs, samples - their_samples),
        }
        rows.append(row)
    return rows


def _no_dearer(one: Predictor, other: Predictor) -> bool:
    """Whether it uses no more networks; an unknown number counts as no more."""
    mine, theirs = one.n_networks, other.n_networks
    return mine is None or theirs is None or mine <= theirs


def work(run: Run, plan: Plan, options: Options) -> str:
    """Describe in one line what has to be trained; empty if nothing has."""
    del plan
    return ground_truth.work(run, options)


def evaluate(run: Run, pipe: EnsemblePipeline, plan: Plan, options: Options) -> Path:
    """Compare everything that predicts for these queries; returns the table's file."""
    predictors.score_again(
        run, pipe, plan, options.name, options.methods, options.dampings
    )
    # Before hours of training: what is asked for must be there.
    methods = predictors.find(run, options.name, options.methods)
    return _tabled(run, options, methods, ground_truth.find(run, pipe, plan, options))


def on_record(run: Run, plan: Plan, options: Options) -> Path | None:
    """The same where no model is needed for it, not even the members; else None."""
    if options.dampings or ground_truth.work(run, options):
        return None
    methods = predictors.find(run, options.name, options.methods)
    return _tabled(run, options, methods, ground_truth.read(run, plan, options))


def file_of(run: Run, options: Options) -> Path:
    """Where the table is kept: each measure has a file of its own."""
    what = "lds" if options.measure == "loss" else f"lds_{options.measure}"
    return tables.file(run, what, options.name)


def _tabled(
    run: Run, options: Options, methods: Sequence[Predictor], found: Truth
) -> Path:
    path = file_of(run, options)
    identity = {
        "truth": found.identity,
        "methods": {method.method: method.digest for method in methods},
    }
    if not tables.is_current(path, identity):
        strapped = bootstrap(found)
        rows = rows_of(found, strapped, methods)
        rng = seeding.rng(SEED, "halves of the subsets")
        facts = {
            **reliability_facts(found, strapped),
            "dampings": chosen_dampings(found, methods, rng),
            "against_best": against_best(found, strapped, methods),
        }
        tables.write(path, identity, [*rows, *controls(found, strapped)], facts)
    return path


def reliability_facts(found: Truth, strapped: Bootstrap) -> dict[str, Any]:
    """How much of the truth is noise of seeds: reliability of one seed, and ceiling."""
    n_seeds, n_queries, n_subsets = found.losses.shape
    facts: dict[str, Any] = {
        "n_subsets": n_subsets,
        "n_seeds": n_seeds,
        "n_queries": n_queries,
        "n_sources": len(found.subsets),
        "n_resamples": len(strapped.drawn.subsets),
    }
    if strapped.ceilings is not None:
        once = rank_correlation.as_they_are(n_subsets, n_queries)
        value = float(rank_correlation.reliability(found.losses, once)[0])
        samples = rank_correlation.reliability(found.losses, strapped.drawn)
        facts["reliability"] = intervals.described(value, samples)
        facts["ceiling"] = intervals.described(*strapped.ceilings)
    return facts


def of_subsets(found: Truth, subsets: np.ndarray) -> Truth:
    """The truth of some of the subsets, given as numbers or as a mask."""
    return Truth(found.subsets[:, subsets], found.losses[:, :, subsets], found.identity)


def _lds(score: np.ndarray, found: Truth) -> float:
    predicted = predicted_losses(score, found.subsets)
    return float(rank_correlation.rank_correlation(predicted, found.mean).mean())
