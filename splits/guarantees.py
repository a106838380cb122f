"""Guarantees of a code book, which can be counted before any training.

Survivors are the members that remain when sources are ablated. All numbers are counted,
none is estimated from theory. Those about pairs of sources are counted over every pair,
or, in large books, over every pair within a random sample of the sources.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from splits.codes import CodeBook
from splits.errors import BadInput

# With more sources than this, pairs are counted within a sample of this many.
MOST_COMPARED = 4096
_SAMPLE_SEED = 0
_BLOCK = 512


def count_guarantees(codes: CodeBook) -> dict[str, Any]:
    """Count the guarantees of a code book, as numbers and text that JSON can hold.

    Returns:
        n_sources, n_members: The shape of the book.
        weight_min, weight_max: Members that train on a source.
        capacity: Number of codes of this weight; None if codes differ in weight.
        sources_sharing_a_code: Sources whose code another source has too.
        split_min, split_mean, split_max: Sources that a member trains on.
        split_share: split_mean / n_sources.
        survivors_of_one_min, survivors_of_one_mean: Without any one source.
        never_ablated: Sources without survivors.
        never_trained: Sources that no member trains on.
        survivors_of_two_min, survivors_of_two_mean: Without any two sources.
        no_survivor_of_two: Share of the pairs of sources without survivors.
        distance_min, distance_mean: Members in which the codes of two sources differ.
        pairs: `exact` if every pair of sources was counted, else `sampled`.
        n_pairs: How many were counted.

    Raises:
        BadInput: If the book has one source only.

    Examples:
        >>> codes = CodeBook(np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]],
        ...     dtype=bool))
        >>> found = count_guarantees(codes)
        >>> found["split_min"], found["survivors_of_one_min"], found["pairs"]
        (1, 2, 'exact')
    """
    if codes.n_sources < 2:
        raise BadInput(
            "A code book of 1 source promises nothing about pairs of sources: give at "
            "least two."
        )
    weights = codes.bits.sum(axis=1)
    return {
        "n_sources": codes.n_sources,
        "n_members": codes.n_members,
        **_weights(weights, codes.n_members),
        "sources_sharing_a_code": _n_sharing(codes),
        **_splits(codes),
        "survivors_of_one_min": codes.n_members - int(weights.max()),
        "survivors_of_one_mean": codes.n_members - float(weights.mean()),
        "never_ablated": int((weights == codes.n_members).sum()),
        "never_trained": int((weights == 0).sum()),
        **_pairs(codes),
    }


def describe(promised: dict[str, Any]) -> str:
    """The guarantees as a table of text: name, number, and `exact` or `sampled`."""
    return _table(_rows(promised))


def compare(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The guarantees of two books as a table of text: name, before, now, how counted."""
    rows = [("", "before", "now", "")]
    for (label, old, _), (_, new, how) in zip(_rows(before), _rows(now), strict=True):
        rows.append((label, old, new, how))
    return _table(rows)


def _rows(promised: dict[str, Any]) -> list[tuple[str, str, str]]:
    capacity = promised["capacity"]
    about_sources = [
        ("sources", f"{promised['n_sources']:,}"),
        ("members", f"{promised['n_members']:,}"),
        ("members that train on a source", _span(promised, "weight")),
        ("codes of that weight", f"{capacity:,}" if capacity else "several weights"),
        ("sources that share a code", f"{promised['sources_sharing_a_code']:,}"),
        ("sources in a split", _span(promised, "split")),
        ("share of the sources in a split", _percent(promised["split_share"])),
        ("members left without any one source", _least(promised, "survivors_of_one")),
        ("sources that cannot be ablated", f"{promised['never_ablated']:,}"),
        ("sources that nobody trains on", f"{promised['never_trained']:,}"),
    ]
    about_pairs = [
        ("members left without any two sources", _least(promised, "survivors_of_two")),
        ("pairs that leave no member", _percent(promised["no_survivor_of_two"])),
        ("members in which two codes differ", _least(promised, "distance")),
    ]
    counted = f"{promised['pairs']}, {promised['n_pairs']:,} pairs"
    rows = [(*row, "exact") for row in about_sources]
    return rows + [(*row, counted) for row in about_pairs]


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _weights(weights: Int64[np.ndarray, " sources"], n_members: int) -> dict[str, Any]:
    low, high = int(weights.min()), int(weights.max())
    return {
        "weight_min": low,
        "weight_max": high,
        "capacity": math.comb(n_members, low) if low == high else None,
    }


def _n_sharing(codes: CodeBook) -> int:
    packed = np.packbits(codes.bits, axis=1)
    _, counts = np.unique(packed, axis=0, return_counts=True)
    return int(counts[counts > 1].sum())


def _splits(codes: CodeBook) -> dict[str, Any]:
    loads = codes.bits.sum(axis=0)
    return {
        "split_min": int(loads.min()),
        "split_mean": float(loads.mean()),
        "split_max": int(loads.max()),
        "split_share": float(loads.mean()) / codes.n_sources,
    }


def _pairs(codes: CodeBook) -> dict[str, Any]:
    bits = codes.bits
    if codes.n_sources > MOST_COMPARED:
        rng = np.random.default_rng(_SAMPLE_SEED)
        bits = bits[rng.choice(codes.n_sources, MOST_COMPARED, replace=False)]
    survivors, distances = _pair_counts(bits)
    n_pairs = int(survivors.sum())
    return {
        "survivors_of_two_min": int(np.flatnonzero(survivors)[0]),
        "survivors_of_two_mean": float(survivors @ np.arange(len(survivors)) / n_pairs),
        "no_survivor_of_two": float(survivors[0] / n_pairs),
        "distance_min": int(np.flatnonzero(distances)[0]),
        "distance_mean": float(distances @ np.arange(len(distances)) / n_pairs),
        "pairs": "exact" if bits is codes.bits else "sampled",
        "n_pairs": n_pairs,
    }


def _pair_counts(
    bits: Bool[np.ndarray, "sources members"],
) -> tuple[Int64[np.ndarray, " counts"], Int64[np.ndarray, " counts"]]:
    """How many pairs of sources have 0, 1, ... n_members survivors, and distances.

    With weights w and |i and j| members that see both sources,

        survivors(i, j) = n_members - w_i - w_j + |i and j|
        distance(i, j)  = w_i + w_j - 2 |i and j|
    """
    n_sources, n_members = bits.shape
    weights = bits.sum(axis=1)
    # Products of zeros and ones: single precision counts them exactly up to 2^24.
    seen = bits.astype(np.float32)
    survivors = np.zeros(n_members + 1, dtype=np.int64)
    distances = np.zeros(n_members + 1, dtype=np.int64)
    for start in range(0, n_sources, _BLOCK):
        block = slice(start, start + _BLOCK)
        both = (seen[block] @ seen.T).astype(np.int64)
        either = weights[block, None] + weights - both
        later = np.arange(n_sources) > np.arange(n_sources)[block, None]
        survivors += np.bincount(n_members - either[later], minlength=n_members + 1)
        distances += np.bincount((either - both)[later], minlength=n_members + 1)
    return survivors, distances


def _span(promised: dict[str, Any], name: str) -> str:
    least, most = promised[f"{name}_min"], promised[f"{name}_max"]
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _least(promised: dict[str, Any], name: str) -> str:
    return f"least {promised[f'{name}_min']}, mean {promised[f'{name}_mean']:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
