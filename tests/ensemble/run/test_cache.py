"""Results are made once, whole or block by block, and nobody takes damage for a result."""

import subprocess
import sys

import numpy as np
import pytest

from ensemble.run import cache, files
from ensemble.run.cache import Cache, Kind, digest_of
from splits.errors import BadInput

ROWS = Kind("Rows", "ask for fewer", axis=0, costs="seconds", cost=(np.float64, ()))
COLUMNS = Kind("Columns", "wait", axis=-2, costs="costs", cost=(np.float32, (3,)))


@pytest.fixture
def kept(tmp_path):
    return Cache(tmp_path / "not" / "there")


def fill(kept, rows=slice(0, 4), shape=(4, 3)):
    """Write some rows of a table: row n holds n."""
    with kept.table("name", shape, np.float32, ROWS) as table:
        numbers = np.arange(4)[rows]
        table.put(numbers, np.repeat(numbers[:, None], 3, axis=1))
        table.count(numbers, 0.5)


def missing(kept):
    with kept.table("name", (4, 3), np.float32, ROWS) as table:
        return table.missing().tolist()


def test_a_name_follows_from_the_facts_whatever_their_order():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    # Folders of version 0.1 are found by it.
    assert digest_of({"a": 1, "b": [2]}) == "ae8a9a50524642753023cd4d"


def test_an_array_is_made_once_and_its_seconds_are_told_later(kept):
    made = []

    def make():
        made.append(1)
        return np.arange(3)

    first, cost = kept.array("name", make)
    assert cost == {}
    second, cost = kept.array("name", make)
    assert np.array_equal(first, second)
    assert cost["seconds"] >= 0
    assert made == [1]


def test_an_array_of_version_0_1_without_a_record_cost_nothing(kept):
    files.write_array(kept.folder / "name.npy", np.arange(3))
    found, cost = kept.array("name", lambda: np.arange(4))
    assert (found.tolist(), cost) == ([0, 1, 2], {})


def test_files_are_made_once_and_what_went_on_record_is_told_later(kept):
    made = []

    def make(folder):
        made.append(1)
        (folder / "text").write_text("a")
        return {"gradients": 3}

    folder, cost = kept.files("name", make)
    assert (folder, cost) == (kept.folder / "name", {})
    folder, cost = kept.files("name", make)
    assert (cost["gradients"], made) == (3, [1])
    (folder / "text").write_text("b")
    with pytest.raises(BadInput, match="text is damaged"):
        kept.files("name", make)


def test_files_that_fail_in_the_making_are_not_there(kept):
    def fail(folder):
        (folder / "text").write_text("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.files("name", fail)
    assert not (kept.folder / "name").exists()
    assert kept.files("name", lambda _: {})[1] == {}


def test_a_table_goes_on_where_it_was(kept):
    assert missing(kept) == [0, 1, 2, 3]
    fill(kept, slice(1, 3))
    assert missing(kept) == [0, 3]
    fill(kept)
    with kept.table("name", (4, 3), np.float32, ROWS) as table:
        assert table.missing().size == 0
        assert table.values[:, 0].tolist() == [0, 1, 2, 3]
        assert table.costs.tolist() == [0.5, 1, 1, 0.5]


def test_rows_that_version_0_1_left_as_zeros_are_missing(kept):
    fill(kept, slice(0, 2))
    path = kept.folder / "name.npy"
    values = np.load(path, mmap_mode="r+")
    values[2:] = 0
    values.flush()
    assert missing(kept) == [2, 3]


def test_a_row_may_be_there_in_part(kept):
    shape = (2, 4, 6)
    with kept.table("name", shape, np.float32, COLUMNS) as table:
        assert table.is_missing(slice(1, 3), slice(0, 2))
        table.put(slice(1, 3), np.ones((2, 2, 2)), slice(0, 2))
        table.count(1, np.array([1.5, 2, 3]))
    with kept.table("name", shape, np.float32, COLUMNS) as table:
        assert not table.is_missing(slice(1, 3), slice(0, 2))
        assert table.is_missing(slice(1, 3), slice(0, 3))
        assert table.is_missing(slice(0, 2), slice(0, 2))
        assert np.isfinite(table.values).sum() == 8
        assert table.costs.sum(axis=0).tolist() == [1.5, 2, 3]


@pytest.mark.parametrize("damage", ["value", "header", "another shape", "sums"])
def test_a_damaged_row_is_missing_and_the_others_are_not(kept, damage):
    fill(kept)
    path = kept.folder / "name.npy"
    if damage == "another shape":
        np.save(path, np.zeros((4, 2), np.float32))
    else:
        path = path.with_suffix(".sums.npy") if damage == "sums" else path
        content = bytearray(path.read_bytes())
        content[8 if damage == "header" else -1] ^= 1
        path.write_bytes(bytes(content))
    whole = damage in ("header", "another shape")
    assert missing(kept) == ([0, 1, 2, 3] if whole else [3])


def test_a_table_that_finds_no_room_is_refused(kept, monkeypatch):
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: full)
    with pytest.raises(BadInput, match=r"Rows of 4 x 3 take .* Make room, or ask for"):
        fill(kept)


def test_a_table_is_filled_by_one_process_at_a_time(kept):
    other = (
        "import sys; from pathlib import Path; from ensemble.system import locks\n"
        "with locks.try_exclusive(Path(sys.argv[1])) as free: print(free)"
    )
    path = str(kept.folder / "name.npy")

    def is_free():
        command = [sys.executable, "-c", other, path]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    with kept.table("name", (4, 3), np.float32, ROWS):
        assert is_free() == "False"
    assert is_free() == "True"
