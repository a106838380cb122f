"""Expected values under random codes of one weight, when several sources are removed.

The codes are independent and uniform among all codes of their weight. Probabilities are
sums of whole numbers, exact until the last division.
"""

import math
from fractions import Fraction

import numpy as np

from splits.codes import CodeBook


def mean_left(n_members: int, weight: int, removed: int) -> float:
    """The expected number of members that remain when `removed` sources are removed.

    A member has not seen a given source with probability 1 - weight / n_members:

        n_members (1 - weight / n_members)^removed

    Examples:
        >>> mean_left(n_members=16, weight=8, removed=2)
        4.0
    """
    return n_members * (1 - weight / n_members) ** removed


def nobody_left(n_members: int, weight: int, removed: int) -> float:
    """The probability that no member remains when `removed` sources are removed.

    By inclusion and exclusion over the members that remain, with r = removed,

        sum over j of (-1)^j C(M, j) (C(M - j, w) / C(M, w))^r

    Examples:
        >>> nobody_left(n_members=4, weight=2, removed=2)
        0.16666666666666666
    """
    return _chance_all_covered(n_members, n_members, weight, removed)


def erased(n_members: int, weight: int, removed: int) -> float:
    """The probability that removing `removed` sources erases another source as well.

    Another source is erased if each of the `weight` members that saw it saw one of the
    removed ones too:

        sum over j of (-1)^j C(w, j) (C(M - j, w) / C(M, w))^r
    """
    return _chance_all_covered(weight, n_members, weight, removed)


def expected_erased(n_sources: int, n_members: int, weight: int, removed: int) -> float:
    """The expected number of other sources that `removed` random ones erase."""
    return (n_sources - removed) * erased(n_members, weight, removed)


def expected_failures(
    n_sources: int, n_members: int, weight: int, removed: int
) -> float:
    """The expected number of choices of `removed` sources and another that they erase.

    If it is below one, some book of random codes has no such choice: it is cover-free
    (Kautz & Singleton 1964).
    """
    n_choices = math.comb(n_sources, removed) * (n_sources - removed)
    return n_choices * erased(n_members, weight, removed)


def welch(n_sources: int, n_members: int) -> float:
    """The Welch bound on the mean squared correlation of centred codes.

    Zero up to n_members - 1 sources, and beyond, with K sources and M members,
    (K - M + 1) / ((M - 1) (K - 1)). (Welch 1974, https://doi.org/10.1109/TIT.1974.1055219)

    Examples:
        >>> welch(n_sources=15, n_members=16), round(welch(1000, 16), 3)
        (0.0, 0.066)
    """
    surplus = n_sources - n_members + 1
    return max(0.0, surplus / ((n_members - 1) * (n_sources - 1)))


def mean_squared_correlation(codes: CodeBook) -> float:
    """The mean squared correlation of the codes of two sources, over all pairs.

    It says how much the contrast of one source carries of another source's effect. With
    centred codes x of length one, in the rows of X, the sum over all i and k of
    (x_i x_k)^2 is the squared norm of X^T X. Codes with all bits equal have no
    direction, and count as uncorrelated.
    """
    centred = codes.bits - codes.bits.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    centred = np.divide(centred, lengths, out=centred, where=lengths > 0)
    n = codes.n_sources
    own = float((lengths > 0).sum())
    pairs = float(np.square(centred.T @ centred).sum()) - own
    # Orthogonal codes leave a zero that rounding may turn negative.
    return max(0.0, pairs / (n * (n - 1)))


def _chance_all_covered(
    n_wanted: int, n_members: int, weight: int, removed: int
) -> float:
    """The probability that `removed` random codes cover all of `n_wanted` members."""
    missed = [
        (-1) ** n_missed
        * math.comb(n_wanted, n_missed)
        * math.comb(n_members - n_missed, weight) ** removed
        for n_missed in range(min(n_wanted, n_members - weight) + 1)
    ]
    return float(Fraction(sum(missed), math.comb(n_members, weight) ** removed))
