"""Scan: the codes that move a picture most, among any number of them.

Displacement² is dᵀGd, one members x members matrix for each query (first_order.py), so
a code is judged in a tenth of a microsecond and never has to be stored. Codes stream
past in blocks; what is kept are the largest displacements and a histogram of all.
"""

import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from splits.designs import keyed, packed_combinadics
from splits.errors import BadInput

# So few codes that the numbers made of them on the way fit into a core's cache.
BLOCK = 32768
N_BINS = 16384
# Far above the relative rounding error of a large displacement in 32 bits.
_MARGIN = 1e-3

# Codes one after the other: bool (codes, members), or eight members to a byte, the
# first in the lowest bit (numpy.packbits with bitorder "little"). Or a function that
# makes them, which then runs beside the scanning of other blocks.
Codes = Bool[np.ndarray, "_codes _members"] | UInt8[np.ndarray, "_codes _bytes"]
Block = Codes | Callable[[], Codes]


@dataclass(frozen=True, eq=False)
class Scan:
    """What streamed past.

    Attributes:
        sources: Places in the stream of the most displacing codes, most first; of
            equals the earlier.
        displacement: Their displacement.
        n_codes: How many codes there were.
        counts: How many displacements fell between 0 and `widest`, in equal bins.
        widest: No code whatsoever displaces more.
    """

    sources: Int64[np.ndarray, "queries top"]
    displacement: Float64[np.ndarray, "queries top"]
    n_codes: int
    counts: Int64[np.ndarray, "queries bins"]
    widest: Float64[np.ndarray, " queries"]

    def quantile(self, share: float) -> Float64[np.ndarray, " queries"]:
        """The displacement below which this share of the codes is, to within a bin."""
        below = np.cumsum(self.counts, axis=1) < share * self.n_codes
        return (below.sum(axis=1) + 1) * self.widest / self.counts.shape[1]


def stored(codes: Codes, size: int = BLOCK) -> Iterator[Block]:
    """Blocks of an array or a memory map, read when their turn comes."""
    for first in range(0, len(codes), size):
        yield functools.partial(codes.__getitem__, slice(first, first + size))


def numbered(
    n_sources: int, n_members: int, weight: int, salt: str, size: int = BLOCK
) -> Iterator[Block]:
    """Blocks of the codes that `streams.numbered_codes` gives to sources 0, 1, 2, ...

    Args:
        n_sources: At most C(n_members, weight).
        n_members: At most 64.
        weight: Set bits of a code.
        salt: The secret that codes follow from.
        size: Codes in a block.
    """
    capacity = math.comb(n_members, weight)

    def codes(first: int) -> UInt8[np.ndarray, "codes bytes"]:
        numbers = np.arange(first, min(first + size, n_sources))
        ranks = keyed.permute(numbers, capacity, salt)
        return packed_combinadics.pack_words(
            packed_combinadics.unrank(ranks, n_members, weight), n_members
        )

    for first in range(0, n_sources, size):
        yield functools.partial(codes, first)


def top_codes(
    gram: Float64[np.ndarray, "queries members members"],
    blocks: Iterable[Block],
    n_top: int = 100,
    n_threads: int | None = None,
) -> Scan:
    """The codes with the largest displacements, in constant memory.

    With b the bits of a code of weight w and G centred (its rows and columns sum to
    zero: only changes of votes that sum to zero matter),

        dᵀGd = bᵀGb / (members - w)²

    which is looked up in tables, one for each pair of bytes of the code: for 64 members
    28 look-ups in place of 64 x 64 products. All codes are judged in 32 bits, those near
    the top again in 64, so that the result is exact. The tables take 7 MB for a query
    of 64 members, and grow with the square of the members.

    Args:
        gram: G of each query.
        blocks: The codes.
        n_top: How many to find.
        n_threads: Blocks at once; None: as many as there are cores.

    Raises:
        BadInput: If there are no codes, or a block is not of this many members or
            holds a code that leaves none to vote; or if none is to be found.
    """
    if n_top < 1:
        raise BadInput(f"The top {n_top} codes cannot be found: ask for 1 or more.")
    kept = _Kept(gram, n_top)
    n_codes = 0
    for judged in _side_by_side(kept.judged, blocks, n_threads):
        kept.merge(judged, n_codes)
        n_codes += judged.n_codes
    if not n_codes:
        raise BadInput("There are no codes to scan. Give at least one block of them.")
    return Scan(
        np.stack(kept.sources),
        np.sqrt(np.stack(kept.squared)),
        n_codes,
        kept.counts,
        kept.widest,
    )


