"""Plots of evaluations for papers: SVG and PNG beside the tables."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ensemble.evaluation.metrics.rank_correlation import ceiling
from ensemble.evaluation.tables import Row
from ensemble.run.files import atomic_file, read_json

SIZE = (6.0, 4.0)
# Of a method's name under another, in inches.
LINE = 0.15
# The same figures give the same files.
PLAIN = {"svg": {"Date": None}, "png": {"Software": None}}


# Plots of a fact that not every table has: one seed alone has no reliability.
OPTIONAL = ("reliability",)


def draw(path: Path) -> list[Path]:
    """Draw what a table holds; returns the files, an SVG and a PNG for each plot.

    Args:
        path: The table, as `tables.write` left it: WHAT-NAME.json.
    """
    table = read_json(path)
    # A table of another measure, as `lds_displacement`, is drawn like the first.
    what = path.stem.split("-")[0].split("_")[0]
    return [
        file
        for name, plot in PLOTS[what].items()
        if name not in OPTIONAL or name in table
        for file in _saved(path.with_name(f"{path.stem}-{name}"), plot, table)
    ]


def lds(axes: Axes, table: dict[str, Any]) -> None:
    """Every method's best read-out apart: LDS with intervals, under the ceiling."""
    rows = [row for row in table["rows"] if row["readout"] == "raw"]
    rows.sort(key=lambda row: row["lds"]["value"])
    places = np.arange(len(rows))
    _points(axes, rows, "lds", places, sideways=True)
    axes.set_yticks(places, [row["method"] for row in rows], fontsize=7)
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.set_figheight(max(SIZE[1], LINE * len(rows) + 1))
    axes.set_xlabel("LDS, raw read-out")
    axes.axvline(0, color="0.8", linewidth=0.8)
    if "ceiling" in table:
        axes.axvline(table["ceiling"]["value"], color="0.3", linestyle="--")
        axes.set_title(f"ceiling {table['ceiling']['value']:.2f}", fontsize=9)


def lds_against_cost(axes: Axes, table: dict[str, Any]) -> None:
    """LDS over the seconds that a method took; named are those that nothing beats."""
    rows = [row for row in table["rows"] if row.get("seconds")]
    rows = [row for row in rows if row["readout"] == "raw"]
    seconds = np.array([row["seconds"] for row in rows])
    _points(axes, rows, "lds", seconds)
    best = front(rows)
    colours = colormaps["viridis"](np.linspace(0, 1, len(best)))
    for row, colour in zip(best, colours, strict=True):
        at = [row["seconds"]], [row["lds"]["value"]]
        axes.scatter(*at, s=40, color=colour, label=row["method"], zorder=3)
    if rows:
        axes.set_xscale("log")
        axes.legend(fontsize=7)
    axes.set_xlabel("seconds (of posteriors without those of their priors)")
    axes.set_ylabel("LDS, raw read-out")


