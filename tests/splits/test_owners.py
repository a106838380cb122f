"""An owner's removal silences whoever saw anything by him, and no more than his code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splits.codes import CodeBook
from splits.designs.registry import draw
from splits.errors import BadInput
from splits.owners import intersect, owner_sets

VALUES = ["Eve; Adam", "Eve", "Adam;Eve", "Cain", "Adam ; Cain", "Eve;Eve"]


def test_images_with_the_same_owners_are_one_source_whatever_their_order():
    sets = owner_sets(VALUES, ";", "artist")
    assert sets.owner_names == ["Adam", "Cain", "Eve"]
    assert sets.source_names == ["Adam; Cain", "Adam; Eve", "Cain", "Eve"]
    assert sets.source_of.tolist() == [1, 3, 1, 2, 0, 3]
    assert sets.owned.tolist() == [
        [True, True, False],
        [True, False, True],
        [False, True, False],
        [False, False, True],
    ]
    assert sets.sources_of() == {"Adam": [0, 1], "Cain": [0, 2], "Eve": [1, 3]}


OWNED = st.lists(
    st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=4),
    min_size=8,
    max_size=30,
)


@given(groups=OWNED, seed=st.integers(0, 99))
def test_removing_an_owner_is_exact_and_within_his_own_code(
    groups: list[set[str]], seed: int
):
    alone = [{name} for name in "abcdefgh"]
    for images in (groups + alone[:2], groups + alone):
        values = ["+".join(group) for group in images]
        sets = owner_sets(values, "+", "artist")
        owners = draw("sparse", 8, 12, seed=seed, removable=2, survivors=2)
        n_owners = len(sets.owner_names)
        bits = owners.bits[:n_owners]
        every = CodeBook(np.concatenate([bits, np.ones((1, 12), dtype=bool)]))
        member_of = np.pad(sets.owned, ((0, 1), (0, 1)))
        member_of[-1, -1] = True
        codes = intersect(every, member_of).bits[:-1]
        for owner, name in enumerate(sets.owner_names):
            silenced = codes[sets.owned[:, owner]].any(axis=0)
            assert not (silenced & ~bits[owner]).any()
            if {name} in images:
                assert np.array_equal(silenced, bits[owner])
            for image, group in enumerate(images):
                if name in group:
                    trained = codes[sets.source_of[image]]
                    assert not (trained & ~silenced).any()


def test_a_member_trains_on_an_image_only_if_all_owners_bits_are_set():
    owners = CodeBook(np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]], dtype=bool))
    owned = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=bool)
    found = intersect(owners, owned).bits
    assert found.tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [False, False, True, True],
    ]


def test_owners_that_leave_a_member_nothing_are_refused():
    owners = CodeBook(np.array([[1, 0], [0, 1]], dtype=bool))
    with pytest.raises(BadInput, match="members \\[1\\] are empty"):
        intersect(owners, np.array([[1, 0], [1, 1]], dtype=bool))


@pytest.mark.parametrize("gap", ["Eve;", "", ";"])
def test_an_owner_without_a_name_is_refused(gap: str):
    with pytest.raises(BadInput, match="Row 1 of column 'artist'.*has no name"):
        owner_sets(["Adam", gap, "Eve"], ";", "artist")


def test_a_single_owner_is_refused():
    with pytest.raises(BadInput, match="another must remain"):
        owner_sets(["Eve", "Eve"], ";", "artist")
