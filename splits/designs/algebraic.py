"""Algebraic designs, whose codes interfere little with each other.

Reed-Solomon codes are several partitions at once; Hadamard codes are orthogonal.
"""

import numpy as np

from splits.codes import CodeBook
from splits.designs.capacity import require_capacity, require_filled
from splits.errors import BadInput


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
        rng: Assigns polynomials to sources and draws the blocks' points.

    Raises:
        BadInput: If the numbers of sources or members do not fit.
    """
    q = greatest_prime_factor(n_members)
    n_blocks = n_members // q
    if n_blocks > q:
        raise BadInput(
            f"{n_members} members do not fit the design 'reed_solomon': it needs a "
            f"prime times a number that is not greater, such as {_next_fit(n_members)}."
        )
    require_filled(n_sources, n_members, n_blocks)
    require_capacity(n_sources, q**n_blocks, f"{q}^{n_blocks} = {q**n_blocks}")
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


def greatest_prime_factor(number: int) -> int:
    """The greatest prime that divides a number; 1 for 1."""
    factor, rest = 1, number
    for divisor in range(2, number + 1):
        while rest % divisor == 0:
            factor, rest = divisor, rest // divisor
    return factor


def _next_fit(n_members: int) -> int:
    # A single block would fit too, but has no more codes than members.
    while True:
        n_members += 1
        q = greatest_prime_factor(n_members)
        if 2 <= n_members // q <= q:
            return n_members
