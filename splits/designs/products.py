"""The design for sources that belong to owners."""

import math

import numpy as np
from jaxtyping import Int

from splits.codes import CodeBook
from splits.designs.balancing import balance_loads
from splits.designs.capacity import require_capacity
from splits.designs.combinadics import distinct_ranks, unrank
from splits.designs.constant_weight import sparse
from splits.errors import BadInput


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
        level = balance_loads(chosen, rng, lambda code: code)
        bits[np.ix_(sources, np.flatnonzero(owned))] = level
    return CodeBook(bits)
