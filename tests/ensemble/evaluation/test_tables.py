"""Tables for machines, spreadsheets and people say the same."""

import json

import pytest

from ensemble.evaluation import tables
from ensemble.run import folder
from splits.errors import BadInput
from tests import tiny

ROWS = [
    {"method": "a", "lds": {"value": 0.51234, "low": 0.4, "high": 0.6}, "seconds": 2},
    {"method": "b", "lds": {"value": None, "low": None, "high": None}},
]


def test_an_interval_takes_three_columns_of_a_csv():
    assert tables.as_csv(ROWS).splitlines() == [
        "method,lds,lds_low,lds_high,seconds",
        "a,0.51234,0.4,0.6,2",
        "b,,,,",
    ]


def test_an_interval_is_one_cell_for_people():
    first, second, third = tables.as_text(ROWS).splitlines()
    assert first.split() == ["method", "lds", "seconds"]
    assert second.split() == ["a", "0.512", "[0.4,", "0.6]", "2"]
    assert third.split() == ["b", "-", "[-,", "-]", "-"]


def test_a_table_is_current_as_long_as_it_is_of_the_same_things(tmp_path):
    run = folder.create(tiny.config(tmp_path / "run"))
    path = tables.file(run, "lds", "demo")
    assert not tables.is_current(path, {"seeds": [1]})
    tables.write(path, {"seeds": [1]}, ROWS, {"n_subsets": 64})
    assert tables.is_current(path, {"seeds": [1]})
    assert not tables.is_current(path, {"seeds": [1, 2]})
    content = json.loads(path.read_text())
    assert content["rows"] == ROWS
    assert content["n_subsets"] == 64
    assert content["made"]


def test_what_was_made_of_something_else_is_refused(tmp_path):
    tables.require_same(tmp_path, {"steps": 3}, {"steps": 3})
    with pytest.raises(BadInput, match="another steps: 3, asked for 4"):
        tables.require_same(tmp_path, {"steps": 3}, {"steps": 4})
