"""Luck: every random number of a run follows from a key that says whose it is.

Nothing reads a global generator. A key is a seed, the name of a stream and the numbers
that tell its draws apart, such as (seed, "noise", member, step): so a resumed run draws
what an undisturbed one draws, and no draw depends on what was drawn before it.
"""

import zlib

import numpy as np
import torch


def seed_of(seed: int, stream: str, *numbers: int) -> int:
    """A 63-bit seed that follows from the key alone, on every platform.

    Examples:
        >>> seed_of(0, "noise", 7) == seed_of(0, "noise", 7)
        True
        >>> seed_of(0, "noise", 7) == seed_of(0, "noise", 8)
        False
    """
    # The count tells (1,) from (1, 0): SeedSequence drops trailing zeros.
    key = np.random.SeedSequence(
        [seed, zlib.crc32(stream.encode()), len(numbers), *numbers]
    )
    return int(key.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, stream: str, *numbers: int) -> torch.Generator:
    """A CPU generator for tensors, keyed."""
    return torch.Generator().manual_seed(seed_of(seed, stream, *numbers))


def rng(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """A generator for arrays, keyed.

    Examples:
        >>> first, again = (rng(0, "queries", 3).normal() for _ in range(2))
        >>> first == again
        True
    """
    return np.random.default_rng(seed_of(seed, stream, *numbers))
