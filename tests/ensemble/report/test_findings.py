"""Rows stand in the order of what was found, and each says what its table says."""

import numpy as np
import pytest

from ensemble.report import findings
from ensemble.report.findings import Finding, Units
from ensemble.run import files, records
from tests import finished


@pytest.fixture
def data():
    return finished.images()


@pytest.fixture
def run(tmp_path, data):
    return finished.run(tmp_path / "run", data)


def found(run, data, query: int) -> Finding:
    (tables,) = findings.saved(run, "demo")
    images = records.checked_array(run.queries("demo"), "info.json", "images.npy")
    return findings.find(tables, Units(run, data, tables), query, images[query])


def test_the_top_rows_are_those_whose_ablated_pictures_were_kept(run, data):
    finding = found(run, data, query=2)
    titles = [row.unit.title for row in finding.top]
    assert titles == ["source 1", "source 2", "source 11"]
    assert [row.above for row in finding.top] == [True, True, False]
    assert finding.top[0].displacement == pytest.approx(0.9)
    assert finding.top[0].influences == pytest.approx([0.09, -0.009])


def test_the_other_rows_come_by_p_value_then_displacement(run, data):
    folder = run.influence("demo")
    p_values = files.read_array(folder / "p_values.npy")
    p_values[0, 3] = 0.02
    files.write_array(folder / "p_values.npy", p_values)
    info = files.read_json(folder / "info.json")
    records.write_done_mark(folder, "info.json", info)
    rows = found(run, data, query=0).more
    assert [row.unit.title for row in rows[:3]] == ["source 3", "source 9", "source 8"]
    assert rows[0].above


def test_shown_and_counted_units_are_all_units(run, data, monkeypatch):
    monkeypatch.setattr(findings, "N_MORE", 4)
    finding = found(run, data, query=1)
    titles = {row.unit.title for row in [*finding.top, *finding.more]}
    assert len(titles) == 3 + 4
    assert finding.n_left == 12 - 7


def test_the_strongest_colour_belongs_to_the_largest_difference(run, data):
    # The chosen tables make the picture darker by just the displacement.
    assert found(run, data, query=0).limit == pytest.approx(0.9, rel=1e-6)


def test_pictures_that_do_not_move_have_a_scale_all_the_same(run, data):
    folder = run.influence("demo")
    pictures = files.read_array(run.queries("demo") / "images.npy")
    files.write_array(folder / "top_images.npy", np.repeat(pictures[:, None], 3, 1))
    records.write_done_mark(folder, "info.json", files.read_json(folder / "info.json"))
    assert found(run, data, query=0).limit == 1.0


def test_a_source_is_called_by_its_image_and_label(run, data):
    row = found(run, data, query=0).top[0]
    assert row.unit.facts == ["image 0005.png", "label owl"]
    assert list(row.unit.pictures) == [5]


def test_images_without_labels_have_none(run):
    plain = finished.images()
    bare = type(plain)(plain.images, None, (), {}, plain.names)
    assert found(run, bare, query=0).top[0].unit.facts == ["image 0005.png"]


def test_sources_come_before_groups(run):
    groups = {"label cat": [0, 3], "label dog": [1, 4]}
    finished.ablated(run, "demo-0123abcd", groups, n_top=2)
    tables = findings.saved(run, "demo")
    assert [table.folder for table in tables] == ["demo", "demo-0123abcd"]
    assert [table.noun for table in tables] == ["source", "group"]
    titles = ["Source by source", "By group: label cat to label dog"]
    assert [table.title for table in tables] == titles


def test_a_group_shows_the_images_of_all_its_sources(run, data):
    finished.ablated(run, "demo-0123abcd", {"sources 7, 2": [7, 2]}, n_top=1)
    tables = findings.saved(run, "demo")[1]
    unit = Units(run, data, tables).unit(0, n_pictures=9)
    assert tables.title == "All at once: sources 7, 2"
    assert unit.title == "sources 7, 2"
    assert unit.facts == ["2 sources", "2 labels", "2 images"]
    assert list(unit.pictures) == [2, 7]
