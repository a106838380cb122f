"""Load balancing of codes: small changes that give all members equally many sources.

Random codes fill the splits unevenly; with few sources some stay empty. Here single bits
move from full splits to empty ones. Every code keeps its weight, and all codes stay
distinct.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

Bits = Bool[np.ndarray, "codes members"]


def balance_loads(
    bits: Bits, rng: np.random.Generator, twin: Callable[[int], int]
) -> Bits:
    """Move single bits between members until splits differ by at most one source.

    If member a has at least two sources more than member b, then among the codes with
    bit a and without bit b at least two stay distinct from all others when that bit
    moves from a to b: only codes with b and without a can be in the way, and there are
    two fewer of those. So this always succeeds if each code is its own twin. With other
    twins it may end earlier, when no bit of the fullest member can move to the
    emptiest one.

    Args:
        bits: Distinct codes of one weight, none of which is another's twin.
        rng: Chooses the codes that change.
        twin: A function from a code to the code that must not occur beside it. Codes
            are integers here; member m's bit is worth 2^m.
    """
    bits = np.array(bits, order="F")
    codes = _integers(bits)
    taken = {*codes, *map(twin, codes)}
    loads = bits.sum(axis=0)
    low, high = loads.sum() // len(loads), -(-loads.sum() // len(loads))
    while loads.max() - loads.min() > 1:
        a, b = int(loads.argmax()), int(loads.argmin())
        n_wanted = max(1, min(loads[a] - high, low - loads[b]))
        movable = np.flatnonzero(bits[:, a] & ~bits[:, b])
        moved = []
        for source in rng.permutation(movable).tolist():
            code = codes[source] ^ (1 << a) ^ (1 << b)
            if code not in taken:
                taken -= {codes[source], twin(codes[source])}
                taken |= {code, twin(code)}
                codes[source] = code
                moved.append(source)
            if len(moved) == n_wanted:
                break
        if not moved:
            break
        bits[moved, a] = False
        bits[moved, b] = True
        loads[a] -= len(moved)
        loads[b] += len(moved)
    return np.ascontiguousarray(bits)


def _integers(bits: Bits) -> list[int]:
    packed = np.packbits(bits, axis=1, bitorder="little")
    width = packed.shape[1]
    raw = packed.tobytes()
    return [
        int.from_bytes(raw[start : start + width], "little")
        for start in range(0, len(raw), width)
    ]
