"""Tables of scores: what is there already is never scored again."""

import dataclasses

import numpy as np
import pytest

from ensemble.run import cache
from ensemble.scorers.gradients import (
    blocks,
)
from ensemble.scorers.gradients.blocks import Sizes
from ensemble.scorers.methods.mlodozeniec2025influence import InfluenceFunction
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_setting


class Asked:
    """Scores ten times the query plus the image, and remembers what was asked."""

    def __init__(self, setting, fail_at=None):
        self.setting, self.fail_at = setting, fail_at
        self.asked = []

    def __call__(self, queries):
        def against(images):
            if (queries.start, images.start) == self.fail_at:
                raise KeyboardInterrupt
            self.asked.append((queries.start, images.start))
            self.setting.work.gradients += 1
            rows = 10 * np.arange(queries.start, queries.stop)
            return rows[:, None] + np.arange(images.start, images.stop)

        return against


EXPECTED = 10 * np.arange(4)[:, None] + np.arange(6)


def fill(setting, asked, sizes):
    return blocks.filled(setting, "name", (4, 6), sizes, asked)


@pytest.fixture
def setting(tmp_path):
    return tiny_setting.setting(tmp_path / "new")


@pytest.mark.parametrize("sizes", [Sizes(1, 1), Sizes(3, 4), Sizes(9, 9)])
def test_a_table_does_not_depend_on_its_blocks(setting, sizes):
    assert np.array_equal(fill(setting, Asked(setting), sizes), EXPECTED)


def test_a_full_table_is_only_read_back(setting):
    fill(setting, Asked(setting), Sizes(2, 3))
    again = Asked(setting)
    assert np.array_equal(fill(setting, again, Sizes(4, 2)), EXPECTED)
    assert again.asked == []


def test_an_interrupted_table_goes_on_where_it_was(setting):
    with pytest.raises(KeyboardInterrupt):
        fill(setting, Asked(setting, fail_at=(2, 3)), Sizes(2, 3))
    again = Asked(setting)
    assert np.array_equal(fill(setting, again, Sizes(2, 3)), EXPECTED)
    assert again.asked == [(2, 3)]


def test_work_of_an_earlier_time_is_counted(setting):
    fill(setting, Asked(setting), Sizes(2, 3))
    later = dataclasses.replace(setting, work=type(setting.work)())
    fill(later, Asked(later), Sizes(2, 3))
    assert later.work.gradients == setting.work.gradients == 4
    assert later.work.seconds_before > 0


def test_a_table_that_finds_no_room_is_refused(setting, monkeypatch):
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: full)
    with pytest.raises(BadInput, match=r"Scores of 4 x 6 take .* Make room"):
        fill(setting, Asked(setting), Sizes(2, 3))


def test_a_tables_name_changes_with_whatever_decides_its_scores(setting):
    scorer, seen = InfluenceFunction(), np.arange(3)
    network = setting.networks[0]
    moved = dataclasses.replace(setting, queries=setting.queries[np.s_[0:2]])
    names = {
        blocks.digest(scorer, setting, network, seen, seen),
        blocks.digest(InfluenceFunction("squared_norm"), setting, network, seen, seen),
        blocks.digest(scorer, setting, setting.networks[1], seen, seen),
        blocks.digest(scorer, setting, network, seen[:2], seen),
        blocks.digest(scorer, setting, network, seen, seen[:2]),
        blocks.digest(scorer, moved, network, seen, seen),
    }
    assert len(names) == 6
    assert blocks.digest(scorer, setting, network, seen, seen) in names


def test_a_damaged_row_is_scored_again(setting):
    fill(setting, Asked(setting), Sizes(2, 3))
    (path,) = setting.folder.glob("scores-name.npy")
    table = np.load(path, mmap_mode="r+")
    table[3, 5] = 7
    table.flush()
    again = Asked(setting)
    assert np.array_equal(fill(setting, again, Sizes(1, 6)), EXPECTED)
    assert again.asked == [(3, 0)]