def front(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that no other beats for less time, the fastest first."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["seconds"], -row["lds"]["value"])):
        if not best or row["lds"]["value"] > best[-1]["lds"]["value"]:
            best.append(row)
    return best


def reliability(axes: Axes, table: dict[str, Any]) -> None:
    """The ceiling over the number of seeds, and where this table stands."""
    seeds = np.arange(1, 11)
    for end, style in (("low", ":"), ("value", "-"), ("high", ":")):
        rho = np.array([table["reliability"][end]])
        heights = [float(ceiling(rho, int(n))[0]) for n in seeds]
        axes.plot(seeds, heights, color="C0", linestyle=style)
    axes.axvline(table["n_seeds"], color="0.8")
    axes.set_ylim(0, 1)
    axes.set_xlabel("training seeds of each subset")
    axes.set_ylabel("ceiling of the LDS")


def deletion(axes: Axes, table: dict[str, Any]) -> None:
    """Rise of the query's loss over the number of sources removed."""
    for method in dict.fromkeys(row["method"] for row in table["rows"]):
        rows = [row for row in table["rows"] if row["method"] == method]
        top = np.array([row["top"] for row in rows])
        _points(axes, rows, "loss_rise", top, label=method, line=True)
    axes.set_xlabel("sources removed")
    axes.set_ylabel("rise of the query's loss")
    axes.legend(fontsize=6)


def false_attribution(axes: Axes, table: dict[str, Any]) -> None:
    """The rate of every rule."""
    rows = [
        row for row in table["rows"] if row["false_attribution"]["value"] is not None
    ]
    places = np.arange(len(rows))
    _points(axes, rows, "false_attribution", places, sideways=True)
    axes.set_yticks(places, [row["rule"] for row in rows], fontsize=7)
    axes.axvline(1, color="0.3", linestyle="--")
    axes.set_xlim(left=0)
    axes.set_xlabel(f"false attribution rate, {table['n_images']} training images")


def quality(axes: Axes, table: dict[str, Any]) -> None:
    """Fréchet distance of every model."""
    rows = table["rows"]
    places = np.arange(len(rows))
    _points(axes, rows, "frechet", places, sideways=True)
    axes.set_yticks(places, [row["model"] for row in rows], fontsize=7)
    axes.set_xlim(left=0)
    axes.set_xlabel("Fréchet distance (small encoder of the training images)")


def curve(tables: Sequence[Path], folder: Path) -> list[Path]:
    """False attribution over the number of training images, from several runs."""

    def plot(axes: Axes, found: dict[str, list[dict[str, Any]]]) -> None:
        runs = sorted(found["runs"], key=lambda table: table["n_images"])
        rules = [row["rule"] for row in runs[0]["rows"]]
        for rule in rules:
            pairs = [
                (table["n_images"], row)
                for table in runs
                for row in table["rows"]
                if row["rule"] == rule and row["false_attribution"]["value"] is not None
            ]
            rows = [row for _, row in pairs]
            at = np.array([n_images for n_images, _ in pairs])
            _points(axes, rows, "false_attribution", at, label=rule, line=True)
        axes.set_xscale("log")
        axes.set_xlabel("training images")
        axes.set_ylabel("false attribution rate")
        axes.legend(fontsize=6)

    runs = {"runs": [read_json(path) for path in tables]}
    return _saved(folder / "far-curve", plot, runs)


def _points(
    axes: Axes,
    rows: Sequence[Row],
    column: str,
    at: np.ndarray,
    sideways: bool = False,
    label: str | None = None,
    line: bool = False,
) -> None:
    """Values with their intervals; an end that is not known has no length."""
    values = np.array([row[column]["value"] for row in rows], dtype=np.float64)
    reach = [
        [
            abs(_known(row[column][end], row[column]["value"]) - row[column]["value"])
            for row in rows
        ]
        for end in ("low", "high")
    ]
    style = {"fmt": "o-" if line else "o", "markersize": 3, "linewidth": 1}
    if sideways:
        axes.errorbar(values, at, xerr=reach, label=label, **style)
    else:
        axes.errorbar(at, values, yerr=reach, label=label, **style)


def _known(end: float | None, value: float) -> float:
    return value if end is None else end


def _saved(
    stem: Path, plot: Callable[[Axes, Any], None], table: dict[str, Any]
) -> list[Path]:
    figure = Figure(figsize=SIZE, layout="constrained")
    plot(figure.add_subplot(), table)
    files = []
    for kind, metadata in PLAIN.items():
        file = stem.with_name(f"{stem.name}.{kind}")
        with atomic_file(file) as partial:
            figure.savefig(partial, format=kind, dpi=200, metadata=metadata)
        files.append(file)
    return files


PLOTS: dict[str, dict[str, Callable[[Axes, dict[str, Any]], None]]] = {
    "lds": {
        "methods": lds,
        "cost": lds_against_cost,
        "reliability": reliability,
    },
    "deletion": {"loss": deletion},
    "far": {"rules": false_attribution},
    "quality": {"frechet": quality},
}
