"""Chances: what random codes of one weight do when several sources are removed.

The codes here are independent and uniform among all codes of their weight. Chances are
sums of whole numbers, exact until the last division.
"""

import math
from fractions import Fraction

import numpy as np

from splits.codes import CodeBook


def mean_left(n_members: int, weight: int, removed: int) -> float:
    """Members that are left on average when `removed` sources are.

    Each is left by each source with chance 1 - weight / n_members:

        n_members (1 - weight / n_members)^removed

    Examples:
        >>> mean_left(n_members=16, weight=8, removed=2)
        4.0
    """
    return n_members * (1 - weight / n_members) ** removed


def nobody_left(n_members: int, weight: int, removed: int) -> float:
    """The chance that no member is left when `removed` sources are.

    By inclusion and exclusion over the members that are left, with r = removed,

        sum over j of (-1)^j C(M, j) (C(M - j, w) / C(M, w))^r

    Examples:
        >>> nobody_left(n_members=4, weight=2, removed=2)
        0.16666666666666666
    """
    return _covered(n_members, n_members, weight, removed)


def erased(n_members: int, weight: int, removed: int) -> float:
    """The chance that another source is removed with `removed` ones.

    That is: each of the `weight` members that saw it saw one of those too,

        sum over j of (-1)^j C(w, j) (C(M - j, w) / C(M, w))^r
    """
    return _covered(weight, n_members, weight, removed)


def expected_erased(n_sources: int, n_members: int, weight: int, removed: int) -> float:
    """How many other sources go with `removed` random ones, on average."""
    return (n_sources - removed) * erased(n_members, weight, removed)


def expected_failures(
    n_sources: int, n_members: int, weight: int, removed: int
) -> float:
    """Choices of `removed` sources and another that goes with them, on average.

    Below one, some book of random codes has none of them: no source goes with any
    `removed` others (it is cover-free; Kautz & Singleton 1964).
    """
    n_choices = math.comb(n_sources, removed) * (n_sources - removed)
    return n_choices * erased(n_members, weight, removed)


def welch(n_sources: int, n_members: int) -> float:
    """The least mean squared correlation that so many centred codes can have.

    Zero up to n_members - 1 sources, and beyond, with K sources and M members,
    (K - M + 1) / ((M - 1) (K - 1)). (Welch 1974, https://doi.org/10.1109/TIT.1974.1055219)

    Examples:
        >>> welch(n_sources=15, n_members=16), round(welch(1000, 16), 3)
        (0.0, 0.066)
    """
    surplus = n_sources - n_members + 1
    return max(0.0, surplus / ((n_members - 1) * (n_sources - 1)))


def mean_squared_correlation(codes: CodeBook) -> float:
    """Over all pairs of sources, how much one's contrast carries of another's effect.

    With centred codes x of length one, in the rows of X, the sum over all i and k of
    (x_i x_k)^2 is the squared norm of X^T X. Codes that every member has, or none, have
    no direction, and disturb nobody.
    """
    centred = codes.bits - codes.bits.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    centred = np.divide(centred, lengths, out=centred, where=lengths > 0)
    n = codes.n_sources
    own = float((lengths > 0).sum())
    pairs = float(np.square(centred.T @ centred).sum()) - own
    # Orthogonal codes leave a zero that rounding may turn negative.
    return max(0.0, pairs / (n * (n - 1)))


def _covered(n_wanted: int, n_members: int, weight: int, removed: int) -> float:
    """The chance that certain members are all seen to by `removed` random codes."""
    missed = [
        (-1) ** n_missed
        * math.comb(n_wanted, n_missed)
        * math.comb(n_members - n_missed, weight) ** removed
        for n_missed in range(min(n_wanted, n_members - weight) + 1)
    ]
    return float(Fraction(sum(missed), math.comb(n_members, weight) ** removed))
