"""Who may vote under a licence is arithmetic on the code book."""

import numpy as np
import pytest

from ensemble.provenance.access import allowed_votes
from splits.codes import CodeBook
from splits.errors import BadInput

NAMES = ["Eve", "Adam", "Cain", "Abel", "Eve; Adam"]
# Columns: Eve and Adam; Cain; Cain and Abel; everybody but Abel.
CODES = CodeBook(
    np.array(
        [[1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1]],
        dtype=bool,
    )
)


def test_only_members_that_saw_nothing_else_vote():
    assert allowed_votes(CODES, [2]).tolist() == [0, 1, 0, 0]
    assert allowed_votes(CODES, [2, 3]).tolist() == [0, 0.5, 0.5, 0]
    assert allowed_votes(CODES, [0, 1, 3]).tolist() == [1, 0, 0, 0]


def test_allowing_everything_is_the_full_ensemble():
    assert allowed_votes(CODES, range(5)).tolist() == [0.25] * 4


def test_allowing_all_others_is_ablating():
    rest = [0, 1, 3, 4]
    assert np.array_equal(allowed_votes(CODES, rest) > 0, ~CODES.bits[2])


@pytest.mark.parametrize(
    ("allowed", "fewest"),
    [
        ([], r"1: 2 \(Cain\)"),
        ([0], r"1: 1 \(Adam\)"),
        ([3, 4], r"1: 2 \(Cain\)"),
        ([1], r"1: 0 \(Eve\)"),
    ],
)
def test_a_refusal_names_the_fewest_sources_that_are_in_the_way(allowed, fewest):
    with pytest.raises(BadInput, match=f"would have to be allowed too are {fewest}\\."):
        allowed_votes(CODES, allowed, NAMES)


def test_a_long_refusal_is_cut():
    codes = CodeBook(np.ones((12, 2), dtype=bool))
    with pytest.raises(BadInput, match="are 11: 1, 2, 3, 4, 5, 6, 7, 8 and 3 more"):
        allowed_votes(codes, [0])
