"""The report: one page that shows what was measured, and computes nothing.

Everything on it comes from tables that other stages saved; ranks, placebos and p-values
are theirs. The page holds its own style and pictures, has no scripts, and asks the
network for nothing. A *unit* is what was ablated at once: a source, or a group of them.

Before: pipeline.py, influence.py, evaluation/ (save the tables). After: a reader.
"""

import base64
import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from markupsafe import Markup

from ensemble import config as configs
from ensemble import figures, page, store
from ensemble.data import TrainingImages
from ensemble.page import counted
from ensemble.store import Run

N_THUMBNAILS = 4
N_MORE = 100  # rows below the top ones: 64 pictures of 1,797 sources must still load
N_CODES = 512


@dataclass(frozen=True)
class Unit:
    """What was ablated at once, as the page shows it.

    Attributes:
        number: Its place in the tables.
        name: What the run or the data calls it.
        label: The label of its images; how many labels if they differ; or empty.
        n_images: Training images that belong to it.
        pictures: Its first images as `data:` addresses, by their numbers.
    """

    number: int
    name: str
    label: str
    n_images: int
    pictures: dict[int, str]


@dataclass(frozen=True)
class Row:
    """What ablating one unit did to one query.

    Attributes:
        unit: What was ablated.
        displacement: Distance between the full and the ablated picture.
        excess: Displacement minus the placebos' mean.
        p_value: Corrected for the number of units.
        above: Whether the p-value is small enough to tell it from placebo.
        influences: One per measurement.
        ablated: The ablated picture, if it was kept.
        difference: Full minus ablated picture, if that was kept.
    """

    unit: Unit
    displacement: float
    excess: float
    p_value: float
    above: bool
    influences: list[float]
    ablated: str = ""
    difference: str = ""


@dataclass(frozen=True)
class Card:
    """A query, and what ablation says about it.

    Attributes:
        number: Its place in the tables.
        seed: Of its noise.
        condition: What the members were told to draw; empty if nothing.
        picture: By the full ensemble.
        measured: Whether ablation was measured on it; else nothing below is set.
        attributable: Whether any unit stands out from the placebos.
        n_above: Units that do.
        top: The most displacing units, with their ablated pictures.
        more: The next ones, without.
        n_left: Units that are not shown at all.
        limit: The difference that gets the strongest colour.
        landscape: Histogram of all displacements.
    """

    number: int
    seed: int
    condition: str
    picture: str
    measured: bool = False
    attributable: bool = False
    n_above: int = 0
    top: tuple[Row, ...] = ()
    more: tuple[Row, ...] = ()
    n_left: int = 0
    limit: float = 0.0
    landscape: Markup = Markup("")


