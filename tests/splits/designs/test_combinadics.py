"""Ranks number the codes of a weight one by one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splits.designs.combinadics import distinct_ranks, rank, unrank
from splits.errors import BadInput


@st.composite
def spaces(draw: st.DrawFn, most: int = 90) -> tuple[int, int]:
    n_members = draw(st.integers(1, most))
    return n_members, draw(st.integers(0, n_members))


@given(space=spaces(), data=st.data())
def test_rank_undoes_unrank(space: tuple[int, int], data: st.DataObject):
    n_members, weight = space
    some = st.integers(0, math.comb(n_members, weight) - 1)
    ranks = np.array(data.draw(st.lists(some, min_size=1, max_size=20)), dtype=object)
    bits = unrank(ranks, n_members, weight)
    assert np.array_equal(bits.sum(axis=1), np.full(len(ranks), weight))
    assert rank(bits).tolist() == ranks.tolist()


@given(space=spaces(most=8))
def test_ranks_number_all_codes_as_if_bits_were_powers_of_two(space: tuple[int, int]):
    n_members, weight = space
    bits = unrank(np.arange(math.comb(n_members, weight)), n_members, weight)
    values = [sum(1 << member for member in np.flatnonzero(code)) for code in bits]
    every_value = [v for v in range(1 << n_members) if v.bit_count() == weight]
    assert values == every_value


@pytest.mark.parametrize("outside", [-1, 70])
def test_a_rank_that_no_code_has_is_refused(outside: int):
    with pytest.raises(BadInput, match="have ranks 0 to 69"):
        unrank(np.array([3, outside]), 8, 4)


def test_codes_of_two_weights_have_no_common_ranks():
    with pytest.raises(BadInput, match=r"weights \[1, 2\]"):
        rank(np.array([[True, False], [True, True]]))


@pytest.mark.parametrize("capacity", [10, 2**63 - 1, 2**63, 10**30])
def test_drawn_ranks_are_different_and_in_range(capacity: int):
    drawn = distinct_ranks(capacity, 10, np.random.default_rng(0)).tolist()
    assert len(set(drawn)) == 10
    assert all(0 <= number < capacity for number in drawn)


def test_drawn_ranks_beyond_64_bits_are_uniform_within_five_sigma():
    capacity = 10**30
    drawn = distinct_ranks(capacity, 4000, np.random.default_rng(0)).tolist()
    counts = np.bincount([number * 10 // capacity for number in drawn], minlength=10)
    assert np.abs(counts - 400).max() < 5 * math.sqrt(4000 * 0.1 * 0.9)


def test_drawing_all_ranks_beyond_64_bits_draws_each_once(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("splits.designs.combinadics._INT64_MAX", 1)
    drawn = distinct_ranks(50, 50, np.random.default_rng(0)).tolist()
    assert sorted(drawn) == list(range(50))
    assert drawn != list(range(50))
