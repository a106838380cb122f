"""Shard ordering: the order of samples in shards, and the read amplification of members.

A member reads blocks: pages of a disk, ranges of an object store, whole shards. A block
that holds one sample of the member's split is read as a whole. Amplification is small if
samples with the same code are adjacent; if every sample has another code, neighbours
should have similar codes. *Read amplification* is bytes read per byte of the member's
own samples, headers included: 1 is the optimum.

Finding the best order of all codes is a travelling salesman problem. Two orders that
come close to `mean_lower_bound` are tried, and the better one is taken: codes sorted as
Gray code (Lemire, Kaser & Aouiche 2010, https://arxiv.org/abs/0901.3751), which is good
for large blocks; and a greedy nearest-neighbour tour within intervals of these, which is
good for small blocks. Both are deterministic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

# The smallest amount that a disk reads.
PAGE_BYTES = 4096
# Number of codes among which the nearest is searched; the work grows with it.
_STRETCH = 2048

Bits = Bool[np.ndarray, "samples members"]


@dataclass(frozen=True, eq=False)
class Reading:
    """The read amplification of every member.

    Attributes:
        read_bytes: Size of a block.
        used: Bytes of each member's own samples.
        once: Amplification of each member if each block is read once an epoch.
        singly: The same if samples are read one by one, and no block is kept.
        shards: The same if whole shards are read.
        least: No order of these samples has a smaller mean of `once`.
    """

    read_bytes: int
    used: Int64[np.ndarray, " members"]
    once: Float64[np.ndarray, " members"]
    singly: Float64[np.ndarray, " members"]
    shards: Float64[np.ndarray, " members"]
    least: float

    def mean(self, amplification: Float64[np.ndarray, " members"]) -> float:
        """The amplification over all members: bytes read per byte used."""
        return float((amplification * self.used).sum() / self.used.sum())


def order_by_code(
    bits: Bits, sample_bytes: int, read_bytes: int = PAGE_BYTES
) -> Int64[np.ndarray, " samples"]:
    """Sort samples so that those with equal or similar codes are adjacent.

    Args:
        bits: The code of each sample.
        sample_bytes: Approximate size of a sample.
        read_bytes: Size of a block.

    Returns:
        The numbers of the samples in this order; samples of one code ascend.
    """
    codes, code_of = _distinct(bits)
    # Gray code: a bit's value is the parity of all bits up to it.
    parity = np.packbits(np.logical_xor.accumulate(codes, axis=1), axis=1)
    by_gray = np.lexsort(parity.T[::-1])
    by_nearest = by_gray.copy()
    for start in range(0, len(by_gray), _STRETCH):
        stretch = by_gray[start : start + _STRETCH]
        by_nearest[start : start + _STRETCH] = stretch[_nearest_first(codes[stretch])]
    orders = [
        np.argsort(np.argsort(in_order)[code_of], kind="stable")
        for in_order in (by_nearest, by_gray)
    ]
    sizes = np.full(len(bits), sample_bytes)
    in_vain = [
        _bytes_read_once(bits[order], sizes, read_bytes).sum() for order in orders
    ]
    return orders[int(np.argmin(in_vain))]


def shard_sizes(bits: Bits, per_shard: int) -> list[int]:
    """The number of samples in each shard; a shard has one code if the code fills it.

    A shard ends when it is full. It also ends where the code changes, if a tenth of a
    shard lies on either side. So codes with at least that many samples are not mixed.

    Args:
        bits: The code of each sample, in the order of the shards.
        per_shard: The most samples of a shard, at least 1.
    """
    changes = np.flatnonzero((bits[1:] != bits[:-1]).any(axis=1)) + 1
    groups = np.diff(np.concatenate([[0], changes, [len(bits)]])).tolist()
    sizes, filled = [], 0
    for group in groups:
        if filled and 10 * max(filled, group) >= per_shard:
            sizes.append(filled)
            filled = 0
        whole, filled = divmod(filled + group, per_shard)
        sizes += [per_shard] * whole
    return [*sizes, filled] if filled else sizes


def measure_reading(
    bits: Bits,
    sizes: Int[np.ndarray, " samples"],
    per_shard: Sequence[int],
    read_bytes: int = PAGE_BYTES,
) -> Reading:
    """The read amplification of every member, computed before shards are written.

    Args:
        bits: The code of each sample, in the order in which they lie.
        sizes: Bytes that each takes in its shard, in the same order.
        per_shard: Samples in each shard.
        read_bytes: Size of a block.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    begins = ends - sizes
    used = sizes.astype(np.int64) @ bits
    files = np.concatenate([[0], ends[np.cumsum(per_shard) - 1]])
    touched = (ends - 1) // read_bytes - begins // read_bytes + 1
    return Reading(
        read_bytes=read_bytes,
        used=used,
        once=_bytes_read_once(bits, sizes, read_bytes) / used,
        singly=(touched * read_bytes) @ bits / used,
        shards=_bytes_of_blocks(bits, begins, ends, files) / used,
        least=mean_lower_bound(bits, sizes, read_bytes),
    )


