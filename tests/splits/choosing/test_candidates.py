"""What is promised without drawing holds for every book that is drawn."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from splits.choosing.candidates import CANDIDATES, fits, left_at_least
from splits.designs.registry import DESIGNS, draw
from splits.errors import BadInput

EVERY_DESIGN = pytest.mark.parametrize("design", CANDIDATES)
# For these a split may be empty by bad luck, which `fits` excludes.
BY_LUCK = {"pairs_safe", "numbered", "named", "rendezvous"}
# Numbers of members of which some fit, where few do.
MEMBERS = {
    "hadamard": st.sampled_from([4, 8, 16, 32]),
    "reed_solomon": st.sampled_from([9, 10, 15, 21, 25, 35]),
}


def sources(design: str, n_members: int) -> st.SearchStrategy[int]:
    """Numbers of sources of which some fit."""
    if design == "leave_one_out":
        return st.just(max(3, n_members))
    return st.integers(3, n_members - 1 if design == "hadamard" else 200)


def test_every_design_that_needs_no_owners_can_be_compared():
    rows = {name for name, row in DESIGNS.items() if "owner_of" not in row.facts}
    assert set(CANDIDATES) == rows


@EVERY_DESIGN
@settings(max_examples=40)
@given(
    n_sources=st.integers(2, 40),
    n_members=st.integers(1, 20),
    remove=st.integers(1, 4),
    keep=st.integers(1, 4),
)
@example(n_sources=7, n_members=8, remove=2, keep=2)
@example(n_sources=12, n_members=12, remove=1, keep=1)
@example(n_sources=25, n_members=15, remove=3, keep=1)
def test_a_design_fits_exactly_if_its_book_can_be_drawn(
    design: str, n_sources: int, n_members: int, remove: int, keep: int
):
    options = CANDIDATES[design].asked(n_members, remove, keep)
    if fits(design, n_sources, n_members, options):
        draw(design, n_sources, n_members, **options)
    elif design not in BY_LUCK:
        with pytest.raises(BadInput):
            draw(design, n_sources, n_members, **options)


@EVERY_DESIGN
@settings(max_examples=40)
@given(
    data=st.data(),
    remove=st.integers(1, 4),
    keep=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_a_book_that_fits_keeps_every_promise(
    design: str, data: st.DataObject, remove: int, keep: int, seed: int
):
    n_members = data.draw(MEMBERS.get(design, st.integers(2, 40)))
    n_sources = data.draw(sources(design, n_members))
    candidate = CANDIDATES[design]
    options = candidate.asked(n_members, remove, keep)
    assume(remove < n_sources and fits(design, n_sources, n_members, options))
    bits = draw(design, n_sources, n_members, seed=seed, **options).bits
    assert bits.shape == (n_sources, n_members)
    again = draw(design, n_sources, n_members, seed=seed, **options).bits
    assert np.array_equal(again, bits)
    if candidate.distinct:
        assert len(np.unique(bits, axis=0)) == n_sources
        assert len(np.unique(bits.sum(axis=1))) == 1
    if candidate.weight is not None:
        assert bits[0].sum() == candidate.weight(n_members, **options)
    rng = np.random.default_rng(seed)
    least = left_at_least(design, n_members, remove, options)
    for _ in range(50):
        removed = rng.choice(n_sources, remove, replace=False)
        assert (~bits[removed].any(axis=0)).sum() >= least


# (weight, codes) that leave 4 members after any 1, 2, 3, 4 or 8 removals.
CAPACITIES = {
    16: [(12, 1.8e3), (6, 8.0e3), (4, 1.8e3), (3, 560), (1, 16)],
    22: [(18, 7.3e3), (9, 5.0e5), (6, 7.5e4), (4, 7.3e3), (2, 231)],
    32: [(28, 3.6e4), (14, 4.7e8), (9, 2.8e7), (7, 3.4e6), (3, 5.0e3)],
    64: [(60, 6.4e5), (30, 1.6e18), (20, 2.0e16), (15, 1.6e14), (7, 6.2e8)],
    128: [(124, 1.1e7), (62, 2.3e37), (41, 5.5e33), (31, 4.9e29), (15, 1.3e19)],
}


@pytest.mark.parametrize("n_members", CAPACITIES)
def test_sparse_codes_have_the_known_weights_and_capacities(n_members: int):
    for removed, (weight, capacity) in zip(
        [1, 2, 3, 4, 8], CAPACITIES[n_members], strict=True
    ):
        options = CANDIDATES["sparse"].asked(n_members, removed, 4)
        known = CANDIDATES["sparse"].weight
        assert known is not None
        assert known(n_members, **options) == weight
        # Known to two digits.
        assert math.comb(n_members, weight) == pytest.approx(capacity, rel=0.04)
        assert left_at_least("sparse", n_members, removed, options) >= 4
        assert fits("sparse", 10 * n_members, n_members, options) == (
            10 * n_members <= math.comb(n_members, weight)
        )


# Blocks of q members that leave n_blocks (q - r) after any r removals.
@pytest.mark.parametrize(
    ("q", "n_blocks", "n_sources"),
    [(5, 5, 25), (7, 7, 343), (11, 11, 1331), (13, 13, 28561)],
)
def test_reed_solomon_promises_what_its_blocks_do(
    q: int, n_blocks: int, n_sources: int
):
    assert fits("reed_solomon", n_sources, q * n_blocks, {})
    for removed in range(1, q):
        least = left_at_least("reed_solomon", q * n_blocks, removed, {})
        assert least == n_blocks * (q - removed)
    assert left_at_least("reed_solomon", q * n_blocks, q + 1, {}) == 0
