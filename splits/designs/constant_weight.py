"""Designs in which as many members train on each source as on every other."""

import math

import numpy as np
from jaxtyping import Bool

from splits.codes import CodeBook
from splits.designs import placebos
from splits.designs.balancing import balance_loads
from splits.designs.capacity import (
    chosen_weight,
    half,
    require_capacity,
    require_filled,
)
from splits.designs.combinadics import distinct_ranks, unrank
from splits.errors import BadInput


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
        return balance_loads(bits, rng, lambda code: code)

    return CodeBook(placebos.draw_separable(drawn))


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
        return balance_loads(bits, rng, lambda code: everyone ^ code)

    return CodeBook(placebos.draw_separable(drawn))