@dataclass(frozen=True, eq=False)
class _Judged:
    """What a block holds: for each query its candidates, and counts of all."""

    n_codes: int
    places: list[Int64[np.ndarray, " _candidates"]]
    squared: list[Float64[np.ndarray, " _candidates"]]
    counts: Int64[np.ndarray, "queries bins"]


class _Kept:
    """What is kept of the stream so far."""

    def __init__(
        self, gram: Float64[np.ndarray, "queries members members"], n_top: int
    ) -> None:
        self.n_top, self.n_members = n_top, gram.shape[1]
        self.gram = np.stack([_centred(one) for one in gram])
        self.tables = [_tables(one) for one in self.gram]
        # The longest change of votes leaves one member: |d|² = 1 - 1 / members.
        largest = np.maximum(np.linalg.eigvalsh(self.gram)[:, -1], 0)
        self.widest = np.sqrt(largest * (1 - 1 / self.n_members))
        self.sources = [np.zeros(0, np.int64)] * len(gram)
        self.squared = [np.zeros(0)] * len(gram)
        self.counts = np.zeros((len(gram), N_BINS), np.int64)

    def judged(self, block: Block) -> _Judged:
        """Judge a block; several may be judged at once."""
        columns = _columns(block() if callable(block) else block, self.n_members)
        survivors = _survivors(columns, self.n_members)
        share = np.float32(1) / survivors.astype(np.float32)
        places, squared, counts = [], [], []
        for query, tables in enumerate(self.tables):
            length = np.sqrt(np.maximum(_looked_up(tables, columns), 0)) * share
            counts.append(self._counted(query, length))
            near = np.flatnonzero(length >= self._bar(query, length) * (1 - _MARGIN))
            places.append(near)
            exact = _squared(self.gram[query], columns[:, near])
            squared.append(exact / np.square(survivors[near], dtype=np.float64))
        return _Judged(len(survivors), places, squared, np.stack(counts))

    def _counted(
        self, query: int, length: Float32[np.ndarray, " codes"]
    ) -> Int64[np.ndarray, " bins"]:
        scale = np.float32(N_BINS / max(self.widest[query], 1e-30))
        bins = np.minimum((length * scale).astype(np.int64), N_BINS - 1)
        return np.bincount(bins, minlength=N_BINS)

    def _bar(self, query: int, length: Float32[np.ndarray, " codes"]) -> float:
        """What a code of the block must reach to be among the top."""
        known = self.squared[query]
        if len(known) == self.n_top:
            return float(np.sqrt(known[-1]))
        if len(length) > self.n_top:
            return float(np.partition(length, -self.n_top)[-self.n_top])
        return 0.0

    def merge(self, block: _Judged, n_before: int) -> None:
        """Add a block that stands behind so many codes in the stream."""
        self.counts += block.counts
        for query, places in enumerate(block.places):
            sources = np.concatenate([self.sources[query], places + n_before])
            squared = np.concatenate([self.squared[query], block.squared[query]])
            best = np.lexsort((sources, -squared))[: self.n_top]
            self.sources[query], self.squared[query] = sources[best], squared[best]


def _centred(
    gram: Float64[np.ndarray, "members members"],
) -> Float64[np.ndarray, "members members"]:
    """G with rows and columns that sum to zero; equal for changes of votes that do."""
    rows = gram - gram.mean(axis=0)
    return rows - rows.mean(axis=1, keepdims=True)


