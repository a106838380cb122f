"""Matched codes: they overlap with another source's code as much as a given code does.

If one source changes a picture, sources that share many or few of its members seem to
change it too. A source is therefore compared with codes of its weight that share as many
members with the other source as it does. If only the other source matters, members with
equal bits in its code are exchangeable, so the displacement of the source is a random
one among those of its matched codes. With too few matched codes, nothing can tell which
of the two sources matters.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64

Bits = Bool[np.ndarray, "sources members"]

THRESHOLD = 0.05
# Books with more sources than this are not searched for pairs.
MOST_COMPARED = 2048
_REDRAWS = 64


def n_matched(code: Bool[np.ndarray, " members"], other: np.ndarray) -> int:
    """The number of codes with a code's weight and its overlap with another code.

    With w set bits, o of them shared with the other code, whose weight is v,

        C(v, o) C(M - v, w - o)

    The code itself is one of them.

    Examples:
        >>> bits = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=bool)
        >>> n_matched(bits[0], bits[1])
        4
    """
    shared = int((code & other).sum())
    return _count(len(code), int(code.sum()), int(other.sum()), shared)


def _count(n_members: int, weight: int, other: int, shared: int) -> int:
    return math.comb(other, shared) * math.comb(n_members - other, weight - shared)


def draw_matched(
    code: Bool[np.ndarray, " members"],
    other: Bool[np.ndarray, " members"],
    n: int,
    rng: np.random.Generator,
) -> tuple[Bool[np.ndarray, "codes members"], bool]:
    """Draw matched codes; the code itself is one of them.

    Returns:
        All of them, and True, if there are at most n; else n - 1 independent random ones
        beside the code, and False. Either way the share of them that are at least as
        extreme as the code is a p-value.
    """
    inside, outside = np.flatnonzero(other), np.flatnonzero(~other)
    shared, rest = int(code[inside].sum()), int(code[outside].sum())
    if n_matched(code, other) <= n:
        pairs = itertools.product(
            itertools.combinations(inside.tolist(), shared),
            itertools.combinations(outside.tolist(), rest),
        )
        chosen = [[*first, *second] for first, second in pairs]
        bits = np.zeros((len(chosen), len(code)), dtype=bool)
        bits[np.arange(len(chosen))[:, None], np.array(chosen, dtype=np.int64)] = True
        return bits, True
    # Sorted by random numbers, those of the other code's members first: the first
    # `shared` places are a random choice of the former, and so on.
    keys = rng.random((n - 1, len(code))) + ~other
    places = np.argsort(keys, axis=1)
    template = np.zeros(len(code), dtype=bool)
    template[:shared] = True
    template[len(inside) : len(inside) + rest] = True
    bits = np.empty((n, len(code)), dtype=bool)
    bits[0] = code
    bits[np.arange(1, n)[:, None], places] = template
    return bits, False


def smallest_p(bits: Bits) -> Float64[np.ndarray, "sources sources"]:
    """The smallest p-value that each source (row) can reach beside another (column).

    It is corrected for the number of sources: the number of sources divided by the
    number of matched codes, at most one. The diagonal is zero.
    """
    n_sources, n_members = bits.shape
    counts = bits.astype(np.float64)
    shared = (counts @ counts.T).astype(np.int64)
    weights = bits.sum(axis=1)
    base = n_members + 1
    cases = (weights[:, None] * base + weights) * base + shared
    kinds, kind_of = np.unique(cases, return_inverse=True)
    found = []
    for kind in kinds.tolist():
        both, overlap = divmod(kind, base)
        weight, other = divmod(both, base)
        n_codes = _count(n_members, weight, other, overlap)
        found.append(min(1.0, n_sources / n_codes))
    table = np.array(found)[kind_of.reshape(-1)].reshape(shared.shape)
    np.fill_diagonal(table, 0.0)
    return table


def inseparable(bits: Bits) -> list[tuple[int, int]]:
    """Pairs of sources whose codes cannot show which one of the two matters.

    At least one of the two cannot reach the p-value `THRESHOLD` beside the other.

    Examples:
        >>> inseparable(np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool))
        [(0, 1)]
    """
    p = smallest_p(bits)
    first, second = np.nonzero(np.triu(np.maximum(p, p.T) > THRESHOLD, 1))
    return list(zip(first.tolist(), second.tolist(), strict=True))


def dependent(bits: Bits) -> bool:
    """Whether some code is a linear combination of the others and a constant.

    This is true of all codes of even splits: they add up to the same number in every
    member.

    Examples:
        >>> dependent(np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool))
        True
    """
    constant = np.ones((1, bits.shape[1]))
    both = np.concatenate([constant, bits.astype(np.float64)])
    return int(np.linalg.matrix_rank(both)) <= len(bits)


def n_separable(bits: Bits) -> int:
    """The number of sources that can reach `THRESHOLD` beside every other source."""
    return int((smallest_p(bits) <= THRESHOLD).all(axis=1).sum())


def draw_separable(draw_book: Callable[[], Bits]) -> Bits:
    """Draw a code book; if it has few sources and an inseparable pair, draw it again.

    The first book stands if it separates all pairs, if it has more sources than
    members, or if no book of these numbers could separate them. Else the best of
    several draws: the one whose worst pair has the most matched codes.
    """
    best = draw_book()
    n_sources, n_members = best.shape
    if not 2 <= n_sources <= n_members or not _can_separate(best):
        return best
    fewest = smallest_p(best).max()
    for _ in range(_REDRAWS):
        if fewest <= THRESHOLD:
            break
        other = draw_book()
        if smallest_p(other).max() < fewest:
            best, fewest = other, smallest_p(other).max()
    return best


def _can_separate(bits: Bits) -> bool:
    """Whether two codes of this weight can be told apart at all."""
    n_sources, n_members = bits.shape
    weight = int(bits[0].sum())
    lightest = max(0, 2 * weight - n_members)
    counts = [
        _count(n_members, weight, weight, shared)
        for shared in range(lightest, weight + 1)
    ]
    return n_sources <= THRESHOLD * max(counts)


def describe(bits: Bits, n_shown: int = 5) -> list[str]:
    """Lines of text on how well sources can be separated; no line for large books."""
    n_sources, n_members = bits.shape
    if not 2 <= n_sources <= MOST_COMPARED:
        return []
    lines = [
        f"told apart    {n_separable(bits):,} of {n_sources:,} sources can reach p <= "
        f"{THRESHOLD} whichever other one might matter instead; in one picture hardly "
        f"more than {n_members} sources stand out"
    ]
    pairs = inseparable(bits)
    if pairs:
        shown = ", ".join(f"{one} and {other}" for one, other in pairs[:n_shown])
        more = ", ..." if len(pairs) > n_shown else ""
        lines.append(
            f"not apart     {len(pairs):,} pairs of sources share so many members, or "
            f"so few, that nothing tells which of the two matters: {shown}{more}. "
            f"{_remedy(bits)}"
        )
    if n_sources > 2 and (n_sources - 1) ** 2 <= 2 * n_members and dependent(bits):
        lines.append(
            "together      the splits are even, so that each code follows from all the "
            "others: if most sources matter in one picture, none may be named. "
            "splits.design=hadamard has no such codes (members: a power of two)"
        )
    lines.append(
        "pictures      several pictures are several tests: with n pictures, p times n "
        "is what holds for all of them together"
    )
    return lines


def _remedy(bits: Bits) -> str:
    if len(bits) == 2:
        heavier = bits.shape[1] * 3 // 4
        return f"With two sources, splits.weight={heavier} tells them apart."
    return "More members help, or another splits.seed."
