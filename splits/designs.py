"""Designs: ways to draw a code book.

A design decides which members train on which sources before anything is trained, from
the numbers of sources and members and a seed alone, never from what the data shows.
A placebo is a code that belongs to no source.

Before: sources.py (says how many sources there are), ranks.py (numbers the codes),
levels.py (evens out the splits).
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
from splits.levels import levelled
from splits.ranks import distinct_ranks, rank, unrank

# Separate streams of random numbers for the same seed.
_CODES, _PLACEBOS = 0, 1


def draw(
    name: str,
    n_sources: int,
    n_members: int,
    weight: int | None = None,
    seed: int = 0,
    removable: int | None = None,
    survivors: int | None = None,
) -> CodeBook:
    """Draw a code book; the same arguments give the same book everywhere.

    Args:
        name: A design in `DESIGNS`.
        n_sources: How many codes to draw.
        n_members: How many bits a code has.
        weight: How many members train on each source.
        seed: Names the draw, 0 or more.
        removable: How many sources may be ablated at once, whichever they are.
        survivors: How many members must be left then.

    `weight`, `removable` and `survivors` are for the designs that say so in `DESIGNS`;
    None is the design's own choice.

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
    options = {"weight": weight, "removable": removable, "survivors": survivors}
    given = {key: value for key, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in design.options:
            raise BadInput(
                f"splits.{option} has no effect on the design {name!r}. Leave it out."
            )
        if value < 1:
            raise BadInput(f"splits.{option} is {value}; it must be at least 1.")
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
    _check_filled(n_sources, n_members, weight)
    capacity = math.comb(n_members, weight)
    _check_capacity(n_sources, capacity, f"C({n_members}, {weight}) = {capacity}")
    bits = unrank(distinct_ranks(capacity, n_sources, rng), n_members, weight)
    return CodeBook(levelled(bits, rng, lambda code: code))


def sparse(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    removable: int = 2,
    survivors: int = 1,
) -> CodeBook:
    """Balanced codes so light that any few sources can be ablated together.

    With weight = (n_members - survivors) / removable, rounded down, `removable` codes
    silence at most n_members - survivors members, whichever codes they are. No greater
    weight keeps that promise if all codes of the weight may occur.

    Args:
        n_sources: At most C(n_members, weight), at least n_members / weight.
        n_members: At least removable + survivors.
        rng: Draws the codes.
        removable: Sources that may be ablated at once.
        survivors: Members that are left then, at least.

    Raises:
        BadInput: If there are too few members, or too few or too many sources.
    """
    weight = (n_members - survivors) // removable
    if weight < 1:
        raise BadInput(
            f"{n_members} members cannot lose any {removable} sources and keep "
            f"{survivors} members: that takes at least {removable + survivors}. Use "
            "more members, or ask for less."
        )
    return balanced(n_sources, n_members, rng, weight)


def pairs_safe(n_sources: int, n_members: int, rng: np.random.Generator) -> CodeBook:
    """Balanced codes of half weight, any two of which leave a member.

    Two codes of half weight silence everybody only if one is the other's complement,
    so of each such pair at most one is drawn. Splits are as even as moving single bits
    can make them: they differ by at most one source unless most pairs are in use.
    `sparse` with removable=2 has more and slightly lighter codes.

    Args:
        n_sources: At most C(n_members, n_members / 2) / 2, at least 3.
        n_members: Even.
        rng: Draws the codes.

    Raises:
        BadInput: If there are too few or too many sources, or an odd member count.
    """
    weight = _half(n_members)
    _check_filled(n_sources, n_members, weight)
    n_pairs = math.comb(n_members, weight) // 2
    _check_capacity(n_sources, n_pairs, f"C({n_members}, {weight}) / 2 = {n_pairs}")
    # The first half of the ranks lacks the last member, the other half is their
    # complements.
    bits = unrank(distinct_ranks(n_pairs, n_sources, rng), n_members, weight)
    bits = bits ^ rng.integers(2, size=(n_sources, 1), dtype=bool)
    everyone = (1 << n_members) - 1
    return CodeBook(levelled(bits, rng, lambda code: everyone ^ code))


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


def hybrid(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    removable: int = 2,
    survivors: int = 1,
) -> CodeBook:
    """Mostly dense members, and a partition that survives any few ablations.

    The last removable + survivors members are a `partition`: ablating `removable`
    sources silences at most as many of them. The members before are `balanced`, with
    half their number (rounded down) as weight; they tell the sources apart.

    Args:
        n_sources: What both parts can serve.
        n_members: At least removable + survivors + 2.
        rng: Draws the codes.
        removable: Sources that may be ablated at once.
        survivors: Members that are left then, at least.

    Raises:
        BadInput: If there are too few members, or too few or too many sources.
    """
    n_dealt = removable + survivors
    n_dense = n_members - n_dealt
    if n_dense < 2:
        raise BadInput(
            f"{n_members} members are too few for the design 'hybrid': removable + "
            f"survivors = {n_dealt} of them hold a partition, and at least 2 more are "
            "needed. Use more members, or ask for less."
        )
    dense = balanced(n_sources, n_dense, rng, n_dense // 2)
    dealt = partition(n_sources, n_dealt, rng)
    return CodeBook(np.concatenate([dense.bits, dealt.bits], axis=1))


def reed_solomon(n_sources: int, n_members: int, rng: np.random.Generator) -> CodeBook:
    """Many partitions at once, in which two sources rarely meet.

    Write n_members = n_blocks * q with a prime q >= n_blocks. Each source has its own
    polynomial of degree < k over the integers modulo q, where q^k is the first power
    that suffices for all sources. It trains one member of each block of q members: in
    block b, the one that the polynomial's value at the block's point names. Two
    polynomials agree in at most k - 1 points, so

    - ablating any r sources leaves at least n_blocks * (q - r) members,
    - and every other source still has n_blocks - r (k - 1) of those that saw it,

    and splits differ by at most one source. (Kautz & Singleton 1964,
    https://doi.org/10.1109/TIT.1964.1053689)

    Args:
        n_sources: q to q^n_blocks.
        n_members: A product of a prime and a number that is not greater.
        rng: Deals out polynomials, draws the blocks' points.

    Raises:
        BadInput: If the numbers of sources or members do not fit.
    """
    q = _greatest_prime_factor(n_members)
    n_blocks = n_members // q
    if n_blocks > q:
        raise BadInput(
            f"{n_members} members do not fit the design 'reed_solomon': it needs a "
            f"prime times a number that is not greater, such as {_next_fit(n_members)}."
        )
    _check_filled(n_sources, n_members, n_blocks)
    _check_capacity(n_sources, q**n_blocks, f"{q}^{n_blocks} = {q**n_blocks}")
    # Numbers in sequence, written in base q: every q of them differ in the constant
    # coefficient alone, so they take every value at every point once.
    numbers = rng.permutation(n_sources)
    points = rng.permutation(q)[:n_blocks]
    values = np.zeros((n_sources, n_blocks), dtype=np.int64)
    power = np.ones(n_blocks, dtype=np.int64)
    while numbers.any():
        values = (values + (numbers % q)[:, None] * power) % q
        power = power * points % q
        numbers = numbers // q
    bits = values[:, :, None] == np.arange(q)
    return CodeBook(bits.reshape(n_sources, n_members))


def hadamard(n_sources: int, n_members: int, rng: np.random.Generator) -> CodeBook:
    """Orthogonal codes of half weight: ablating any two sources leaves a quarter.

    A code is a row of Sylvester's matrix, H[r, m] = (-1)^(number of bits that r and m
    have in common), without the constant row 0: its sign, times a sign of the source's
    own. Rows are orthogonal to each other and to the constant, whatever their signs,
    so two codes show each of the four pairs of bits in n_members / 4 members, and
    where effects add up, sources do not disturb each other's contrasts.

    One column of H is constant, so without the signs one member would see every source
    or none. Rows 1, 2, 4 and 7 multiply to 1 in every column. Give them an odd number
    of minus signs, and no member sees all four or none of them. Three sources have no
    such four: rows 1, 2 and 3 multiply to 1, and an even number of minus signs leaves
    no split empty, but a quarter of the members sees all three. With fewer than three
    sources at least a quarter of the splits is empty for any signs.

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


def _check_filled(n_sources: int, n_members: int, weight: int) -> None:
    if n_sources * weight < n_members:
        raise BadInput(
            f"{n_sources} sources of weight {weight} cannot fill the splits of "
            f"{n_members} members. Use fewer members or more sources."
        )


def _check_capacity(n_sources: int, capacity: int, formula: str) -> None:
    if n_sources > capacity:
        raise BadInput(
            f"More sources than codes: {n_sources} sources, but {formula} codes. Choose "
            "more members, or a design that lets sources share codes, such as "
            "'partition'."
        )


def _greatest_prime_factor(number: int) -> int:
    factor, rest = 1, number
    for divisor in range(2, number + 1):
        while rest % divisor == 0:
            factor, rest = divisor, rest // divisor
    return factor


def _next_fit(n_members: int) -> int:
    # A single block would fit too, but has no more codes than members.
    while True:
        n_members += 1
        q = _greatest_prime_factor(n_members)
        if 2 <= n_members // q <= q:
            return n_members


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
    "sparse": Design(sparse, ("removable", "survivors")),
    "pairs_safe": Design(pairs_safe),
    "leave_one_out": Design(leave_one_out),
    "partition": Design(partition),
    "hybrid": Design(hybrid, ("removable", "survivors")),
    "reed_solomon": Design(reed_solomon),
    "hadamard": Design(hadamard),
    "random_subsets": Design(random_subsets),
}
