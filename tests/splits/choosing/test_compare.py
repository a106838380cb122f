"""Every number of a comparison is what a naive count finds, and says how it was found."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from splits.choosing import expectations
from splits.choosing.candidates import CANDIDATES
from splits.choosing.compare import (
    Found,
    Requirements,
    Row,
    _choices,
    compare,
    meets,
    recommend,
)
from splits.choosing.comparison_table import table
from splits.designs.registry import draw
from splits.errors import BadInput

FEW = Requirements(n_sources=14, remove=3, keep=2, budget=16)
MANY = Requirements(n_sources=10**9, remove=4, keep=4, budget=64)
OF_FEW = {row.design: row for row in compare(FEW, seed=3)}


@pytest.fixture(scope="module")
def of_many() -> dict[str, Row]:
    return {row.design: row for row in compare(MANY)}


@pytest.mark.parametrize("row", OF_FEW.values(), ids=lambda row: row.design)
def test_a_small_book_is_counted_over_every_choice(row: Row):
    codes = draw(row.design, 14, row.n_members, seed=3, **row.options)
    left = [
        int((~codes.bits[list(removed)].any(axis=0)).sum())
        for removed in combinations(range(14), 3)
    ]
    loads = codes.bits.sum(axis=0)
    assert row.worst == Found(float(min(left)), "all")
    assert row.mean.how == "all"
    assert row.mean.value == pytest.approx(np.mean(left), rel=1e-12)
    assert row.nobody.value == left.count(0) / len(left)
    assert (row.split_min.value, row.split_max.value) == (loads.min(), loads.max())
    assert row.share == pytest.approx(loads.mean() / 14, rel=1e-12)
    assert row.collateral.value == expectations.mean_squared_correlation(codes)


def test_other_sources_that_go_with_the_removed_are_those_of_a_naive_count():
    requirements = Requirements(n_sources=12, remove=2, keep=1, budget=6)
    for row in compare(requirements):
        bits = draw(row.design, 12, row.n_members, **row.options).bits
        lost = []
        for removed in combinations(range(12), 2):
            seen = bits[list(removed)].any(axis=0)
            others = np.delete(bits, removed, axis=0)
            lost.append(int((others & ~seen).any(axis=1).__invert__().sum()))
        assert row.also_lost.how == "all"
        assert row.also_lost.value == pytest.approx(np.mean(lost), abs=1e-5)


def test_the_needed_members_are_the_fewest_that_keep_the_wish():
    # Weights 1 and 2 need 3 w + 2 members, and 14 sources a weight with 14 codes.
    assert OF_FEW["sparse"].needed == 8
    assert math.comb(8, 2) >= 14 > math.comb(7, 1)
    assert OF_FEW["partition"].needed == 5
    assert OF_FEW["reed_solomon"].needed == 10
    assert OF_FEW["balanced"].needed is None


def test_a_design_is_shown_with_the_most_members_that_the_budget_allows():
    assert OF_FEW["sparse"].n_members == 16
    assert OF_FEW["reed_solomon"].n_members == 15
    beyond = {row.design: row for row in compare(replace(FEW, budget=7))}
    assert beyond["sparse"].n_members == beyond["sparse"].needed == 8
    assert not meets(beyond["sparse"], replace(FEW, budget=7))


def test_a_billion_sources_are_judged_by_bounds_laws_and_samples(of_many):
    sparse, balanced = of_many["sparse"], of_many["balanced"]
    assert sparse.worst == Found(4.0, "bound")
    assert sparse.nobody == Found(0.0, "bound")
    assert sparse.mean.how == "sample"
    assert sparse.mean.value == pytest.approx(
        expectations.mean_left(64, 15, 4), rel=0.01
    )
    assert balanced.worst == Found(0.0, "bound")
    assert balanced.nobody == Found(expectations.nobody_left(64, 32, 4), "law")
    assert of_many["reed_solomon"].also_lost.how == "sample"
    assert balanced.also_lost.how == "law"
    assert sparse.split_min.how == "law"
    assert sparse.split_min.value == pytest.approx(10**9 * 15 / 64, rel=0.01)


def test_sampled_choices_are_distinct_sources_and_give_nearly_what_all_choices_do(
    monkeypatch: pytest.MonkeyPatch,
):
    requirements = Requirements(n_sources=30, remove=3, keep=1, budget=10)
    (counted,) = (
        row for row in compare(requirements) if row.design == "random_subsets"
    )
    monkeypatch.setattr("splits.choosing.compare.MAX_CHOICES", 2000)
    _choices.cache_clear()
    choices = _choices(30, 3)
    assert choices.shape == (2000, 3)
    assert all(len(set(choice)) == 3 for choice in choices.tolist())
    (sampled,) = (
        row for row in compare(requirements) if row.design == "random_subsets"
    )
    _choices.cache_clear()
    chance = counted.nobody.value
    assert (counted.nobody.how, sampled.nobody.how) == ("all", "sample")
    assert abs(sampled.nobody.value - chance) < 5 * np.sqrt(chance / 2000)
    assert sampled.worst == Found(0.0, "bound")


def test_what_is_recommended_keeps_the_wish_and_tells_all_sources_apart():
    best = recommend([*OF_FEW.values()], FEW)
    assert best is not None
    assert meets(best, FEW)
    assert best.distinct


@pytest.mark.parametrize(
    ("requirements", "design"),
    [
        (Requirements(10, 2, 2, 16), "hadamard"),
        (Requirements(16, 1, 1, 32), "hadamard"),
        (Requirements(500, 1, 4, 16), "balanced"),
        (Requirements(500, 2, 1, 16), "pairs_safe"),
        (Requirements(500, 3, 2, 32), "sparse"),
        (Requirements(500, 3, 2, 5), "partition"),
    ],
)
def test_these_wishes_are_answered_by_these_designs(
    requirements: Requirements, design: str
):
    best = recommend(compare(requirements), requirements)
    assert best is not None
    assert best.design == design


def test_a_promise_that_was_only_sampled_is_not_kept_for_certain():
    row = OF_FEW["sparse"]
    assert meets(row, FEW)
    assert not meets(replace(row, worst=Found(9.0, "sample")), FEW)
    assert not meets(replace(row, worst=Found(1.0, "bound")), FEW)
    assert not meets(replace(row, n_members=17), FEW)


def test_the_table_has_a_line_for_every_design_and_marks_how_numbers_were_found():
    text = table([*OF_FEW.values()], FEW, images=1000, weights_bytes=2**20)
    lines = text.splitlines()
    assert lines[0].startswith("14 sources, any 3 removed together, 2 members left")
    rows = {line.split()[0]: line for line in lines[3 : 3 + len(OF_FEW)]}
    assert set(rows) == set(OF_FEW)
    assert "4 a" in rows["sparse"]
    assert "0 b" in rows["sparse"]
    assert rows["sparse"].endswith("16 MB")
    assert "1.6e+04" in rows["sparse"]
    assert "Recommended: splits: {design: sparse, n_members: 16," in lines[-1]


def test_a_wish_beyond_the_budget_is_answered_with_the_fewest_members():
    requirements = Requirements(40, 6, 4, 8)
    text = table(compare(requirements), requirements, images=1, weights_bytes=1)
    assert "The fewest that do are 10, with 'partition'." in text


def test_candidates_without_a_book_for_these_numbers_are_left_out():
    assert "hadamard" not in {
        row.design for row in compare(Requirements(10**5, 2, 1, 8))
    }
    assert "hadamard" in CANDIDATES


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1, 1, 1, 4), "at least two sources, not 1"),
        ((9, 0, 1, 4), "--remove is 0; at least 1"),
        ((9, 1, 0, 4), "--keep is 0; at least 1"),
        ((9, 1, 1, 0), "--budget is 0; at least 1"),
        ((9, 9, 1, 4), "of 9 sources at most 8 can be removed"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(
    numbers: tuple[int, int, int, int], message: str
):
    with pytest.raises(BadInput, match=message):
        Requirements(*numbers)
