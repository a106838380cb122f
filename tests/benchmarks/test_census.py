"""A census finds what a table of the same codes would show."""

import tracemalloc

import numpy as np
import pytest

from benchmarks.codes import census
from splits.designs.keyed import numbered_codes
from splits.errors import BadInput

SIZES = pytest.mark.parametrize(("n_members", "weight"), [(22, 11), (40, 9), (64, 15)])


@SIZES
def test_words_are_the_numbered_codes(n_members: int, weight: int):
    numbers = np.arange(300)
    found = census.numbered_words(numbers, n_members, weight, "sea")
    bits = numbered_codes(numbers, n_members, weight, "sea").astype(np.uint64)
    assert np.array_equal(
        found, bits @ (np.uint64(1) << np.arange(n_members, dtype="u8"))
    )


@SIZES
def test_a_census_counts_what_the_table_holds(
    n_members: int, weight: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(census, "_BLOCK", 700)
    bits = numbered_codes(np.arange(2000), n_members, weight, "sea")
    found = census.count(2000, n_members, weight, "sea")
    assert found.splits.tolist() == bits.sum(axis=0).tolist()
    assert (found.n_sources, found.n_wrong) == (2000, 0)
    parts = [*census.split(3, 2000, n_members, weight, "sea")]
    assert len(parts) == 3
    assert np.array_equal(np.concatenate(parts), np.flatnonzero(bits[:, 3]))


def test_codes_that_do_not_lead_back_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(census, "invert_permutation", lambda ranks, *_: 0 * ranks)
    assert census.count(100, 22, 11, "sea").n_wrong == 99


def test_memory_does_not_grow_with_the_sources():
    peaks = []
    census.count(1000, 32, 8, "sea")
    for n_sources in (1 << 16, 1 << 18):
        tracemalloc.start()
        census.count(n_sources, 32, 8, "sea")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_more_sources_than_codes_are_refused():
    with pytest.raises(BadInput, match="number 70 has no code"):
        census.count(71, 8, 4, "sea")


def test_an_unknown_member_has_no_split():
    with pytest.raises(BadInput, match="Member 8 does not exist"):
        next(census.split(8, 70, 8, 4, "sea"))
