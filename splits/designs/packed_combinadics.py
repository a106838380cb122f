"""Packed codes of up to 64 members: one uint64 each, computed fast from their ranks.

A word (uint64) holds a code's bits; member m's bit is worth 2^m. If codes are computed
from numbers (keyed.py), those of a billion sources need not be stored: any part of them
is computed again when it is needed.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from splits.designs.combinadics import require_ranks
from splits.errors import BadInput

_MEMBERS_AT_ONCE = 8
_GUIDE_BITS = 10
_LAST_MEMBERS = 16


def unrank(
    ranks: Int64[np.ndarray, " codes"], n_members: int, weight: int
) -> UInt64[np.ndarray, " codes"]:
    """The codes with the given ranks, as `ranks.unrank` gives them, but as words.

    Args:
        ranks: 0 to C(n_members, weight) - 1.
        n_members: Bits of a code, at most 64.
        weight: Set bits of a code.

    Raises:
        BadInput: If no code has such a rank, or there are too many members.

    Examples:
        >>> [f"{word:04b}" for word in unrank(np.array([0, 5]), 4, 2).tolist()]
        ['0011', '1100']
    """
    if not 1 <= n_members <= 64:
        raise BadInput(
            f"{n_members} members do not fit into a word: 1 to 64 do. Use `ranks.unrank` "
            "for more."
        )
    require_ranks(ranks, n_members, weight)
    return _unrank_words(ranks, n_members, weight)


def pack_words(
    words: UInt64[np.ndarray, " codes"], n_members: int
) -> UInt8[np.ndarray, "codes bytes"]:
    """The bits of words, eight members to a byte, the first in the lowest bit.

    Examples:
        >>> pack_words(np.array([3, 12], dtype=np.uint64), n_members=4).tolist()
        [[3], [12]]
    """
    content = words.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
    return content[:, : -(-n_members // 8)]


@dataclass(frozen=True, eq=False)
class _Digit:
    """Reads the bits of some members in a row off a rank.

    Codes in order of rank are sorted by these bits first. `left` set bits of a code are
    still to be placed here and below; row `left` of each table speaks of that case. A
    row of `guide` leads from the leading bits of a rank to the first value that may fit.

    Attributes:
        n_members: How many members these are.
        shift: What is not leading in a rank, in bits, by `left`.
        guide: Entry of the tables below at which to begin, by (left, leading bits).
        start: Ranks below those with the value, by (left, value).
        end: The same for the next value.
        left_after: Set bits that remain for the members below, by (left, value).
    """

    n_members: int
    shift: Int64[np.ndarray, " left"]
    guide: Int64[np.ndarray, " guide_entries"]
    start: Int64[np.ndarray, " entries"]
    end: Int64[np.ndarray, " entries"]
    left_after: Int64[np.ndarray, " entries"]


def _unrank_words(
    ranks: Int64[np.ndarray, " codes"], n_members: int, weight: int
) -> UInt64[np.ndarray, " codes"]:
    """Unrank with table look-ups: 7 for 64 members, instead of 64 steps."""
    digits, last, first_of = _tables(n_members, weight)
    rest, left = ranks.copy(), np.full(len(ranks), weight)
    word = np.zeros(len(ranks), dtype=np.int64)
    # All work is done in these two, for making new arrays takes as long as filling them.
    found, entry = np.empty_like(word), np.empty_like(word)
    for digit in digits:
        _look_up(digit.shift, left, found)
        np.right_shift(rest, found, out=found)
        found += left << _GUIDE_BITS
        _look_up(digit.guide, found, entry)
        _look_up(digit.end, entry, found)
        low = np.flatnonzero(rest >= found)
        while low.size:
            entry[low] += 1
            low = low[rest[low] >= digit.end.take(entry[low])]
        _look_up(digit.start, entry, found)
        rest -= found
        _look_up(digit.left_after, entry, left)
        word <<= digit.n_members
        entry &= (1 << digit.n_members) - 1
        word |= entry
    word <<= min(n_members, _LAST_MEMBERS)
    _look_up(first_of, left, entry)
    entry += rest
    _look_up(last, entry, found)
    word |= found
    return word.view(np.uint64)


def _look_up(
    table: Int64[np.ndarray, " entries"],
    entry: Int64[np.ndarray, " codes"],
    out: Int64[np.ndarray, " codes"],
) -> None:
    # No entry lies outside of a table; "clip" only spares the check.
    np.take(table, entry, out=out, mode="clip")


@functools.lru_cache(maxsize=16)
def _tables(
    n_members: int, weight: int
) -> tuple[list[_Digit], Int64[np.ndarray, " values"], Int64[np.ndarray, " left"]]:
    """Digits from the last member down, and how to look up what is left then.

    That is: all words of the first members, sorted by weight, and where those of each
    weight begin.
    """
    digits, above = [], n_members
    while above > _LAST_MEMBERS:
        below = max(_LAST_MEMBERS, above - _MEMBERS_AT_ONCE)
        digits.append(_digit(above, below, weight))
        above = below
    ones = np.bitwise_count(np.arange(1 << above)).astype(np.int64)
    counts = np.bincount(ones, minlength=weight + 1)
    return digits, np.argsort(ones, kind="stable"), np.cumsum(counts) - counts


def _digit(above: int, below: int, weight: int) -> _Digit:
    """The tables of members `below` to `above` - 1."""
    n_values = 1 << (above - below)
    ones = np.bitwise_count(np.arange(n_values)).astype(np.int64)
    shape = (weight + 1, n_values)
    start, end = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    guide = np.zeros((weight + 1, 1 << _GUIDE_BITS), np.int64)
    shift = np.zeros(weight + 1, np.int64)
    left_after = np.maximum(np.arange(weight + 1)[:, None] - ones, 0)
    for left in range(weight + 1):
        codes_below = [
            math.comb(below, left - n_set) if n_set <= left else 0
            for n_set in range(above - below + 1)
        ]
        with_value = np.array(codes_below)[ones]
        end[left] = np.cumsum(with_value)
        start[left] = end[left] - with_value
        largest = max(int(end[left, -1]) - 1, 0)
        shift[left] = max(0, largest.bit_length() - _GUIDE_BITS)
        ranks = np.minimum(np.arange(1 << _GUIDE_BITS) << shift[left], largest)
        guide[left] = np.searchsorted(end[left], ranks, side="right")
        guide[left] += left * n_values
    return _Digit(
        above - below,
        shift,
        guide.reshape(-1),
        start.reshape(-1),
        end.reshape(-1),
        left_after.reshape(-1),
    )
