"""Codes a second without a table, and a census of 10^8 sources in constant memory.

    python -m benchmarks.codes.scale [N_SOURCES]

Speeds are of one thread, in CPU seconds, so that other work on the machine counts
little. The census makes every code, checks weight and inverse, and counts the splits.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.codes import census
from ensemble.system import environment
from splits.designs.keyed import named_codes, numbered_codes, rendezvous_codes

# (members, weight): half weight, and what leaves 4 members after any 4 removals.
SIZES = [(16, 8), (32, 16), (64, 32), (64, 15)]
SALT = "benchmark"
BLOCK = 1 << 13


def codes_a_second(make: Callable[[int], object], seconds: float) -> float:
    """How many codes `make(start)` makes a CPU second, in blocks of BLOCK."""
    make(0)
    n, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        make(n)
        n += BLOCK
    return n / (time.process_time() - began)


def speeds(seconds: float) -> dict[str, dict[str, float]]:
    """Codes a second of every way to make one from its source alone."""
    found = {}
    names = [f"artist {number}" for number in range(BLOCK)]
    for n_members, weight in SIZES:
        size = (n_members, weight, SALT)

        def numbers(start: int) -> np.ndarray:
            return np.arange(start, start + BLOCK) % 12_870

        ways: dict[str, Callable[[int], object]] = {
            "words": lambda at, s=size: census.numbered_words(numbers(at), *s),
            "numbered": lambda at, s=size: numbered_codes(numbers(at), *s),
            "named": lambda _, s=size: named_codes(names, *s),
            "rendezvous": lambda _, s=size: rendezvous_codes(names, *s),
        }
        found[f"{n_members}_{weight}"] = {
            way: codes_a_second(make, seconds) for way, make in ways.items()
        }
    return found


def counted(n_sources: int, n_members: int = 64, weight: int = 15) -> dict[str, Any]:
    """A census, with its time and the process's peak memory."""
    began = time.process_time()
    found = census.count(n_sources, n_members, weight, SALT)
    seconds = time.process_time() - began
    expected = n_sources * weight / n_members
    deviation = np.abs(found.splits - expected).max()
    return {
        "n_sources": n_sources,
        "n_members": n_members,
        "weight": weight,
        "cpu_seconds": seconds,
        "codes_a_second": n_sources / seconds,
        "n_wrong": found.n_wrong,
        "split_min": int(found.splits.min()),
        "split_max": int(found.splits.max()),
        "greatest_deviation_in_sigmas": float(
            deviation / np.sqrt(expected * (1 - weight / n_members))
        ),
        "peak_megabytes": environment.peak_memory_bytes() / 2**20,
    }


def main(n_sources: int, seconds: float = 2.0) -> dict[str, Any]:
    """Everything; a tenth of the census first, to show that memory does not grow."""
    tenth = counted(n_sources // 10)
    whole = counted(n_sources)
    return {
        "codes_a_second": speeds(seconds),
        "census_of_a_tenth": tenth,
        "census": whole,
    }


if __name__ == "__main__":
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10**8
    record.write("scale", [0], main(n))
