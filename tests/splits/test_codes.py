"""A code book is checked at birth; ablation is arithmetic on it, so it is exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from splits.codes import CodeBook, ablated_votes, full_votes, surviving_votes
from splits.designs.registry import draw
from splits.errors import BadInput

CODES = draw("balanced", 20, 8)
THREE = CodeBook(np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]], dtype=bool))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_a_book_without_codes_is_refused(shape: tuple[int, int]):
    with pytest.raises(BadInput, match="holds no code"):
        CodeBook(np.zeros(shape, dtype=bool))


def test_a_book_with_empty_splits_is_refused_and_the_members_are_named():
    with pytest.raises(BadInput, match=r"members \[0, 2\] are empty"):
        CodeBook(np.array([[0, 1, 0], [0, 1, 0]], dtype=bool))


def test_a_book_cannot_be_written_to_nor_changed_from_outside():
    bits = np.ones((2, 3), dtype=bool)
    codes = CodeBook(bits)
    bits[0, 0] = False
    assert codes.bits.all()
    with pytest.raises(ValueError, match="read-only"):
        codes.bits[0, 0] = False


def test_rows_are_codes_and_columns_are_splits():
    assert (CODES.n_sources, CODES.n_members) == (20, 8)
    for member in range(8):
        expected = [source for source in range(20) if CODES.bits[source, member]]
        assert CODES.split(member).tolist() == expected


def test_digests_are_those_of_every_platform_and_version():
    assert THREE.digest() == (
        "7cb364e08d8f760e659237684fe7bb635ea88da85d0689de4db26f6e81264d4a"
    )
    assert THREE.split_digest(1) == (
        "3e5a3ccd82e5a46af137be0195d20979abfe71fdcf12defa02659718fdb66674"
    )


def test_a_digest_does_not_depend_on_the_order_in_memory():
    turned = CodeBook(np.asfortranarray(CODES.bits))
    assert turned.digest() == CODES.digest()
    assert turned.split_digest(2) == CODES.split_digest(2)


def test_one_bit_changes_the_digest_of_the_book_and_of_its_split_only():
    bits = CODES.bits.copy()
    bits[4, 2] = not bits[4, 2]
    changed = CodeBook(bits)
    assert changed.digest() != CODES.digest()
    differ = [changed.split_digest(m) != CODES.split_digest(m) for m in range(8)]
    assert differ == [member == 2 for member in range(8)]


def test_books_of_other_shapes_with_the_same_bits_have_other_digests():
    flat, tall = np.ones((2, 6), dtype=bool), np.ones((6, 2), dtype=bool)
    assert CodeBook(flat).digest() != CodeBook(tall).digest()


def test_ablating_nothing_is_the_full_ensemble():
    assert np.array_equal(ablated_votes(CODES, []), full_votes(8))
    assert np.array_equal(full_votes(8), np.full(8, 1 / 8))


@pytest.mark.parametrize("source", range(20))
def test_only_members_blind_to_the_source_vote_and_all_the_same(source: int):
    votes = ablated_votes(CODES, [source])
    assert np.array_equal(votes > 0, ~CODES.bits[source])
    assert np.array_equal(votes, ~CODES.bits[source] / 4)


def test_ablating_a_pair_is_ablating_the_union_of_their_codes():
    votes = ablated_votes(THREE, [1, 2])
    assert np.array_equal(votes, surviving_votes(THREE.bits[1] | THREE.bits[2]))
    assert np.array_equal(votes, [1.0, 0.0, 0.0])


def test_neither_order_nor_repetition_of_ablated_sources_matters():
    once = ablated_votes(THREE, [1, 2])
    assert np.array_equal(once, ablated_votes(THREE, [2, 1, 2]))
    assert np.array_equal(once, ablated_votes(THREE, np.array([1, 2])))


@given(bits=arrays(bool, array_shapes(min_dims=2, max_dims=2)), data=st.data())
def test_votes_sum_to_one_over_the_survivors_or_are_refused(
    bits: np.ndarray, data: st.DataObject
):
    bits[:, ~bits.any(axis=0)] = True
    codes = CodeBook(bits)
    ablated = data.draw(st.lists(st.integers(0, len(bits) - 1)))
    survives = ~bits[ablated].any(axis=0)
    if survives.any():
        votes = ablated_votes(codes, ablated)
        assert np.array_equal(votes, survives / survives.sum())
    else:
        with pytest.raises(BadInput, match="left to vote"):
            ablated_votes(codes, ablated)


@given(order=st.permutations(range(8)))
def test_renumbering_members_renumbers_their_votes(order: list[int]):
    renumbered = CodeBook(CODES.bits[:, order])
    votes = ablated_votes(CODES, [3])
    assert np.array_equal(ablated_votes(renumbered, [3]), votes[order])


@pytest.mark.parametrize("source", [-1, 20])
def test_a_source_that_does_not_exist_is_refused(source: int):
    with pytest.raises(BadInput, match=f"Source {source} does not exist.*0 to 19"):
        ablated_votes(CODES, [0, source])


def test_no_survivor_is_an_error_not_a_nan():
    with pytest.raises(BadInput, match="None of the 3 members is left to vote"):
        ablated_votes(THREE, [0, 2])
