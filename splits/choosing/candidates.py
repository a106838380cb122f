"""Candidate designs: which guarantees each design gives, known without drawing it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from splits.designs.algebraic import greatest_prime_factor

Options = dict[str, int]


@dataclass(frozen=True)
class Candidate:
    """A design that can be compared.

    Attributes:
        asked: (n_members, remove, keep) -> the design's options for this requirement.
        fits: (n_sources, n_members, **options) -> whether a book can be drawn.
        left: (n_members, removed, **options) -> guaranteed number of survivors; a
            negative number means 0.
        weight: (n_members, **options) -> weight of the codes, if they are uniformly
            random; else None.
        distinct: Whether all codes are certainly distinct.
    """

    asked: Callable[[int, int, int], Options]
    fits: Callable[..., bool]
    left: Callable[..., int]
    weight: Callable[..., int] | None = None
    distinct: bool = True


def left_at_least(design: str, n_members: int, removed: int, options: Options) -> int:
    """The guaranteed number of members that remain, whichever sources are removed."""
    return max(0, CANDIDATES[design].left(n_members, removed, **options))


def fits(design: str, n_sources: int, n_members: int, options: Options) -> bool:
    """Whether the design has codes for these numbers of sources and members."""
    return CANDIDATES[design].fits(n_sources, n_members, **options)


def _half_codes(n_members: int) -> int:
    """The number of codes of half weight; 0 for an odd number of members."""
    return 0 if n_members % 2 else math.comb(n_members, n_members // 2)


def _fits_weight(n_sources: int, n_members: int, weight: int) -> bool:
    enough = n_sources * weight >= n_members
    return (
        0 < weight < n_members and enough and n_sources <= math.comb(n_members, weight)
    )


def _fits_stream(n_sources: int, n_members: int, weight: int) -> bool:
    """Whether the probability of an empty split is below one in a billion."""
    return (
        _fits_weight(n_sources, n_members, weight)
        and n_members * (1 - weight / n_members) ** n_sources < 1e-9
    )


def _fits_pairs_safe(n_sources: int, n_members: int) -> bool:
    """Whether empty splits can be filled, or are improbable in the first place."""
    n_pairs = _half_codes(n_members) // 2
    room = 2 * n_sources <= n_pairs or n_members * 0.5**n_sources < 1e-9
    return 3 <= n_sources <= n_pairs and room


def _fits_hybrid(
    n_sources: int, n_members: int, removable: int, survivors: int
) -> bool:
    n_dense = n_members - removable - survivors
    return n_sources >= removable + survivors and _fits_weight(
        n_sources, n_dense, n_dense // 2
    )


def _left_hybrid(n_members: int, removed: int, removable: int, survivors: int) -> int:
    n_dealt = removable + survivors
    n_dense = n_members - n_dealt
    dense = n_dense - removed * (n_dense // 2)
    return max(0, n_dealt - removed) + max(0, dense)


def _blocks(n_members: int) -> tuple[int, int]:
    q = greatest_prime_factor(n_members)
    return q, n_members // q


def _fits_reed_solomon(n_sources: int, n_members: int) -> bool:
    q, n_blocks = _blocks(n_members)
    return n_blocks <= q <= n_sources <= q**n_blocks


def _left_reed_solomon(n_members: int, removed: int) -> int:
    q, n_blocks = _blocks(n_members)
    return n_blocks * (q - removed)


def _fits_hadamard(n_sources: int, n_members: int) -> bool:
    return (
        n_members >= 4
        and not n_members & (n_members - 1)
        and 3 <= n_sources < n_members
    )


def _no_options(_n_members: int, _remove: int, _keep: int) -> Options:
    return {}


def _removable_and_survivors(_n_members: int, remove: int, keep: int) -> Options:
    return {"removable": remove, "survivors": keep}


def _greatest_weight(n_members: int, remove: int, keep: int) -> Options:
    return {"weight": min(n_members // 2, max(0, n_members - keep) // remove)}


def _sparse_weight(n_members: int, removable: int, survivors: int) -> int:
    return max(0, n_members - survivors) // removable


# Codes that follow from numbers or names: alike but for how they come about.
_STREAM = Candidate(
    asked=_greatest_weight,
    fits=_fits_stream,
    left=lambda n_members, removed, weight: n_members - removed * weight,
    weight=lambda _, weight: weight,
    distinct=False,
)

CANDIDATES = {
    "balanced": Candidate(
        asked=_no_options,
        fits=lambda n, m: m % 2 == 0 and _fits_weight(n, m, m // 2),
        left=lambda m, removed: m - removed * (m // 2),
        weight=lambda m: m // 2,
    ),
    "sparse": Candidate(
        asked=_removable_and_survivors,
        fits=lambda n, m, **requirements: _fits_weight(
            n, m, _sparse_weight(m, **requirements)
        ),
        left=lambda m, removed, **requirements: (
            m - removed * _sparse_weight(m, **requirements)
        ),
        weight=_sparse_weight,
    ),
    "pairs_safe": Candidate(
        asked=_no_options,
        fits=_fits_pairs_safe,
        left=lambda m, removed: {1: m // 2, 2: 1}.get(removed, 0),
    ),
    "leave_one_out": Candidate(
        asked=_no_options,
        fits=lambda n, m: n == m >= 2,
        left=lambda m, removed: m - removed * (m - 1),
    ),
    "partition": Candidate(
        asked=_no_options,
        fits=lambda n, m: n >= m,
        left=lambda m, removed: m - removed,
        distinct=False,
    ),
    "hybrid": Candidate(
        asked=_removable_and_survivors, fits=_fits_hybrid, left=_left_hybrid
    ),
    "reed_solomon": Candidate(
        asked=_no_options, fits=_fits_reed_solomon, left=_left_reed_solomon
    ),
    "hadamard": Candidate(
        asked=_no_options,
        fits=_fits_hadamard,
        left=lambda m, removed: {1: m // 2, 2: m // 4}.get(removed, 0),
    ),
    "random_subsets": Candidate(
        asked=_no_options,
        fits=lambda n, m: n >= 2,
        left=lambda m, removed: 0,
        distinct=False,
    ),
    "numbered": replace(_STREAM, distinct=True),
    "named": _STREAM,
    "rendezvous": _STREAM,
}
