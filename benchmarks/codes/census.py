"""Census: a code book that no table holds, counted from end to end.

Sources are numbered, their codes follow from the numbers, and blocks of them are made,
counted and forgotten. Memory is the same for a thousand sources and for a billion.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64

from splits.designs import packed_combinadics
from splits.designs.keyed import invert_permutation, permute
from splits.errors import BadInput

_BLOCK = 1 << 13
# Which of its eight bits each byte sets.
_BITS = np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"
)


@dataclass(frozen=True, eq=False)
class Census:
    """What was counted.

    Attributes:
        n_sources: Codes that were made.
        splits: Sources that each member trains on.
        n_wrong: Codes of another weight, or whose number does not lead back to their
            source. Zero proves that all codes are distinct.
    """

    n_sources: int
    splits: Int64[np.ndarray, " members"]
    n_wrong: int


def numbered_words(
    numbers: Int64[np.ndarray, " codes"], n_members: int, weight: int, salt: str
) -> UInt64[np.ndarray, " codes"]:
    """The codes of `streams.numbered_codes` as integers; member m's bit is worth 2^m.

    Args:
        numbers: Source numbers, 0 to C(n_members, weight) - 1.
        n_members: At most 64.
        weight: Set bits of a code.
        salt: The secret.

    Raises:
        BadInput: If a number has no code, or a code no word.
    """
    ranks = permute(numbers, math.comb(n_members, weight), salt)
    return packed_combinadics.unrank(ranks, n_members, weight)


def count(n_sources: int, n_members: int, weight: int, salt: str) -> Census:
    """Make every code, check it and count the splits, in constant memory.

    Raises:
        BadInput: If there are fewer codes than sources, or none of them fits a word.
    """
    splits = np.zeros(8 * (-(-n_members // 8)), dtype=np.int64)
    n_wrong = 0
    for numbers in _blocks(n_sources):
        capacity = math.comb(n_members, weight)
        ranks = permute(numbers, capacity, salt)
        codes = packed_combinadics.unrank(ranks, n_members, weight)
        light = np.bitwise_count(codes) != weight
        astray = invert_permutation(ranks, capacity, salt) != numbers
        n_wrong += int((light | astray).sum())
        for byte, column in enumerate(
            packed_combinadics.pack_words(codes, n_members).T
        ):
            held = np.bincount(column, minlength=256) @ _BITS
            splits[8 * byte : 8 * byte + 8] += held
    return Census(n_sources, splits[:n_members], n_wrong)


def split(
    member: int, n_sources: int, n_members: int, weight: int, salt: str
) -> Iterator[Int64[np.ndarray, " split"]]:
    """The sources that a member trains on, in ascending blocks.

    Raises:
        BadInput: If there is no such member, or a source has no code.
    """
    if not 0 <= member < n_members:
        raise BadInput(
            f"Member {member} does not exist: there are members 0 to {n_members - 1}."
        )
    for numbers in _blocks(n_sources):
        codes = numbered_words(numbers, n_members, weight, salt)
        yield numbers[(codes >> np.uint64(member)) & np.uint64(1) == 1]


def _blocks(n_sources: int) -> Iterator[Int64[np.ndarray, " block"]]:
    for start in range(0, n_sources, _BLOCK):
        yield np.arange(start, min(start + _BLOCK, n_sources))