def _tables(
    gram: Float64[np.ndarray, "members members"],
) -> list[list[Float32[np.ndarray, " values"]]]:
    """bᵀGb as a sum over pairs of bytes of b, entry by the value of the two bytes.

    With G_ij the part of G between bytes i and j, each pair i < j of n bytes holds

        2 b_iᵀ G_ij b_j + (b_iᵀ G_ii b_i + b_jᵀ G_jj b_j) / (n - 1)
    """
    n_bytes = max(2, -(-len(gram) // 8))
    parts = np.zeros((8 * n_bytes, 8 * n_bytes))
    parts[: len(gram), : len(gram)] = gram
    parts = parts.reshape(n_bytes, 8, n_bytes, 8).transpose(0, 2, 1, 3)
    values = np.arange(256, dtype=np.uint8)[:, None]
    bits = np.unpackbits(values, axis=1, bitorder="little").astype(np.float64)
    own = [
        ((bits @ parts[byte, byte]) * bits).sum(axis=1) / (n_bytes - 1)
        for byte in range(n_bytes)
    ]
    return [
        [
            (2 * bits @ parts[i, j] @ bits.T + own[i][:, None] + own[j])
            .astype(np.float32)
            .reshape(-1)
            for j in range(i + 1, n_bytes)
        ]
        for i in range(n_bytes)
    ]


def _looked_up(
    tables: list[list[Float32[np.ndarray, " values"]]],
    columns: UInt8[np.ndarray, "bytes codes"],
) -> Float32[np.ndarray, " codes"]:
    """bᵀGb of each code, in 32 bits."""
    n_codes = columns.shape[1]
    numbers = np.zeros((len(tables), n_codes), np.uint16)
    numbers[: len(columns)] = columns
    total, value = np.zeros(n_codes, np.float32), np.empty(n_codes, np.float32)
    entry = np.empty(n_codes, np.uint16)
    for first, row in enumerate(tables):
        high = numbers[first] << 8
        for table, low in zip(row, numbers[first + 1 :], strict=True):
            np.bitwise_or(high, low, out=entry)
            # No entry lies outside of a table; "clip" only spares the check.
            np.take(table, entry, out=value, mode="clip")
            total += value
    return total


def _squared(
    gram: Float64[np.ndarray, "members members"],
    columns: UInt8[np.ndarray, "bytes codes"],
) -> Float64[np.ndarray, " codes"]:
    """bᵀGb of each code, in 64 bits."""
    bits = np.unpackbits(columns, axis=0, count=len(gram), bitorder="little")
    numbers = bits.T.astype(np.float64, order="C")
    # Unlike a matrix product, einsum sums a row in the same order wherever it stands,
    # so that equal codes come out equal.
    return np.einsum("cm,cm->c", np.einsum("cm,mn->cn", numbers, gram), numbers)


def _columns(codes: Codes, n_members: int) -> UInt8[np.ndarray, "bytes codes"]:
    """Codes with eight members to a byte, byte by byte."""
    n_bytes = -(-n_members // 8)
    if codes.shape[1] != (n_members if codes.dtype == bool else n_bytes):
        raise BadInput(
            f"Codes of shape {codes.shape} and type {codes.dtype} are not of "
            f"{n_members} members: bool (codes, {n_members}) is wanted, or uint8 "
            f"(codes, {n_bytes}) with eight members to a byte."
        )
    if codes.dtype == bool:
        codes = np.packbits(codes, axis=1, bitorder="little")
    return np.ascontiguousarray(codes.T)


def _survivors(
    columns: UInt8[np.ndarray, "bytes codes"], n_members: int
) -> Int64[np.ndarray, " codes"]:
    """How many members each code leaves."""
    left = n_members - np.bitwise_count(columns).sum(axis=0, dtype=np.int64)
    if not left.all():
        raise BadInput(
            "A code sets every bit, so that none of the members is left to vote. Scan "
            "codes that leave at least one."
        )
    return left


def _side_by_side(
    judged: Callable[[Block], _Judged],
    blocks: Iterable[Block],
    n_threads: int | None,
) -> Iterator[_Judged]:
    """Judge some blocks at once, without running far ahead; in order."""
    n_threads = n_threads or os.cpu_count() or 1
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: deque[Future[_Judged]] = deque()
        for block in blocks:
            waiting.append(pool.submit(judged, block))
            if len(waiting) > 2 * n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
