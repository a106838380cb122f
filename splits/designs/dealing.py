"""Designs that assign a source to one member, to all but one, or to random halves."""

import numpy as np

from splits.codes import CodeBook
from splits.designs.constant_weight import balanced
from splits.errors import BadInput


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