@dataclass(frozen=True)
class Table:
    """A table of a JSON file, and the figures that belong to it."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[Any]]
    figures: list[str]


@dataclass(frozen=True)
class Influence:
    """The tables of `influence/NAME`; see influence.py."""

    info: dict[str, Any]
    displacement: Float32[np.ndarray, "queries units"]
    placebo: Float32[np.ndarray, "queries placebos"]
    excess: Float32[np.ndarray, "queries units"]
    p_values: Float64[np.ndarray, "queries units"]
    influences: dict[str, np.ndarray]
    top_units: Int64[np.ndarray, "queries top"]
    top_images: Float32[np.ndarray, "queries top channels height width"]


def write(run: Run, name: str, data: TrainingImages) -> Path:
    """Write the report on a set of queries into the run folder.

    Args:
        run: The run folder.
        name: The set of queries.
        data: The run's training images, for the sources' thumbnails.

    Returns:
        The path of `report.html`.

    Raises:
        BadInput: If a table that the report needs is missing or damaged.
    """
    bits = store.read_array(run.codes)
    influence = _influence(run.influence(name))
    cards = _cards(run, name, data, influence)
    members = [
        store.read_json(path) for path in sorted(run.members.glob("*/member.json"))
    ]
    text = page.render(
        title=run.path.resolve().name,
        name=name,
        summary=_summary(bits, cards, influence),
        cards=cards,
        colour=data.images.shape[1] > 1,
        info=influence.info if influence else None,
        sampling=store.read_json(run.queries(name) / "info.json"),
        code_book=_code_book(bits),
        members=members,
        curves=_curves(members),
        manifest=store.read_json(run.manifest),
        commands=_commands(run, name, cards, influence),
        options=configs.to_yaml(run.config),
        scores=_tables(run.scores(name)),
        evaluation=_tables(run.evaluation),
    )
    path = run.path / "report.html"
    store.write_text(path, text)
    return path


def _influence(folder: Path) -> Influence | None:
    if not folder.exists():
        return None
    info = store.read_json(folder / "info.json")

    def table(name: str) -> np.ndarray:
        return store.sealed_array(folder, "info.json", f"{name}.npy")

    return Influence(
        info=info,
        displacement=table("displacement"),
        placebo=table("placebo"),
        excess=table("excess"),
        p_values=table("p_values"),
        influences={
            measurement: table(f"influence_{measurement}")
            for measurement in info["measurements"]
        },
        top_units=table("top_units"),
        top_images=table("top_images"),
    )


class _Units:
    """The units of a run, looked up when they are shown."""

    def __init__(self, run: Run, data: TrainingImages, info: dict[str, Any]) -> None:
        self.data = data
        self.names = store.read_json(run.path / "sources.json")["names"]
        source_of = store.read_array(run.source_of)
        order = np.argsort(source_of, kind="stable")
        ends = np.searchsorted(source_of[order], np.arange(1, len(self.names)))
        self.images = np.split(order, ends)
        if info["unit_names"] is not None:
            self.names = info["unit_names"]
            self.images = [
                np.sort(np.concatenate([self.images[source] for source in group]))
                for group in info["group_sources"]
            ]

    def unit(self, number: int, n_pictures: int) -> Unit:
        """A unit with its first pictures."""
        images = self.images[number]
        name = str(self.names[number])
        if name == str(number):  # the source is one image, and images have names
            name = self.data.names[images[0]]
        return Unit(
            number=number,
            name=name,
            label=self._label(images),
            n_images=len(images),
            pictures={
                int(image): figures.picture(self.data.images[image])
                for image in images[:n_pictures]
            },
        )

    def _label(self, images: Int64[np.ndarray, " images"]) -> str:
        if self.data.labels is None:
            return ""
        labels = np.unique(self.data.labels[images])
        if len(labels) > 1:
            return f"{len(labels)} labels"
        return _label_name(self.data, labels[0])


def _label_name(data: TrainingImages, label: int) -> str:
    return str(data.label_names[label]) if data.label_names else str(label)


def _cards(
    run: Run, name: str, data: TrainingImages, influence: Influence | None
) -> list[Card]:
    folder = run.queries(name)
    images = store.sealed_array(folder, "info.json", "images.npy")
    seeds = store.sealed_array(folder, "info.json", "seeds.npy")
    conditions = [""] * len(seeds)
    if (folder / "conditions.npy").exists():
        labels = store.sealed_array(folder, "info.json", "conditions.npy")
        conditions = [_label_name(data, label) for label in labels]
    cards = [
        Card(query, int(seeds[query]), conditions[query], figures.picture(image))
        for query, image in enumerate(images)
    ]
    if influence is None:
        return cards
    units = _Units(run, data, influence.info)
    return [
        _measured(card, image, influence, units)
        for card, image in zip(cards, images, strict=True)
    ]


def _measured(
    card: Card, image: np.ndarray, influence: Influence, units: _Units
) -> Card:
    """The card with what ablation found out about its query."""
    query = card.number
    above = influence.p_values[query] <= influence.info["threshold"]
    top = influence.top_units[query]
    differences = image - influence.top_images[query]
    limit = float(np.abs(differences.mean(axis=1)).max()) or 1.0
    rows = []
    for unit, ablated, difference in zip(
        top, influence.top_images[query], differences, strict=True
    ):
        row = _row(influence, query, units.unit(int(unit), N_THUMBNAILS))
        rows.append(
            dataclasses.replace(
                row,
                ablated=figures.picture(ablated),
                difference=figures.difference_picture(difference, limit),
            )
        )
    order = np.argsort(-influence.displacement[query], kind="stable")
    rest = order[~np.isin(order, top)]
    return dataclasses.replace(
        card,
        measured=True,
        attributable=query not in influence.info["unattributable"],
        n_above=int(above.sum()),
        top=tuple(rows),
        more=tuple(
            _row(influence, query, units.unit(int(unit), n_pictures=0))
            for unit in rest[:N_MORE]
        ),
        n_left=max(0, len(rest) - N_MORE),
        limit=limit,
        landscape=figures.histogram(
            influence.displacement[query],
            influence.placebo[query],
            above,
            influence.info["units"],
            f"Displacements of query {query}",
        ),
    )


def _row(influence: Influence, query: int, unit: Unit) -> Row:
    p_value = float(influence.p_values[query, unit.number])
    return Row(
        unit=unit,
        displacement=float(influence.displacement[query, unit.number]),
        excess=float(influence.excess[query, unit.number]),
        p_value=p_value,
        above=p_value <= influence.info["threshold"],
        influences=[
            float(values[query, unit.number])
            for values in influence.influences.values()
        ],
    )


def _code_book(bits: Bool[np.ndarray, "sources members"]) -> dict[str, Any]:
    """The code book's picture and its size: bits get wide and low to fit the page."""
    shown = bits[:N_CODES]
    n_shown, n_members = shown.shape
    return {
        "address": figures.code_book_picture(shown),
        "width": n_members * min(16, max(1, 320 // n_members)),
        "height": n_shown * min(16, max(1, 512 // n_shown)),
        "n_shown": n_shown,
        "n_sources": len(bits),
        "n_members": n_members,
    }


def _curves(members: list[dict[str, Any]]) -> Markup:
    if not members:
        return Markup("")
    curves = [member["loss_curve"] for member in members]
    return figures.loss_curves(curves, "Loss of every member")


def _summary(bits: np.ndarray, cards: list[Card], influence: Influence | None) -> str:
    """What was found, in one or two sentences."""
    n_sources, n_members = bits.shape
    counts = [
        counted(n_members, "member"),
        counted(n_sources, "source"),
        counted(len(cards), "picture"),
    ]
    if influence is None:
        return ", ".join(counts) + ". Nothing has been ablated yet."
    info = influence.info
    if info["units"] == "groups":
        counts.insert(2, counted(influence.displacement.shape[1], "group"))
    n_attributable = sum(card.attributable for card in cards)
    found = (
        f"for {n_attributable} of {len(cards)} pictures, removing at least one "
        f"{info['units'].removesuffix('s')} changes the picture more than placebo "
        "removals do."
    )
    if info["smallest_p"] > info["threshold"]:
        found += (
            f" With {counted(info['n_placebos'], 'placebo')} no corrected p-value can "
            f"be below {info['smallest_p']:.2g}, so nothing could have been found: "
            "measure more placebos."
        )
    return ", ".join(counts) + ": " + found


def _commands(
    run: Run, name: str, cards: list[Card], influence: Influence | None
) -> list[str]:
    """What to type to make all of it again."""
    folder = shlex.quote(str(run.path))
    named = f"--name {shlex.quote(name)}"
    commands = [
        f"python train.py {shlex.quote(str(run.path / 'config.yaml'))}",
        f"python attribute.py {folder} generate {named} --n {len(cards)} "
        f"--seed {cards[0].seed}",
    ]
    if influence is not None:
        method = influence.info["method"]
        commands.append(
            f"python attribute.py {folder} ablate {named} --method {method}"
        )
    return [*commands, f"python attribute.py {folder} report {named}"]


def _tables(folder: Path) -> list[Table]:
    """Whatever tables a folder's JSON files hold, as they are."""
    return [_table(path) for path in sorted(folder.glob("*.json"))]


def _table(path: Path) -> Table:
    content = store.read_json(path)
    title = content.pop("title", path.stem)
    note = content.pop("note", "")
    drawings = [path.parent / file for file in content.pop("figures", [])]
    if "rows" in content:
        columns, rows = content["columns"], content["rows"]
    else:
        columns, rows = ["fact", "value"], [list(fact) for fact in content.items()]
    return Table(title, note, columns, rows, [_svg_address(path) for path in drawings])


def _svg_address(path: Path) -> str:
    """An SVG file as a `data:` address; as an image it can neither run nor load."""
    text = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:image/svg+xml;base64,{text}"
