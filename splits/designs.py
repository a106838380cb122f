"""Designs: ways to draw a code book.

A design decides which members train on which sources before anything is trained, from
the numbers of sources and members and a seed alone, never from what the data shows.
A placebo is a code that belongs to no source.

Before: sources.py (says how many sources there are), ranks.py (numbers the codes).
After: codes.py (holds the bits), guarantees.py (says what they promise).
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from splits.codes import CodeBook
from splits.errors import BadInput
from splits.ranks import distinct_ranks, rank, unrank

# Separate streams of random numbers for the same seed.
_CODES, _PLACEBOS = 0, 1


def draw(
    name: str,
    n_sources: int,
    n_members: int,
    weight: int | None = None,
    seed: int = 0,
) -> CodeBook:
    """Draw a code book; the same arguments give the same book everywhere.

    Args:
        name: A design in `DESIGNS`.
        n_sources: How many codes to draw.
        n_members: How many bits a code has.
        weight: How many members train on each source; None is the design's choice.
        seed: Names the draw, 0 or more.

    Raises:
        BadInput: If there is no such design, it has no use for an option that is given,
            or it cannot keep its promise for these numbers.
    """
    if name not in DESIGNS:
        raise _unknown(name)
    if n_sources < 1 or n_members < 1:
        raise BadInput(
            f"{n_sources} sources and {n_members} members make no code book: at least "
            "one of each is needed."
        )
    design = DESIGNS[name]
    options = {"weight": weight}
    given = {key: value for key, value in options.items() if value is not None}
    for option in given:
        if option not in design.options:
            raise BadInput(
                f"splits.{option} has no effect on the design {name!r}. Leave it out."
            )
    return design.draw(n_sources, n_members, _generator(seed, _CODES), **given)


def balanced(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    weight: int | None = None,
) -> CodeBook:
    """Distinct random codes of one weight; splits differ by at most one source.

    No code contains another, so ablating a source never erases all that was learnt
    from a second one, and every ablation leaves n_members - weight members.
    (Dai & Gifford 2023, https://arxiv.org/abs/2306.02174; the even splits are ours.)

    Args:
        n_sources: At most C(n_members, weight), at least n_members / weight.
        n_members: Even, unless a weight is given.
        rng: Draws the codes.
        weight: 1 to n_members - 1; None is half of the members.

    Raises:
        BadInput: If there are too few or too many sources, or the weight does not fit.
    """
    weight = _half(n_members) if weight is None else weight
    if not 0 < weight < n_members:
        raise BadInput(
            f"splits.weight is {weight}; with {n_members} members it can be 1 to "
            f"{n_members - 1}, so that members see each source and others do not."
        )
    if n_sources * weight < n_members:
        raise BadInput(
            f"{n_sources} sources of weight {weight} cannot fill the splits of "
            f"{n_members} members. Use fewer members or a greater weight."
        )
    capacity = math.comb(n_members, weight)
    if n_sources > capacity:
        raise BadInput(
            f"More sources than codes: {n_sources} sources, but C({n_members}, "
            f"{weight}) = {capacity} codes. Choose more members, or a design that lets "
            "sources share codes, such as 'partition'."
        )
    bits = unrank(distinct_ranks(capacity, n_sources, rng), n_members, weight)
    return CodeBook(_levelled(bits, rng))


def leave_one_out(n_sources: int, n_members: int, rng: np.random.Generator) -> CodeBook:
    """Member m trains on every source but m: as many members as sources.

    Ablating a source leaves exactly one member, trained on all the other sources. Two
    sources cannot be ablated together. Nothing is random here.

    Raises:
        BadInput: If there are not as many members as sources, or fewer than two.
    """
    del rng
    if n_members != n_sources or n_sources < 2:
        raise BadInput(
            f"{n_sources} sources and {n_members} members do not fit the design "
            "'leave_one_out': it needs as many members as sources, at least two."
        )
    return CodeBook(~np.eye(n_sources, dtype=bool))


def partition(n_sources: int, n_members: int, rng: np.random.Generator) -> CodeBook:
    """Each source in one member, at random; splits differ by at most one source.

    Sources of the same member share a code: no ablation tells them apart. Ablating any
    r sources leaves at least n_members - r members. (SISA, Bourtoule et al. 2021,
    https://arxiv.org/abs/1912.03817)

    Raises:
        BadInput: If there are fewer sources than members.
    """
    if n_sources < n_members:
        raise BadInput(
            f"{n_sources} sources cannot be dealt out to {n_members} members: some "
            "would get none. Use at most as many members as sources."
        )
    member_of = rng.permutation(np.arange(n_sources) % n_members)
    return CodeBook(member_of[:, None] == np.arange(n_members))


def hadamard(n_sources: int, n_members: int, rng: np.random.Generator) -> CodeBook:
    """Orthogonal codes of half weight: ablating any two sources leaves a quarter.

    A code is a row of Sylvester's matrix, H[r, m] = (-1)^(number of bits that r and m
    have in common), without the constant row 0: its sign, times a sign of the source's
    own. Rows are orthogonal to each other and to the constant, whatever their signs,
    so two codes agree on each of the four pairs of bits in n_members / 4 members, and
    sources do not disturb each other's contrasts.

    One column of H is constant, so without the signs one member would see every source
    or none. Rows 1, 2, 4 and 7 multiply to 1 in every column. Give them an odd number
    of minus signs, and no member sees all four or none of them. Three sources have no
    such four: rows 1, 2 and 3 multiply to 1, and an even number of minus signs leaves
    no split empty, but a quarter of the members sees all three. With fewer than three
    sources a quarter of the splits is empty for any signs.

    Args:
        n_sources: 3 to n_members - 1.
        n_members: A power of two, at least 4.
        rng: Draws rows, signs, and the order of the members.

    Raises:
        BadInput: If the numbers of sources or members do not fit.
    """
    if n_members < 4 or n_members & (n_members - 1):
        raise BadInput(
            f"The design 'hadamard' has no matrix for {n_members} members: it needs a "
            "power of two, at least 4."
        )
    if not 3 <= n_sources < n_members:
        raise BadInput(
            f"{n_sources} sources do not fit the design 'hadamard': with {n_members} "
            f"members it has codes for 3 to {n_members - 1} sources."
        )
    tied = np.array([1, 2, 3] if n_sources == 3 else [1, 2, 4, 7])
    others = np.setdiff1d(np.arange(1, n_members), tied)
    rows = np.append(tied, rng.permutation(others)[: n_sources - len(tied)])
    minus = rng.integers(2, size=n_sources, dtype=np.int64)
    minus[0] = (minus[1 : len(tied)].sum() + (n_sources > 3)) % 2
    common = rows[:, None] & rng.permutation(n_members)
    bits = (np.bitwise_count(common) + minus[:, None]) % 2 == 0
    return CodeBook(rng.permutation(bits))


def random_subsets(
    n_sources: int, n_members: int, rng: np.random.Generator
) -> CodeBook:
    """Every member trains on half of the sources (rounded down), drawn by itself.

    These are the subsets of the linear datamodeling score (Park et al. 2023,
    https://arxiv.org/abs/2303.14186). Splits are equal; sources are not: their weights
    scatter about n_members / 2, sources may share a code, and a source may be seen by
    every member or by none.

    Raises:
        BadInput: If there are fewer than two sources.
    """
    if n_sources < 2:
        raise BadInput(
            f"{n_sources} source cannot be halved: the design 'random_subsets' needs "
            "at least two sources."
        )
    bits = np.zeros((n_sources, n_members), dtype=bool)
    for member in range(n_members):
        bits[rng.permutation(n_sources)[: n_sources // 2], member] = True
    return CodeBook(bits)


def placebos(
    codes: CodeBook, n: int, seed: int, weights: Sequence[int] | None = None
) -> Bool[np.ndarray, "placebos members"]:
    """Codes that belong to no source: distinct, uniform among all that are free.

    Several weights get shares of `n` in proportion to how often they occur. Where
    fewer codes of a weight are free than its share, all of those are returned.

    Args:
        codes: The book whose codes are not placebos.
        n: How many are wanted, 0 or more.
        seed: Names the draw, 0 or more.
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
    rng = _generator(seed, _PLACEBOS)
    kinds, counts = np.unique(wanted, return_counts=True)
    shares = np.diff(n * np.cumsum(counts) // max(1, counts.sum()), prepend=0)
    drawn = [np.zeros((0, codes.n_members), dtype=bool)]
    for weight, share in zip(kinds.tolist(), shares.tolist(), strict=True):
        taken = codes.bits[own == weight]
        drawn.append(_free_codes(taken, weight, share, rng))
    return rng.permutation(np.concatenate(drawn))


def _levelled(
    bits: Bool[np.ndarray, "codes members"], rng: np.random.Generator
) -> Bool[np.ndarray, "codes members"]:
    """Move single bits between members until splits differ by at most one source.

    If member a has at least two sources more than member b, then among the codes with
    bit a and without bit b at least two stay distinct from all others when that bit
    moves from a to b: only codes with b and without a can be in the way, and there are
    two fewer of those. So this always ends.
    """
    bits = np.array(bits, order="F")
    keys = _integers(bits)
    taken = set(keys)
    loads = bits.sum(axis=0)
    low, high = loads.sum() // len(loads), -(-loads.sum() // len(loads))
    while loads.max() - loads.min() > 1:
        a, b = int(loads.argmax()), int(loads.argmin())
        n_moves = max(1, min(loads[a] - high, low - loads[b]))
        movable = np.flatnonzero(bits[:, a] & ~bits[:, b])
        moved = []
        for source in rng.permutation(movable).tolist():
            key = keys[source] ^ (1 << a) ^ (1 << b)
            if key not in taken:
                moved.append(source)
                taken.add(key)
                taken.remove(keys[source])
                keys[source] = key
            if len(moved) == n_moves:
                break
        bits[moved, a] = False
        bits[moved, b] = True
        loads[a] -= n_moves
        loads[b] += n_moves
    return np.ascontiguousarray(bits)


def _integers(bits: Bool[np.ndarray, "codes members"]) -> list[int]:
    """Each code as one integer in which member m's bit is worth 2^m."""
    packed = np.packbits(bits, axis=1, bitorder="little")
    width = packed.shape[1]
    raw = packed.tobytes()
    return [
        int.from_bytes(raw[start : start + width], "little")
        for start in range(0, len(raw), width)
    ]


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


def _half(n_members: int) -> int:
    if n_members % 2:
        raise BadInput(
            f"An odd member count, {n_members}, has no half: use an even one, or set "
            "splits.weight."
        )
    return n_members // 2


def _generator(seed: int, stream: int) -> np.random.Generator:
    if seed < 0:
        raise BadInput(f"The seed is {seed}; it must be 0 or more.")
    return np.random.default_rng(np.random.SeedSequence([seed, stream]))


def _unknown(name: str) -> BadInput:
    near = difflib.get_close_matches(name, DESIGNS, n=1)
    advice = f" Did you mean {near[0]!r}?" if near else ""
    return BadInput(
        f"splits.design is {name!r}; allowed: {', '.join(DESIGNS)}.{advice}"
    )


@dataclass(frozen=True)
class Design:
    """A way to draw a code book.

    Attributes:
        draw: (n_sources, n_members, rng, **options) -> CodeBook.
        options: Those of `draw`'s options that have an effect.
    """

    draw: Callable[..., CodeBook]
    options: tuple[str, ...] = ()


DESIGNS = {
    "balanced": Design(balanced, ("weight",)),
    "leave_one_out": Design(leave_one_out),
    "partition": Design(partition),
    "hadamard": Design(hadamard),
    "random_subsets": Design(random_subsets),
}
