"""A code without a table follows from its source and the salt, and from nothing else."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splits.designs.keyed import (
    invert_permutation,
    named_codes,
    numbered_codes,
    numbers_of,
    permute,
    rendezvous_codes,
    salt_digest,
)
from splits.errors import BadInput

NAMES = [f"artist {number}" for number in range(400)]
BY_NAME = pytest.mark.parametrize("codes", [named_codes, rendezvous_codes])


@given(n=st.integers(1, 500), salt=st.text(max_size=5))
def test_a_permutation_holds_every_number_once(n: int, salt: str):
    assert np.array_equal(np.sort(permute(np.arange(n), n, salt)), np.arange(n))


@given(n=st.integers(1, 2**62), salt=st.text(max_size=5), data=st.data())
def test_restored_undoes_permuted(n: int, salt: str, data: st.DataObject):
    numbers = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=9)), np.int64)
    there = permute(numbers, n, salt)
    assert ((there >= 0) & (there < n)).all()
    assert np.array_equal(invert_permutation(there, n, salt), numbers)


def test_permutations_of_few_numbers_are_equally_likely_within_five_sigma():
    counts: dict[tuple[int, ...], int] = {}
    for salt in range(2400):
        found = tuple(permute(np.arange(4), 4, str(salt)).tolist())
        counts[found] = counts.get(found, 0) + 1
    assert len(counts) == 24
    band = 5 * math.sqrt(2400 / 24)
    assert max(abs(count - 100) for count in counts.values()) < band


def test_more_numbers_than_two_to_the_62_are_refused():
    with pytest.raises(BadInput, match="at most 2\\^62"):
        permute(np.arange(3), 2**62 + 1, "sea")


@pytest.mark.parametrize("outside", [-1, 70])
def test_a_number_without_a_code_is_refused(outside: int):
    with pytest.raises(BadInput, match=f"number {outside} has no code.*0 to 69"):
        numbered_codes(np.array([3, outside]), 8, 4, "sea")


@pytest.mark.parametrize(
    ("n_members", "weight"), [(9, 4), (22, 11), (66, 33), (90, 45)]
)
def test_numbered_codes_are_distinct_and_even_within_five_sigma(
    n_members: int, weight: int
):
    n = min(4000, math.comb(n_members, weight))
    bits = numbered_codes(np.arange(n), n_members, weight, "sea")
    assert (bits.sum(axis=1) == weight).all()
    assert len(np.unique(bits, axis=0)) == n
    share = weight / n_members
    band = 5 * math.sqrt(n * share * (1 - share)) + 1e-9
    assert np.abs(bits.sum(axis=0) - n * share).max() <= band


def test_a_numbered_code_does_not_change_when_sources_are_appended():
    few = numbered_codes(np.arange(10), 22, 11, "sea")
    many = numbered_codes(np.arange(1000), 22, 11, "sea")
    assert np.array_equal(few, many[:10])
    assert np.array_equal(numbered_codes(np.array([7]), 22, 11, "sea")[0], many[7])


@given(numbers=st.lists(st.integers(0, math.comb(32, 9) - 1), min_size=1, max_size=9))
def test_the_number_of_a_code_is_the_one_that_it_was_computed_from(numbers: list[int]):
    bits = numbered_codes(np.array(numbers), 32, 9, "sea")
    assert numbers_of(bits, "sea").tolist() == numbers


@BY_NAME
def test_a_code_by_name_depends_on_no_other_name(codes):
    together = codes(NAMES, 20, 7, "sea")
    assert np.array_equal(codes(NAMES[::-1], 20, 7, "sea"), together[::-1])
    assert np.array_equal(codes([NAMES[5]], 20, 7, "sea")[0], together[5])


@BY_NAME
def test_names_of_files_need_not_be_unicode(codes):
    names = ["\udce4", "\udce5", "ä"]
    found = codes(names, 20, 7, "sea")
    assert len(np.unique(found, axis=0)) == 3
    assert np.array_equal(codes(names[1:], 20, 7, "sea"), found[1:])


@BY_NAME
@pytest.mark.parametrize(("n_members", "weight"), [(20, 7), (130, 65), (600, 9)])
def test_codes_by_name_have_their_weight_and_are_even_within_five_sigma(
    codes, n_members: int, weight: int
):
    bits = codes(NAMES, n_members, weight, "sea")
    assert (bits.sum(axis=1) == weight).all()
    share = weight / n_members
    band = 5 * math.sqrt(len(NAMES) * share * (1 - share))
    assert np.abs(bits.sum(axis=0) - len(NAMES) * share).max() < band


def test_colliding_names_are_as_many_as_birthdays_foretell_within_five_sigma():
    names = [str(number) for number in range(3000)]
    bits = named_codes(names, 16, 8, "sea")
    _, counts = np.unique(bits, axis=0, return_counts=True)
    pairs = int((counts * (counts - 1) // 2).sum())
    expected = 3000**2 / (2 * math.comb(16, 8))
    assert abs(pairs - expected) < 5 * math.sqrt(expected)


def test_a_new_member_enters_few_rendezvous_codes_and_changes_no_other():
    names = [str(number) for number in range(3000)]
    before = rendezvous_codes(names, 20, 5, "sea")
    after = rendezvous_codes(names, 21, 5, "sea")
    entered = after[:, 20]
    changed = (before != after[:, :20]).sum(axis=1)
    assert np.array_equal(changed, entered.astype(int))
    share = 5 / 21
    band = 5 * math.sqrt(3000 * share * (1 - share))
    assert abs(entered.sum() - 3000 * share) < band


def test_codes_follow_from_the_salt():
    for codes in (named_codes, rendezvous_codes):
        one, other = (codes(NAMES, 20, 7, salt) for salt in ("sea", "rock"))
        assert (one != other).any()
    one, other = (numbered_codes(np.arange(9), 20, 7, salt) for salt in ("sea", "rock"))
    assert (one != other).any()


def test_the_digest_of_a_salt_is_its_sha256():
    assert salt_digest("sea") == hashlib.sha256(b"sea").hexdigest()
