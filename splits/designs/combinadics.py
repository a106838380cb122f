"""Combinadics: a numbering without gaps of all codes of one weight.

A code's rank is its place among all codes of its weight in colexicographic order, which
is the order of integers in which member m's bit is worth 2^m. Different ranks are
different codes, so distinct codes are drawn by drawing distinct ranks.
(The combinatorial number system; Knuth, The Art of Computer Programming 4A, 7.2.1.3)
"""

import math

import numpy as np
from jaxtyping import Bool, Shaped

from splits.errors import BadInput

_INT64_MAX = np.iinfo(np.int64).max


def unrank(
    ranks: Shaped[np.ndarray, " codes"], n_members: int, weight: int
) -> Bool[np.ndarray, "codes members"]:
    """The codes with the given ranks among all codes of one weight.

    A code with set bits m_1 < ... < m_w has the rank C(m_1, 1) + ... + C(m_w, w).

    Args:
        ranks: Integers in 0 to C(n_members, weight) - 1, int64 or Python's.
        n_members: Bits of a code.
        weight: Set bits of a code.

    Raises:
        BadInput: If no code has such a rank.

    Examples:
        >>> unrank(np.array([0, 5]), n_members=4, weight=2).astype(int).tolist()
        [[1, 1, 0, 0], [0, 0, 1, 1]]
    """
    require_ranks(ranks, n_members, weight)
    table = _binomials(n_members, weight)
    left = np.full(len(ranks), weight)
    rest = ranks.astype(table.dtype)
    bits = np.empty((n_members, len(ranks)), dtype=bool)
    for member in reversed(range(n_members)):
        below = table[member].take(left)
        seen = (rest >= below).astype(bool)
        bits[member] = seen
        rest -= below * seen
        left -= seen
    return bits.T


def require_ranks(
    ranks: Shaped[np.ndarray, " codes"], n_members: int, weight: int
) -> None:
    """Refuse ranks that no code of this weight has.

    Raises:
        BadInput: If there is one.
    """
    capacity = math.comb(n_members, weight)
    outside = ranks[(ranks < 0) | (ranks >= capacity)]
    if outside.size:
        raise BadInput(
            f"No code has rank {outside[0]}: C({n_members}, {weight}) = {capacity} "
            f"codes have ranks 0 to {capacity - 1}."
        )


def rank(bits: Bool[np.ndarray, "codes members"]) -> Shaped[np.ndarray, " codes"]:
    """The ranks of codes of one weight, the inverse of `unrank`.

    Returns:
        int64 where every rank of this weight fits, else Python's integers.

    Raises:
        BadInput: If the weights differ.

    Examples:
        >>> rank(unrank(np.array([3, 1]), n_members=4, weight=2)).tolist()
        [3, 1]
    """
    n_members = bits.shape[1]
    weights = np.unique(bits.sum(axis=1))
    if len(weights) > 1:
        raise BadInput(
            f"Codes of weights {weights.tolist()} have no common ranks: rank those of "
            "each weight by themselves."
        )
    table = _binomials(n_members, int(weights.sum()))
    below = np.zeros(len(bits), dtype=np.int64)
    ranks = np.zeros(len(bits), dtype=table.dtype)
    for member in range(n_members):
        seen = bits[:, member]
        below += seen
        ranks += table[member].take(below) * seen
    return ranks


def distinct_ranks(
    capacity: int, n: int, rng: np.random.Generator
) -> Shaped[np.ndarray, " n"]:
    """Draw n different numbers in 0 to capacity - 1, in random order.

    Every subset is equally likely (Floyd's method, Bentley and Floyd 1987).

    Returns:
        int64 where they fit, else Python's integers.
    """
    if capacity <= _INT64_MAX:
        return rng.choice(capacity, n, replace=False)
    # 64 spare bits keep the bias of the remainder below 2^-64.
    n_bytes = capacity.bit_length() // 8 + 9
    chosen: dict[int, None] = {}
    for last in range(capacity - n, capacity):
        number = int.from_bytes(rng.bytes(n_bytes), "little") % (last + 1)
        chosen[last if number in chosen else number] = None
    return rng.permutation(np.array(list(chosen), dtype=object))


def _binomials(n_members: int, weight: int) -> Shaped[np.ndarray, "members below"]:
    """Binomials C(member, below), in 64 bits where all ranks of the weight fit."""
    capacity = math.comb(n_members, weight)
    # No rank reaches an entry beyond the capacity, so cutting those off changes nothing
    # and lets the others fit.
    rows = [
        [min(math.comb(member, below), capacity) for below in range(weight + 1)]
        for member in range(n_members)
    ]
    return np.array(rows, dtype=np.int64 if capacity <= _INT64_MAX else object)
