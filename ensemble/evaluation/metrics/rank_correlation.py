"""Rank correlation over subsets, its bootstrap, and how much of it luck leaves.

A rank correlation compares two numbers per subset. Subsets and queries are both drawn
by chance, so both are resampled; ranks in a resample follow from counts alone, without
sorting again. *Reliability* is the correlation of two seeds' losses; it bounds what any
predictor can reach, however good it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

# Numbers that are ranked at once; bounds memory.
AT_ONCE = 2_000_000


@dataclass(frozen=True, eq=False)
class Resamples:
    """How often each subset and each query counts in each resample.

    Attributes:
        subsets: Rows sum to the number of subsets.
        queries: Rows sum to the number of queries.
    """

    subsets: Int64[np.ndarray, "resamples subsets"]
    queries: Int64[np.ndarray, "resamples queries"]


def resamples(
    n_subsets: int, n_queries: int, n_resamples: int, rng: np.random.Generator
) -> Resamples:
    """Draw subsets and queries with replacement, independently of each other."""

    def drawn(n: int) -> Int64[np.ndarray, "resamples n"]:
        return rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)

    return Resamples(drawn(n_subsets), drawn(n_queries))


def as_they_are(n_subsets: int, n_queries: int) -> Resamples:
    """The one resample in which everything counts once."""
    return Resamples(
        np.ones((1, n_subsets), dtype=np.int64), np.ones((1, n_queries), dtype=np.int64)
    )


def rank_correlation(
    predicted: Float[np.ndarray, "queries subsets"],
    measured: Float[np.ndarray, "queries subsets"],
) -> Float64[np.ndarray, " queries"]:
    """Spearman's correlation over subsets, for each query.

    Ties share their mean rank. What is the same for all subsets ranks nothing, and has
    correlation 0.
    """
    once = np.ones((1, predicted.shape[1]), dtype=np.int64)
    ((_, found),) = _correlations(predicted, measured, once)
    return found[0]


def resampled(
    predicted: Float[np.ndarray, "queries subsets"],
    measured: Float[np.ndarray, "queries subsets"],
    drawn: Resamples,
) -> Float64[np.ndarray, " resamples"]:
    """Mean over queries of the rank correlation over subsets, in each resample."""
    shares = drawn.queries / drawn.queries.sum(axis=1, keepdims=True)
    result = np.empty(len(shares))
    for at, found in _correlations(predicted, measured, drawn.subsets):
        result[at] = (found * shares[at]).sum(axis=1)
    return result


def reliability(
    losses: Float[np.ndarray, "seeds queries subsets"], drawn: Resamples
) -> Float64[np.ndarray, " resamples"]:
    """Correlation between the losses of two seeds, mean over all pairs of seeds."""
    pairs = [(one, other) for one in range(len(losses)) for other in range(one)]
    return np.mean(
        [resampled(losses[one], losses[other], drawn) for one, other in pairs], axis=0
    )


def exact_retraining(
    losses: Float[np.ndarray, "seeds queries subsets"], drawn: Resamples
) -> Float64[np.ndarray, " resamples"]:
    """One seed's losses as predictor of the other seeds' mean, mean over seeds.

    With reliability rho this is about sqrt(rho r_(S-1)): a reference, not a bound,
    because a single retraining is noisy itself.
    """
    found = [
        resampled(losses[seed], np.delete(losses, seed, axis=0).mean(axis=0), drawn)
        for seed in range(len(losses))
    ]
    return np.mean(found, axis=0)


def mean_reliability(
    reliability: Float[np.ndarray, " resamples"], n_seeds: int
) -> Float64[np.ndarray, " resamples"]:
    """Reliability of the mean of several seeds' losses (Spearman & Brown 1910).

    r_S = S rho / (1 + (S - 1) rho); no reliability below 0 is possible, so what chance
    makes negative counts as 0.
    """
    rho = np.maximum(reliability, 0.0)
    return n_seeds * rho / (1 + (n_seeds - 1) * rho)


def ceiling(
    reliability: Float[np.ndarray, " resamples"], n_seeds: int
) -> Float64[np.ndarray, " resamples"]:
    """Correlation that a perfect predictor of the expected loss reaches: sqrt(r_S)."""
    return np.sqrt(mean_reliability(reliability, n_seeds))


def _correlations(
    one: np.ndarray, other: np.ndarray, counts: Int64[np.ndarray, "resamples subsets"]
) -> Iterator[tuple[slice, Float64[np.ndarray, "some queries"]]]:
    """Correlations of ranks in every resample, some resamples at a time."""
    places = _places(one), _places(other)
    size = max(1, AT_ONCE // one.size)
    for first in range(0, len(counts), size):
        at = slice(first, first + size)
        weights = counts[at, None]
        ranks = [_ranks(order, ends, counts[at]) for order, ends in places]
        centred = [
            rank - (rank * weights).mean(axis=2, keepdims=True) for rank in ranks
        ]
        together, *alone = (
            (left * right * weights).sum(axis=2)
            for left, right in (centred, [centred[0]] * 2, [centred[1]] * 2)
        )
        spread = np.sqrt(alone[0] * alone[1])
        nothing = np.zeros_like(spread)
        yield at, np.divide(together, spread, out=nothing, where=spread > 0)


def _places(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of each row's values, and between which places each value's ties lie."""
    order = np.argsort(values, axis=1, kind="stable")
    ends = np.empty((2, *values.shape), dtype=np.int64)
    for row, (line, places) in enumerate(zip(values, order, strict=True)):
        ordered = line[places]
        ends[0, row] = np.searchsorted(ordered, line, side="left")
        ends[1, row] = np.searchsorted(ordered, line, side="right")
    return order, ends


def _ranks(
    order: np.ndarray, ends: np.ndarray, counts: np.ndarray
) -> Float64[np.ndarray, "some queries subsets"]:
    """Mean ranks of all values when each subset is there as often as counted."""
    below = np.zeros((len(counts), len(order), order.shape[1] + 1))
    np.cumsum(counts[:, order], axis=2, out=below[:, :, 1:])
    begin, end = np.broadcast_to(ends[:, None], (2, len(counts), *order.shape))
    before = np.take_along_axis(below, begin, axis=2)
    return (before + np.take_along_axis(below, end, axis=2)) / 2
