"""Levelling changes who sees what, but neither weights nor distinctness."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from splits.designs.balancing import balance_loads
from splits.designs.combinadics import distinct_ranks, unrank


@st.composite
def books(draw: st.DrawFn) -> tuple[np.ndarray, np.random.Generator]:
    """Some of all codes of one weight, however few or many."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_members = draw(st.integers(2, 9))
    weight = draw(st.integers(1, n_members - 1))
    capacity = math.comb(n_members, weight)
    n_codes = draw(st.integers(1, capacity))
    return unrank(distinct_ranks(capacity, n_codes, rng), n_members, weight), rng


@given(books())
def test_splits_can_always_be_levelled_without_repeating_a_code(
    book: tuple[np.ndarray, np.random.Generator],
):
    bits, rng = book
    level = balance_loads(bits, rng, lambda code: code)
    loads = level.sum(axis=0)
    assert loads.max() - loads.min() <= 1
    assert np.array_equal(level.sum(axis=1), bits.sum(axis=1))
    assert len(np.unique(level, axis=0)) == len(bits)


@given(n_pairs=st.integers(1, 35), seed=st.integers(0, 2**32 - 1))
def test_levelling_never_puts_a_code_beside_its_twin(n_pairs: int, seed: int):
    rng = np.random.default_rng(seed)
    bits = unrank(distinct_ranks(35, n_pairs, rng), 8, 4)
    level = balance_loads(bits, rng, lambda code: 0b11111111 ^ code)
    assert len(np.unique(np.concatenate([level, ~level]), axis=0)) == 2 * n_pairs
    assert np.ptp(level.sum(axis=0)) <= np.ptp(bits.sum(axis=0))


def test_level_splits_stay_as_they_are():
    bits = np.eye(5, dtype=bool)
    same = balance_loads(bits, np.random.default_rng(0), lambda code: code)
    assert np.array_equal(same, bits)


def test_levelling_leaves_its_argument_alone():
    bits = np.array([[1, 0, 0], [1, 1, 0]], dtype=bool)
    balance_loads(bits, np.random.default_rng(0), lambda code: code)
    assert bits.tolist() == [[True, False, False], [True, True, False]]
