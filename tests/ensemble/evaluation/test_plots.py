"""Every plot is drawn from a table as it lies on the disk."""

import pytest

from ensemble.evaluation import EVALUATIONS, lds, options, plots, tables
from ensemble.run import folder
from ensemble.run.files import read_json
from tests import tiny

INTERVAL = {"value": 0.4, "low": 0.3, "high": 0.6}
OPEN = {"value": 0.2, "low": None, "high": None}

TABLES = {
    "lds": (
        [
            {"method": "trak", "readout": "raw", "lds": INTERVAL, "seconds": 3.5},
            {"method": "trak", "readout": "squared", "lds": INTERVAL, "seconds": 3.5},
            {"method": "control", "readout": "raw", "lds": OPEN},
        ],
        {"ceiling": INTERVAL, "reliability": INTERVAL, "n_seeds": 3},
    ),
    "deletion": (
        [
            {"method": method, "top": top, "loss_rise": INTERVAL}
            for method in ("trak", "random")
            for top in (1, 4)
        ],
        {},
    ),
    "far": (
        [
            {"rule": "nearest", "false_attribution": OPEN},
            {
                "rule": "never",
                "false_attribution": {"value": None, "low": None, "high": None},
            },
        ],
        {"n_images": 300},
    ),
    "quality": ([{"model": "ensemble", "frechet": INTERVAL}], {}),
}


def written(tmp_path, what):
    run = folder.create(tiny.config(tmp_path / "run"))
    path = tables.file(run, what, "demo")
    tables.write(path, {}, *TABLES[what])
    return path


def test_of_a_single_seed_no_reliability_is_drawn(tmp_path):
    run = folder.create(tiny.config(tmp_path / "run"))
    path = tables.file(run, "lds", "demo")
    rows, facts = TABLES["lds"]
    lone = {name: fact for name, fact in facts.items() if name != "reliability"}
    tables.write(path, {}, rows, lone)
    names = {file.stem for file in plots.draw(path)}
    assert names == {"lds-demo-methods", "lds-demo-cost"}


@pytest.mark.parametrize("measure", options.MEASURES)
def test_the_table_of_every_measure_is_drawn(tmp_path, measure):
    run = folder.create(tiny.config(tmp_path / "run"))
    asked = options.Options(name="first_day-two", measure=measure)
    path = lds.file_of(run, asked)
    tables.write(path, {}, *TABLES["lds"])
    stems = {file.stem for file in plots.draw(path)}
    assert stems == {f"{path.stem}-{name}" for name in plots.PLOTS["lds"]}


@pytest.mark.parametrize("what", EVALUATIONS)
def test_every_evaluation_has_plots_for_papers(tmp_path, what):
    path = written(tmp_path, what)
    files = plots.draw(path)
    assert len(files) == 2 * len(plots.PLOTS[what])
    for file in files:
        begin = file.read_bytes()[:200]
        assert begin.startswith(b"\x89PNG") or b"<?xml" in begin
        assert file.stem.startswith(f"{what}-demo-")


def test_names_are_in_the_picture_and_values_where_they_belong(tmp_path):
    figure = plots.Figure()
    axes = figure.add_subplot()
    plots.lds(axes, read_json(written(tmp_path, "lds")))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["control", "trak"]
    values, *_ = axes.containers[0]
    assert values.get_xdata().tolist() == [0.2, 0.4]


def test_a_curve_runs_over_the_training_images_of_several_runs(tmp_path):
    paths = []
    for n_images in (1000, 100):
        rows, _ = TABLES["far"]
        path = tmp_path / f"{n_images}.json"
        tables.write(path, {}, rows, {"n_images": n_images})
        paths.append(path)
    svg, png = plots.curve(paths, tmp_path)
    assert svg.name == "far-curve.svg"
    assert png.exists()


def test_many_methods_make_the_picture_higher():
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows = [
        {"method": str(number), "readout": "raw", "lds": interval}
        for number in range(60)
    ]
    heights = []
    for some in (rows[:3], rows):
        figure = plots.Figure(figsize=plots.SIZE)
        plots.lds(figure.add_subplot(), {"rows": some})
        heights.append(figure.get_figheight())
    assert heights[0] == plots.SIZE[1]
    assert heights[1] >= 60 * plots.LINE


def test_only_what_nothing_beats_for_less_time_is_named():
    rows = [
        {"method": method, "seconds": seconds, "lds": {"value": value}}
        for method, seconds, value in [
            ("dear", 90.0, 0.9),
            ("cheap", 1.0, 0.2),
            ("beaten", 50.0, 0.5),
            ("good", 9.0, 0.6),
            ("same_time", 1.0, 0.1),
            ("no_better", 95.0, 0.9),
        ]
    ]
    assert [row["method"] for row in plots.front(rows)] == ["cheap", "good", "dear"]
    assert plots.front([]) == []
