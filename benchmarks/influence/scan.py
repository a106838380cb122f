"""Scanning codes for the largest displacements: seconds and memory, by their number.

    python -m benchmarks.influence.scan [MOST_SOURCES]

A random positive G of one query; the hundred most displacing of 10^6 and 10^7 sources
(or MOST_SOURCES) for 16, 32 and 64 members, and growth from 10^3 sources up for 64.
Codes follow from the sources' numbers and are made while they are scanned; 16 members
have too few codes for that, so theirs have random ranks. Every case runs in a process
of its own, so that peak memory is its own. Target: 10^7 codes in at most 2 s and 1 GB,
making them included.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from ensemble.ablation import code_search
from ensemble.system import environment
from splits.designs import packed_combinadics

SEED = 0
MEMBERS = (16, 32, 64)
N_TURNS = 3


def blocks_of(n_sources: int, n_members: int) -> Iterator[code_search.Block]:
    """Codes of half weight, block by block."""
    weight = n_members // 2
    capacity = math.comb(n_members, weight)
    if n_sources <= capacity:
        yield from code_search.numbered(n_sources, n_members, weight, "benchmark")
        return

    def codes(block: int, n_codes: int) -> np.ndarray:
        rng = np.random.default_rng((SEED, block))
        ranks = rng.integers(capacity, size=n_codes)
        return packed_combinadics.pack_words(
            packed_combinadics.unrank(ranks, n_members, weight), n_members
        )

    for first in range(0, n_sources, code_search.BLOCK):
        yield partial(codes, first, min(code_search.BLOCK, n_sources - first))


def case(n_sources: int, n_members: int) -> dict[str, Any]:
    """Seconds and memory of one scan in this process; the best of some turns."""
    rng = np.random.default_rng(SEED)
    jacobian = rng.normal(size=(1, 3 * n_members, n_members))
    gram = jacobian.transpose(0, 2, 1) @ jacobian / jacobian.shape[1]
    seconds, making = [], []
    for _ in range(N_TURNS):
        began = time.perf_counter()
        found = code_search.top_codes(gram, blocks_of(n_sources, n_members))
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        for block in blocks_of(n_sources, n_members):
            block()
        making.append(time.perf_counter() - began)
    return {
        "n_sources": n_sources,
        "n_members": n_members,
        "seconds": round(min(seconds), 3),
        "seconds_by_turn": [round(one, 3) for one in seconds],
        "seconds_of_making_on_one_core": round(min(making), 3),
        "largest_displacement": round(float(found.displacement[0, 0]), 4),
        "median_displacement": round(float(found.quantile(0.5)[0]), 4),
        "peak_memory_mb": round(environment.peak_memory_bytes() / 2**20),
    }


def in_own_process(n_sources: int, n_members: int) -> dict[str, Any]:
    """The same, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.influence.scan", "case"]
    finished = subprocess.run(
        [*command, str(n_sources), str(n_members)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    return json.loads(finished.stdout)


def main(most_sources: int = 10**7) -> None:
    sizes = [10**3, 10**4, 10**5, 10**6, 10**7]
    growth = [size for size in sizes if size < most_sources // 10]
    cases = [(size, MEMBERS[-1]) for size in growth]
    cases += [
        (size, members)
        for size in (most_sources // 10, most_sources)
        for members in MEMBERS
    ]
    results = [in_own_process(*one) for one in cases]
    record.write("scan", [SEED], {"target_seconds": 2, "cases": results})


if __name__ == "__main__":
    if sys.argv[1:2] == ["case"]:
        print(json.dumps(case(*map(int, sys.argv[2:]))))
    else:
        main(*map(int, sys.argv[1:]))
