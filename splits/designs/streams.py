"""Separate streams of random numbers for the same seed."""

import numpy as np

from splits.errors import BadInput

CODES = 0
PLACEBOS = 1


def generator(seed: int, stream: int) -> np.random.Generator:
    """The random generator of a stream of a seed.

    Raises:
        BadInput: If the seed is negative.
    """
    if seed < 0:
        raise BadInput(f"The seed is {seed}; it must be 0 or more.")
    return np.random.default_rng(np.random.SeedSequence([seed, stream]))
