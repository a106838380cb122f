"""Placebos: random codes that belong to no source."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from splits.codes import CodeBook
from splits.designs import streams
from splits.designs.combinadics import distinct_ranks, rank, unrank
from splits.errors import BadInput


def placebos(
    codes: CodeBook, n: int, seed: int, weights: Sequence[int] | None = None
) -> Bool[np.ndarray, "placebos members"]:
    """Codes that belong to no source: distinct, uniform among all that are free.

    Several weights get shares of `n` in proportion to how often they occur. Where
    fewer codes of a weight are free than its share, all of those are returned.

    Args:
        codes: The code book; its own codes are no placebos.
        n: Number of placebos, 0 or more.
        seed: Seed of the draw, 0 or more.
        weights: The weights to imitate, such as those of unions of codes; None is the
            weights of the book's own codes.

    Raises:
        BadInput: If `n` is negative, or a weight is not 0 to n_members.
    """
    if n < 0:
        raise BadInput(f"{n} placebos cannot be drawn: ask for 0 or more.")
    own = codes.bits.sum(axis=1)
    wanted = own if weights is None else np.asarray(weights, dtype=np.int64)
    unfit = wanted[(wanted < 0) | (wanted > codes.n_members)]
    if unfit.size:
        raise BadInput(
            f"No code has weight {unfit[0]}: with {codes.n_members} members it is 0 to "
            f"{codes.n_members}."
        )
    rng = streams.generator(seed, streams.PLACEBOS)
    kinds, counts = np.unique(wanted, return_counts=True)
    shares = np.diff(n * np.cumsum(counts) // max(1, counts.sum()), prepend=0)
    drawn = [np.zeros((0, codes.n_members), dtype=bool)]
    for weight, share in zip(kinds.tolist(), shares.tolist(), strict=True):
        taken = codes.bits[own == weight]
        drawn.append(_free_codes(taken, weight, share, rng))
    return rng.permutation(np.concatenate(drawn))


def _free_codes(
    taken: Bool[np.ndarray, "taken members"],
    weight: int,
    n: int,
    rng: np.random.Generator,
) -> Bool[np.ndarray, "free members"]:
    """Draw at most n distinct codes of a weight that are not among the taken ones."""
    n_members = taken.shape[1]
    occupied = np.unique(rank(taken))
    n_free = math.comb(n_members, weight) - len(occupied)
    nth = distinct_ranks(n_free, min(n, n_free), rng)
    # free_below[k] free codes have a smaller rank than the k-th taken one, so the nth
    # free code lies behind as many taken ones as have free_below <= nth.
    free_below = occupied - np.arange(len(occupied))
    return unrank(
        nth + np.searchsorted(free_below, nth, side="right"), n_members, weight
    )
