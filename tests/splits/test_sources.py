"""Sources follow from names alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splits.errors import BadInput
from splits.sources import assign, by_column, each_image, owner_of

ARTISTS = ["monet", "degas", "monet", "manet"]


def test_each_image_is_its_own_source():
    source_of, names = assign("image", ["a", "b", "c"], {})
    assert source_of.dtype == np.int64
    assert source_of.tolist() == each_image(3).tolist() == [0, 1, 2]
    assert names == ["a", "b", "c"]


def test_images_with_the_same_value_are_one_source():
    source_of, names = assign("artist", "abcd", {"artist": ARTISTS})
    assert source_of.dtype == np.int64
    assert names == ["degas", "manet", "monet"]
    assert source_of.tolist() == [2, 0, 2, 1]


@given(st.permutations(range(4)))
def test_reordering_images_reorders_their_sources_and_renames_none(order: list[int]):
    source_of, names = by_column(ARTISTS)
    moved, same_names = by_column([ARTISTS[image] for image in order])
    assert same_names == names
    assert np.array_equal(moved, source_of[order])


@pytest.mark.parametrize(
    "labels", [[10, 9, 1], ["10", "9", "1"], list(np.array([10, 9, 1]))]
)
def test_whole_numbers_are_in_numeric_order_whatever_their_type(labels: list):
    source_of, names = by_column(labels)
    assert names == ["1", "9", "10"]
    assert source_of.tolist() == [2, 1, 0]


def test_a_number_among_words_is_a_word():
    assert by_column(["10", "9", "b"])[1] == ["10", "9", "b"]


@pytest.mark.parametrize("gap", [None, "", "  ", float("nan")])
def test_a_missing_value_is_named_with_its_row(gap: object):
    with pytest.raises(BadInput, match="Row 1 of column 'artist'"):
        assign("artist", "abc", {"artist": ["monet", gap, "degas"]})


def test_an_unknown_column_is_answered_with_the_nearest_and_all():
    with pytest.raises(
        BadInput, match="image, near_duplicates, artist, label.*mean 'artist'"
    ):
        assign("artists", "abcd", {"label": [1, 2, 3, 4], "artist": ARTISTS})


def test_a_column_of_another_length_is_refused():
    with pytest.raises(BadInput, match="4 values for 5 images"):
        assign("artist", "abcde", {"artist": ARTISTS})


@pytest.mark.parametrize("values", [["monet", "monet"], []])
def test_fewer_than_two_sources_are_refused(values: list[str]):
    with pytest.raises(BadInput, match="another must remain"):
        by_column(values)


@pytest.mark.parametrize("n_images", [0, 1])
def test_fewer_than_two_images_are_refused(n_images: int):
    with pytest.raises(BadInput, match="at least two"):
        each_image(n_images)


COLUMNS = {"school": ["paris", "rome", "paris", "paris"]}


def test_a_source_belongs_to_the_owner_of_its_images():
    source_of = np.array([2, 0, 2, 1])
    assert owner_of(source_of, "school", COLUMNS).tolist() == [1, 0, 0]


def test_a_source_of_two_owners_is_refused():
    with pytest.raises(BadInput, match="Source 0 has images of two owners, 'paris'"):
        owner_of(np.array([0, 0, 1, 1]), "school", COLUMNS)


def test_an_unknown_owner_column_is_answered_with_the_nearest():
    with pytest.raises(BadInput, match="data.owner is 'scool'.*mean 'school'"):
        owner_of(np.array([0, 0, 1, 1]), "scool", COLUMNS)