def mean_lower_bound(
    bits: Bits, sizes: Int[np.ndarray, " samples"], read_bytes: int
) -> float:
    """A lower bound on the mean amplification of any order of the samples.

    Codes c have S_c bytes in all. A full block of r bytes with a byte of code c holds
    at least k = 1 + ceil((r - S_c) / max S) codes. These are read by u members, where u
    is the smallest number not below the weight w_c such that k codes of the weights of
    the book fit into u members. Each byte of c is read at least u times and used w_c
    times, so the bound is (sum over c of S_c u_c) / (sum over c of S_c w_c). Blocks at
    the end of the last shard are taken for full.

    Args:
        bits: The code of each sample.
        sizes: Bytes that each takes in its shard.
        read_bytes: Size of a block.
    """
    codes, code_of = _distinct(bits)
    seen = codes.any(axis=1)
    weights = codes.sum(axis=1)
    total = np.bincount(code_of, weights=sizes)
    room = np.maximum(min(read_bytes, total.sum()) - total, 0)
    n_codes = 1 + np.ceil(room / total.max()).astype(np.int64)
    fit = _codes_that_fit(np.unique(weights), bits.shape[1])
    u = np.maximum(weights, np.searchsorted(fit, n_codes))
    return float((total * u)[seen].sum() / (total * weights).sum())


def describe(found: Reading) -> str:
    """The read amplification as a table of text."""
    rows = {
        f"each block of {found.read_bytes:,} bytes once an epoch": found.once,
        "image by image, no block kept": found.singly,
        "whole shards": found.shards,
    }
    lines = [
        f"{name:<42} {found.mean(row):8.3f} {row.min():8.3f} {row.max():8.3f}"
        for name, row in rows.items()
    ]
    return "\n".join(
        [
            f"{'bytes read for each byte used':<42} {'mean':>8} {'least':>8} {'most':>8}",
            *lines,
            f"{'no order of these codes has a mean below':<42} {found.least:8.3f}",
        ]
    )


def _distinct(
    bits: Bits,
) -> tuple[Bool[np.ndarray, "codes members"], Int64[np.ndarray, " samples"]]:
    """The distinct codes, and the number of each sample's code among them."""
    packed = np.packbits(bits, axis=1)
    _, first, code_of = np.unique(
        packed, axis=0, return_index=True, return_inverse=True
    )
    return bits[first], code_of.reshape(-1)


def _nearest_first(codes: Bool[np.ndarray, "codes members"]) -> list[int]:
    """A greedy tour from the first code: the next code differs in the fewest bits."""
    signs = np.where(codes, np.float32(1), np.float32(-1))
    gone = np.zeros(len(codes), dtype=np.float32)
    chain = [0]
    for _ in range(len(codes) - 1):
        gone[chain[-1]] = np.inf
        chain.append(int(np.argmax(signs @ signs[chain[-1]] - gone)))
    return chain


def _codes_that_fit(
    weights: Int64[np.ndarray, " weights"], n_members: int
) -> Float64[np.ndarray, " sizes"]:
    """How many codes of these weights lie within 0, 1, ... n_members members."""
    # Beyond 2^53 these are rounded; so many codes are not in any block.
    return np.array(
        [
            float(sum(math.comb(size, int(weight)) for weight in weights))
            for size in range(n_members + 1)
        ]
    )


def _bytes_read_once(
    bits: Bits, sizes: Int[np.ndarray, " samples"], read_bytes: int
) -> Int64[np.ndarray, " members"]:
    """Bytes that each member reads if it reads each block once."""
    ends = np.cumsum(sizes, dtype=np.int64)
    edges = np.arange(0, ends[-1] + read_bytes, read_bytes)
    return _bytes_of_blocks(bits, ends - sizes, ends, edges)


def _bytes_of_blocks(
    bits: Bits,
    begins: Int64[np.ndarray, " samples"],
    ends: Int64[np.ndarray, " samples"],
    edges: Int64[np.ndarray, " edges"],
) -> Int64[np.ndarray, " members"]:
    """Bytes of the blocks between edges that hold something of each member."""
    first = np.searchsorted(edges, begins, side="right") - 1
    behind = np.searchsorted(edges, ends, side="left")
    read = []
    for member in range(bits.shape[1]):
        seen = bits[:, member]
        rise = np.bincount(first[seen], minlength=len(edges))
        fall = np.bincount(behind[seen], minlength=len(edges))
        needed = np.cumsum(rise - fall)[:-1] > 0
        read.append(np.diff(edges)[needed].sum())
    return np.array(read)
