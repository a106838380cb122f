"""Tables of scores: what is there already is never scored again."""

import dataclasses

import numpy as np
import pytest

from ensemble.run import cache
from ensemble.scorers.gradients import blocks
from ensemble.scorers.gradients.blocks import Sizes
from ensemble.scorers.methods.mlodozeniec2025influence import InfluenceFunction
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_context


class Asked:
    """Scores ten times the query plus the image, and remembers what was asked."""

    def __init__(self, context, fail_at=None):
        self.context, self.fail_at = context, fail_at
        self.asked = []

    def __call__(self, queries):
        def against(images):
            if (queries.start, images.start) == self.fail_at:
                raise KeyboardInterrupt
            self.asked.append((queries.start, images.start))
            self.context.work.gradients += 1
            rows = 10 * np.arange(queries.start, queries.stop)
            return rows[:, None] + np.arange(images.start, images.stop)

        return against


EXPECTED = 10 * np.arange(4)[:, None] + np.arange(6)


def fill(context, asked, sizes):
    return blocks.fill_scores(context, "name", (4, 6), sizes, asked)


@pytest.fixture
def context(tmp_path):
    return tiny_context.context(tmp_path / "new")


@pytest.mark.parametrize("sizes", [Sizes(1, 1), Sizes(3, 4), Sizes(9, 9)])
def test_a_table_does_not_depend_on_its_blocks(context, sizes):
    assert np.array_equal(fill(context, Asked(context), sizes), EXPECTED)


def test_a_full_table_is_only_read_back(context):
    fill(context, Asked(context), Sizes(2, 3))
    again = Asked(context)
    assert np.array_equal(fill(context, again, Sizes(4, 2)), EXPECTED)
    assert again.asked == []


def test_an_interrupted_table_goes_on_where_it_was(context):
    with pytest.raises(KeyboardInterrupt):
        fill(context, Asked(context, fail_at=(2, 3)), Sizes(2, 3))
    again = Asked(context)
    assert np.array_equal(fill(context, again, Sizes(2, 3)), EXPECTED)
    assert again.asked == [(2, 3)]


def test_work_of_an_earlier_time_is_counted(context):
    fill(context, Asked(context), Sizes(2, 3))
    later = dataclasses.replace(context, work=type(context.work)())
    fill(later, Asked(later), Sizes(2, 3))
    assert later.work.gradients == context.work.gradients == 4
    assert later.work.seconds_before > 0


def test_a_table_that_finds_no_room_is_refused(context, monkeypatch):
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: full)
    with pytest.raises(BadInput, match=r"Scores of 4 x 6 take .* Make room"):
        fill(context, Asked(context), Sizes(2, 3))


def test_a_tables_name_changes_with_whatever_decides_its_scores(context):
    scorer, seen = InfluenceFunction(), np.arange(3)
    network = context.networks[0]
    moved = dataclasses.replace(context, queries=context.queries[np.s_[0:2]])
    names = {
        blocks.digest(scorer, context, network, seen, seen),
        blocks.digest(InfluenceFunction("squared_norm"), context, network, seen, seen),
        blocks.digest(scorer, context, context.networks[1], seen, seen),
        blocks.digest(scorer, context, network, seen[:2], seen),
        blocks.digest(scorer, context, network, seen, seen[:2]),
        blocks.digest(scorer, moved, network, seen, seen),
    }
    assert len(names) == 6
    assert blocks.digest(scorer, context, network, seen, seen) in names


def test_a_damaged_row_is_scored_again(context):
    fill(context, Asked(context), Sizes(2, 3))
    (path,) = context.folder.glob("scores-name.npy")
    table = np.load(path, mmap_mode="r+")
    table[3, 5] = 7
    table.flush()
    again = Asked(context)
    assert np.array_equal(fill(context, again, Sizes(1, 6)), EXPECTED)
    assert again.asked == [(3, 0)]
