"""Designs: ways to draw a code book.

A design decides which members train on which sources before anything is trained, from
the numbers of sources and members and a seed alone, never from what the data shows.
A placebo is a code that belongs to no source.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from splits.codes import CodeBook
from splits.designs import placebos as matched
from splits.designs.algebraic import (
    hadamard,
    reed_solomon,
)
from splits.designs.balancing import levelled
from splits.designs.capacity import (
    chosen_weight,
    half,
    require_capacity,
    require_filled,
)
from splits.designs.combinadics import (
    distinct_ranks,
    rank,
    unrank,
)
from splits.designs.keyed import (
    named_codes,
    numbered_codes,
    rendezvous_codes,
)
from splits.errors import BadInput

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
    salt: str | None = None,
    names: Sequence[str] | None = None,
    owner_of: Int[np.ndarray, " sources"] | None = None,
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
        salt: A secret that takes the place of the seed; None is no secret.
        names: What the sources are called, for ever; None is their numbers.
        owner_of: Whose each source is, 0 to n_owners - 1.

    `weight`, `removable`, `survivors` and `salt` are for the designs that say so in
    `DESIGNS`; None is the design's own choice.

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
        if value < 1:
            raise BadInput(f"splits.{option} is {value}; it must be at least 1.")
    given |= {} if salt is None else {"salt": salt}
    for option in given:
        if option not in design.options:
            raise BadInput(
                f"splits.{option} has no effect on the design {name!r}. Leave it out."
            )
    if owner_of is not None and "owner_of" not in design.facts:
        raise BadInput(
            f"data.owner has no effect on the design {name!r}. Leave it out, or use "
            "the design 'product'."
        )
    if names is None:
        names = [str(source) for source in range(n_sources)]
    known = {"names": names, "owner_of": owner_of}
    facts = {fact: known[fact] for fact in design.facts}
    return design.draw(n_sources, n_members, _generator(seed, _CODES), **given, **facts)


def balanced(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    weight: int | None = None,
) -> CodeBook:
    """Distinct random codes of one weight; splits differ by at most one source.

    No code contains another, so ablating a source never erases all that was learnt
    from a second one, and every ablation leaves n_members - weight members. A book of
    few sources in which the codes of two sources are nearly equal, or nearly each
    other's complement, is drawn again (placebos.py says when).
    (Dai & Gifford 2023, https://arxiv.org/abs/2306.02174; the even splits are ours.)

    Args:
        n_sources: At most C(n_members, weight), at least n_members / weight.
        n_members: Even, unless a weight is given.
        rng: Draws the codes.
        weight: 1 to n_members - 1; None is half of the members.

    Raises:
        BadInput: If there are too few or too many sources, or the weight does not fit.
    """
    weight = chosen_weight(weight, n_members)
    require_filled(n_sources, n_members, weight)
    capacity = math.comb(n_members, weight)
    require_capacity(n_sources, capacity, f"C({n_members}, {weight}) = {capacity}")

    def drawn() -> Bool[np.ndarray, "sources members"]:
        bits = unrank(distinct_ranks(capacity, n_sources, rng), n_members, weight)
        return levelled(bits, rng, lambda code: code)

    return CodeBook(matched.best_apart(drawn))


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
    weight = half(n_members)
    require_filled(n_sources, n_members, weight)
    n_pairs = math.comb(n_members, weight) // 2
    require_capacity(n_sources, n_pairs, f"C({n_members}, {weight}) / 2 = {n_pairs}")
    # The first half of the ranks lacks the last member, the other half is their
    # complements.
    everyone = (1 << n_members) - 1

    def drawn() -> Bool[np.ndarray, "sources members"]:
        bits = unrank(distinct_ranks(n_pairs, n_sources, rng), n_members, weight)
        bits = bits ^ rng.integers(2, size=(n_sources, 1), dtype=bool)
        return levelled(bits, rng, lambda code: everyone ^ code)

    return CodeBook(matched.best_apart(drawn))


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


def product(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    owner_of: Int[np.ndarray, " sources"] | None,
    weight: int | None = None,
    removable: int = 2,
    survivors: int = 1,
) -> CodeBook:
    """Sources that belong to owners: a member needs the bit of both.

    Owners have `sparse` codes, and each source a balanced choice of `weight` of its
    owner's members. So a source can be told from its owner's other sources and ablated
    at the price of a few members, and an owner with all sources at the price of his
    own code: any `removable` owners leave `survivors` members. Sources of different
    owners may share a code.

    Args:
        n_sources: Of one owner, at most C(weight of his code, weight).
        n_members: At least removable + survivors.
        rng: Draws the codes.
        owner_of: Whose each source is, 0 to n_owners - 1.
        weight: Members that train on a source; None is half of its owner's, rounded
            up.
        removable: Owners that may be ablated at once.
        survivors: Members that are left then, at least.

    Raises:
        BadInput: If nobody says who the owners are, there are too few members, too few
            or too many owners, or an owner has too many sources.
    """
    if owner_of is None:
        raise BadInput(
            "The design 'product' must know whose each source is: set data.owner to a "
            "column of the metadata."
        )
    owners = sparse(int(owner_of.max()) + 1, n_members, rng, removable, survivors)
    n_owned = int(owners.bits[0].sum())
    weight = -(-n_owned // 2) if weight is None else weight
    if weight > n_owned:
        raise BadInput(
            f"splits.weight is {weight}, but an owner has only {n_owned} members. Use "
            "less weight, or more members."
        )
    capacity = math.comb(n_owned, weight)
    bits = np.zeros((n_sources, n_members), dtype=bool)
    for owner, owned in enumerate(owners.bits):
        sources = np.flatnonzero(owner_of == owner)
        formula = f"each owner has C({n_owned}, {weight}) = {capacity}"
        require_capacity(len(sources), capacity, formula)
        chosen = unrank(distinct_ranks(capacity, len(sources), rng), n_owned, weight)
        level = levelled(chosen, rng, lambda code: code)
        bits[np.ix_(sources, np.flatnonzero(owned))] = level
    return CodeBook(bits)


def numbered(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    weight: int | None = None,
    salt: str = "",
) -> CodeBook:
    """A distinct code of one weight for each source number, computed without a table.

    Sources that are appended leave the codes of the others as they are. Splits are as
    even as chance makes them. The salt takes the place of the seed.

    Args:
        n_sources: At most C(n_members, weight).
        n_members: Even, unless a weight is given.
        rng: Not used.
        weight: 1 to n_members - 1; None is half of the members.
        salt: The secret that codes follow from.

    Raises:
        BadInput: If there are too many sources, a split is empty, or the weight does
            not fit.
    """
    del rng
    weight = chosen_weight(weight, n_members)
    return CodeBook(numbered_codes(np.arange(n_sources), n_members, weight, salt))


def named(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    names: Sequence[str],
    weight: int | None = None,
    salt: str = "",
) -> CodeBook:
    """A code of one weight for each source name, by a keyed hash, without a table.

    No code depends on any other source, not even on how many there are. Few sources in
    many codes are distinct by luck, others may share a code. The salt takes the place
    of the seed.

    Args:
        n_sources: How many names there are.
        n_members: Even, unless a weight is given.
        rng: Not used.
        names: What the sources are called, for ever.
        weight: 1 to n_members - 1; None is half of the members.
        salt: The secret that codes follow from.

    Raises:
        BadInput: If a split is empty, or the weight does not fit.
    """
    del n_sources, rng
    weight = chosen_weight(weight, n_members)
    return CodeBook(named_codes(names, n_members, weight, salt))


def rendezvous(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    names: Sequence[str],
    weight: int | None = None,
    salt: str = "",
) -> CodeBook:
    """As `named`, for ensembles that grow: a new member hardly changes old codes.

    Going from n_members to n_members + 1, a share of weight / (n_members + 1) of the
    codes moves one bit to the new member; all others stay. Set the weight, so that it
    does not grow with the ensemble.

    Args:
        n_sources: How many names there are.
        n_members: Even, unless a weight is given.
        rng: Not used.
        names: What the sources are called, for ever.
        weight: 1 to n_members - 1; None is half of the members.
        salt: The secret that codes follow from.

    Raises:
        BadInput: If a split is empty, or the weight does not fit.
    """
    del n_sources, rng
    weight = chosen_weight(weight, n_members)
    return CodeBook(rendezvous_codes(names, n_members, weight, salt))


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
        facts: What else it must know about the sources: `names`, `owner_of`.
    """

    draw: Callable[..., CodeBook]
    options: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


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
    "product": Design(product, ("weight", "removable", "survivors"), ("owner_of",)),
    "numbered": Design(numbered, ("weight", "salt")),
    "named": Design(named, ("weight", "salt"), ("names",)),
    "rendezvous": Design(rendezvous, ("weight", "salt"), ("names",)),
}
