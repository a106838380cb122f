"""Words are the codes of combinadics.py, made faster."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splits.designs import combinadics, packed_combinadics
from splits.errors import BadInput


def bits_of(some_words, n_members):
    packed = packed_combinadics.pack_words(some_words, n_members)
    unpacked = np.unpackbits(packed, axis=1, count=n_members, bitorder="little")
    return unpacked.astype(bool)


@given(n_members=st.integers(1, 64), data=st.data())
def test_words_are_the_codes_of_the_ranks(n_members: int, data: st.DataObject):
    weight = data.draw(st.integers(0, n_members))
    some = st.integers(0, math.comb(n_members, weight) - 1)
    drawn = np.array(data.draw(st.lists(some, min_size=1, max_size=20)))
    found = bits_of(packed_combinadics.unrank(drawn, n_members, weight), n_members)
    assert np.array_equal(found, combinadics.unrank(drawn, n_members, weight))


@pytest.mark.parametrize("weight", [1, 3, 8, 31, 32, 60, 63])
def test_random_and_outermost_ranks_of_64_members_have_their_codes(weight: int):
    capacity = math.comb(64, weight)
    drawn = np.random.default_rng(0).integers(0, capacity, 20_000)
    drawn = np.concatenate([drawn, np.arange(min(500, capacity))])
    drawn = np.concatenate([drawn, capacity - 1 - drawn])
    found = bits_of(packed_combinadics.unrank(drawn, 64, weight), 64)
    assert np.array_equal(found, combinadics.unrank(drawn, 64, weight))


@pytest.mark.parametrize("n_members", [5, 13, 17, 20, 25])
def test_words_of_ranks_in_order_are_in_order(n_members: int):
    capacity = math.comb(n_members, n_members // 2)
    found = packed_combinadics.unrank(
        np.arange(capacity)[-50_000:], n_members, n_members // 2
    )
    assert (np.diff(found.astype(np.int64)) > 0).all()
    assert set(np.bitwise_count(found).tolist()) == {n_members // 2}


@pytest.mark.parametrize("outside", [-1, 70])
def test_a_rank_that_no_code_has_is_refused(outside: int):
    with pytest.raises(BadInput, match="have ranks 0 to 69"):
        packed_combinadics.unrank(np.array([3, outside]), 8, 4)


def test_more_members_than_a_word_has_bits_are_refused():
    with pytest.raises(BadInput, match="65 members do not fit into a word"):
        packed_combinadics.unrank(np.arange(2), 65, 4)
