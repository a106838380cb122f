"""What is removed at once, and who is left."""

import itertools

import numpy as np
import pytest

from ensemble.ablation import removal_sets
from ensemble.ablation.removal_sets import Units
from ensemble.provenance import drawing
from splits import BadInput
from tests import tiny


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    splits = {"design": "balanced", "n_members": 6, "weight": 3}
    return drawing.draw(tiny.config(folder, data={"n_images": 4}, splits=splits))


def test_every_source_is_a_unit(ready):
    each = removal_sets.each_source(ready)
    assert np.array_equal(each.silenced, ready.codes.bits)
    assert each.sources == [[0], [1], [2], [3]]
    assert each.weights.tolist() == [3] * 4


def test_a_set_silences_the_union(ready):
    pair = removal_sets.one_set(ready, [2, 0, 2])
    bits = ready.codes.bits
    assert np.array_equal(pair.silenced[0], bits[0] | bits[2])
    assert pair.names == ["sources 0 (digit 0000), 2 (digit 0002)"]
    assert pair.sources == [[0, 2]]


def test_a_column_makes_a_unit_of_each_value(ready):
    groups = removal_sets.by_column(ready, "label")
    assert groups.names == [f"label {label}" for label in range(4)]
    assert groups.sources == [[0], [1], [2], [3]]


def test_what_cannot_be_removed_is_refused(ready):
    with pytest.raises(BadInput, match="none of the 6 members is left"):
        removal_sets.one_set(ready, [0, 1, 2, 3])
    with pytest.raises(
        BadInput, match=r"member 0 saw source [0-3] \(digit 000[0-3]\), member 1 saw"
    ):
        removal_sets.one_set(ready, [0, 1, 2, 3])
    with pytest.raises(BadInput, match="partition keeps 2 of 6.*removable=4 at least"):
        removal_sets.one_set(ready, [0, 1, 2, 3])
    with pytest.raises(BadInput, match="Source 7 does not exist: .*0 to 3"):
        removal_sets.one_set(ready, [7])
    with pytest.raises(BadInput, match="no column 'artist'; known: label"):
        removal_sets.by_column(ready, "artist")


def drawn(tmp_path, n_images, **splits):
    return drawing.draw(
        tiny.config(tmp_path, data={"n_images": n_images}, splits=splits)
    )


def test_the_designs_that_a_refusal_names_keep_what_it_says(tmp_path):
    for splits, kept in (
        ({"design": "partition", "n_members": 6, "weight": None}, 2),
        ({"design": "sparse", "n_members": 6, "weight": None, "removable": 4}, 1),
    ):
        other = drawn(tmp_path, 6, **splits)
        for four in itertools.combinations(range(6), 4):
            left = ~removal_sets.one_set(other, four).silenced
            assert left.sum() >= kept


def test_more_sources_than_members_need_another_design(tmp_path):
    halves = drawn(tmp_path, 8, design="balanced", n_members=6, weight=3)
    with pytest.raises(BadInput, match="7 sources together need more than 7 members"):
        removal_sets.one_set(halves, range(7))


def test_votes_are_equal_among_those_that_stay(ready):
    votes = removal_sets.votes_without(ready.codes.bits)
    assert np.array_equal(votes > 0, ~ready.codes.bits)
    np.testing.assert_allclose(votes.sum(axis=1), 1)


def test_survivors_are_shown_unit_by_unit_or_as_a_range():
    few = Units(np.array([[1, 0, 0]], dtype=bool), [[0]], ["a"], "sources")
    assert removal_sets.survivors(few) == ["without source 0 (a): 2 of 3 members stay"]
    group = Units(few.silenced, [[0]], ["artist a"], "groups")
    assert removal_sets.survivors(group) == ["without artist a: 2 of 3 members stay"]
    many = Units(np.tile(few.silenced, (30, 1)), [[0]] * 30, ["a"] * 30, "sources")
    assert removal_sets.survivors(many) == [
        "30 sources, one by one; 2 to 2 of 3 members stay."
    ]
