"""Chances agree with what random codes do, and with tables from elsewhere."""

import math
from itertools import combinations

import numpy as np
import pytest

from splits.choosing import expectations
from splits.codes import CodeBook
from splits.designs.combinadics import unrank
from splits.designs.registry import draw


def codes(n: int, n_members: int, weight: int, seed: int = 0) -> np.ndarray:
    """Independent uniform codes."""
    rng = np.random.default_rng(seed)
    return unrank(rng.integers(math.comb(n_members, weight), size=n), n_members, weight)


@pytest.mark.parametrize(("n_members", "weight", "removed"), [(8, 4, 2), (10, 3, 3)])
def test_chances_are_those_of_random_codes_within_five_sigma(
    n_members: int, weight: int, removed: int
):
    n = 40_000
    drawn = codes(n * (removed + 1), n_members, weight).reshape(n, -1, n_members)
    seen = drawn[:, :removed].any(axis=1)
    other_lost = ~(drawn[:, removed] & ~seen).any(axis=1)
    for chance, found in [
        (expectations.nobody_left(n_members, weight, removed), seen.all(axis=1).mean()),
        (expectations.erased(n_members, weight, removed), other_lost.mean()),
    ]:
        assert abs(found - chance) < 5 * math.sqrt(chance * (1 - chance) / n) + 1e-12
    mean = expectations.mean_left(n_members, weight, removed)
    assert abs((~seen).sum(axis=1).mean() - mean) < 5 * n_members / math.sqrt(n)


def test_two_codes_of_half_weight_leave_nobody_only_as_complements():
    assert expectations.nobody_left(16, 8, 2) == 1 / math.comb(16, 8)


def test_one_other_source_goes_with_a_removed_one_only_if_codes_agree():
    assert expectations.erased(16, 8, 1) == 1 / math.comb(16, 8)


# Percent, as known for codes of half weight; None: below what was written down.
@pytest.mark.parametrize(
    ("n_members", "percent"),
    [
        (16, {3: 6, 4: 31, 5: 59}),
        (22, {3: 1.6, 4: 19, 5: 48}),
        (32, {3: 0.3, 4: 9, 5: 34}),
        (64, {4: 0.7, 5: 11}),
        (128, {5: 1.2, 8: 59}),
    ],
)
def test_half_weight_codes_leave_nobody_as_often_as_known(
    n_members: int, percent: dict[int, float]
):
    # The known numbers are themselves rounded or simulated: within 1.3 points of the
    # exact ones, and within a quarter of them.
    for removed, known in percent.items():
        found = 100 * expectations.nobody_left(n_members, n_members // 2, removed)
        assert abs(found - known) < min(1.3, known / 4)


# (members, weight) for which one of so many sources, on average less than 0.01, goes
# with 1, 2, 3, 5 or 8 random others; and with which no source goes with any 2, 3, 5.
COVER_FREE = {
    100: (
        [(16, 7), (38, 9), (58, 9), (96, 11), (156, 10)],
        [(54, 13), (104, 16), (236, 28)],
    ),
    1000: (
        [(20, 8), (48, 10), (72, 13), (120, 14), (192, 15)],
        [(80, 21), (160, 28), (384, 45)],
    ),
    10**4: (
        [(24, 10), (56, 13), (88, 13), (144, 17), (232, 18)],
        [(108, 29), (216, 38), (528, 62)],
    ),
    10**6: (
        [(30, 14), (76, 18), (116, 17), (192, 22), (312, 21)],
        [(164, 38), (336, 50), (808, 94)],
    ),
    10**9: (
        [(40, 18), (104, 21), (156, 27), (264, 31), (424, 33)],
        [(244, 65), (504, 88), (1240, 145)],
    ),
}


@pytest.mark.parametrize("n_sources", COVER_FREE)
def test_known_ensembles_are_cover_free_on_average_and_slightly_smaller_ones_are_not(
    n_sources: int,
):
    average, _ = COVER_FREE[n_sources]
    for (n_members, weight), removed in zip(average, [1, 2, 3, 5, 8], strict=True):
        found = expectations.expected_erased(n_sources, n_members, weight, removed)
        assert 0.001 < found < 0.01
        fewer = n_members - max(2, n_members // 20)
        weights = range(max(1, weight - 8), min(fewer, weight + 9))
        assert (
            min(n_sources * expectations.erased(fewer, w, removed) for w in weights)
            > 0.01
        )


@pytest.mark.parametrize("n_sources", COVER_FREE)
def test_known_ensembles_are_cover_free_in_the_worst_case(n_sources: int):
    _, worst = COVER_FREE[n_sources]
    for (n_members, weight), removed in zip(worst, [2, 3, 5], strict=True):
        found = expectations.expected_failures(n_sources, n_members, weight, removed)
        assert 0.1 < found < 1


def test_the_mean_squared_correlation_is_that_of_a_naive_count():
    book = draw("balanced", 12, 8, weight=3)
    pairs = [np.corrcoef(one, two)[0, 1] for one, two in combinations(book.bits, 2)]
    found = expectations.mean_squared_correlation(book)
    assert found == pytest.approx(np.mean(np.square(pairs)), rel=1e-12)


def test_a_code_that_every_member_has_disturbs_nobody():
    book = CodeBook(np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=bool))
    assert expectations.mean_squared_correlation(book) == pytest.approx(
        1 / 3, rel=1e-12
    )


@pytest.mark.parametrize(
    ("design", "n_sources", "n_members"),
    [("hadamard", 15, 16), ("leave_one_out", 9, 9), ("balanced", 70, 8)],
)
def test_these_designs_reach_the_welch_bound(
    design: str, n_sources: int, n_members: int
):
    found = expectations.mean_squared_correlation(draw(design, n_sources, n_members))
    assert found == pytest.approx(expectations.welch(n_sources, n_members), abs=1e-12)


@pytest.mark.parametrize("n_sources", [10, 100, 1000])
def test_no_design_beats_the_welch_bound(n_sources: int):
    for seed in range(5):
        book = draw("balanced", n_sources, 16, seed=seed)
        found = expectations.mean_squared_correlation(book)
        assert found >= expectations.welch(n_sources, 16) - 1e-12
