"""Findings: what ablation says about each query, row by row, ready to be shown.

A *unit* is what was ablated at once: a source, or a group of sources. A *finding* is
what ablating the units, one by one, did to one query. Nothing is computed here but the
order of the rows and the pictures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from markupsafe import Markup

from ensemble.data.datasets import TrainingImages
from ensemble.report import audit_verdict, figures, verification
from ensemble.report.page import counted
from ensemble.report.verification import Verification
from ensemble.run import files, records, table_records
from ensemble.run.folder import Run
from ensemble.run.table_records import Kind
from ensemble.run.voters import Membership
from ensemble.system import text

N_THUMBNAILS = 4
N_MORE = 50  # rows below the top ones: 64 pictures of 1,797 sources must still load


@dataclass(frozen=True, eq=False)
class Influence:
    """The tables of one folder under `influence/`; influence.py says what they mean."""

    folder: str
    info: dict[str, Any]
    displacement: Float32[np.ndarray, "queries units"]
    placebo: Float32[np.ndarray, "queries placebos"]
    excess: Float32[np.ndarray, "queries units"]
    p_values: Float64[np.ndarray, "queries units"]
    influences: dict[str, Float32[np.ndarray, "queries units"]]
    top_units: Int64[np.ndarray, "queries top"]
    top_images: Float32[np.ndarray, "queries top channels height width"]

    @property
    def noun(self) -> str:
        """What one unit is: `source` or `group`."""
        return self.info["units"].removesuffix("s")

    @property
    def objection(self) -> str:
        """Why nothing may be concluded from these tables; empty: nothing against it."""
        return audit_verdict.objection(self.info)

    @property
    def title(self) -> str:
        """What was ablated, for a heading."""
        names = self.info["unit_names"]
        if names is None:
            return "Source by source"
        if len(names) == 1:
            return f"All at once: {names[0]}"
        return f"By group: {names[0]} to {names[-1]}"


@dataclass(frozen=True)
class Unit:
    """What was ablated at once, as the page shows it.

    Attributes:
        title: What it is called.
        facts: What else is known of it: names, labels, counts.
        pictures: Its first training images as `data:` addresses, by their numbers.
    """

    title: str
    facts: list[str]
    pictures: dict[int, str]


@dataclass(frozen=True)
class Row:
    """What ablating one unit did to one query.

    Attributes:
        unit: What was ablated.
        displacement: Distance between the full and the ablated picture.
        excess: Displacement minus that of placebos; not a number if there are none.
        p_value: Corrected for the number of units.
        above: Whether the p-value is small enough to tell it from placebo, and nothing
            is against saying so.
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
class Finding:
    """What ablating the units, one by one, did to one query.

    Attributes:
        tables: Where it was read from.
        attributable: Whether any unit stands out from the placebos, as far as anything
            may be concluded from the tables.
        n_above: Units that do.
        doubts: Sentences on units that displace it more than placebos do, but beside
            which another one may be what matters.
        top: The most displacing units, with their ablated pictures.
        more: The next ones by p-value, then displacement, without pictures.
        n_left: Units that are not shown at all.
        limit: The difference that gets the strongest colour.
        landscape: Histogram of all displacements.
    """

    tables: Influence
    attributable: bool
    n_above: int
    doubts: list[str]
    top: list[Row]
    more: list[Row]
    n_left: int
    limit: float
    landscape: Markup


def saved(run: Run, name: str, membership: Membership | None = None) -> list[Influence]:
    """Everything that was ablated on a set of queries: sources first, then groups.

    Args:
        run: The run folder.
        name: The queries.
        membership: Who may vote, as the caller has read it; None: as it is now.

    Raises:
        BadInput: If a table is missing or damaged, or of other queries or members.
    """
    shown = (table_records.EXACT, table_records.DIFFERENTIAL)
    found = [
        folder
        for folder, kind in table_records.tables(run, name)
        if kind.method in shown
    ]
    known = membership or Membership.read(run.path)
    of = table_records.read_query_facts(run, name)
    for folder in found:
        table_records.require_current(folder, known, of)
    info = files.read_json(run.queries(name) / "info.json")
    tables = [_read(folder) for folder in found if _shows_pictures(folder, info)]
    return sorted(tables, key=lambda table: table.info["units"] == "groups")


def _shows_pictures(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether a folder says how far pictures move, and may be believed.

    No noise leads to held-out pictures. Version 0.1 sampled them again all the same,
    from noise that has nothing to do with them.
    """
    kept = files.read_json(folder / "info.json")["files"]
    return "displacement.npy" in kept and not asked.get("held_out")


def losses(
    run: Run, name: str, membership: Membership | None = None
) -> Float32[np.ndarray, "queries sources"] | None:
    """Influence of every source on the loss of held-out pictures, if it was measured.

    Args:
        run: The run folder.
        name: The queries.
        membership: Who may vote, as the caller has read it; None: as it is now.

    Raises:
        BadInput: If the table is damaged, or of other queries or members.
    """
    known = membership or Membership.read(run.path)
    for folder, kind in table_records.tables(run, name):
        if kind == Kind(table_records.LOSS):
            table_records.require_current(
                folder, known, table_records.read_query_facts(run, name)
            )
            file = "influence_denoising_loss.npy"
            return records.checked_array(folder, "info.json", file)
    return None


def _read(folder: Path) -> Influence:
    info = files.read_json(folder / "info.json")

    def table(name: str) -> np.ndarray:
        return records.checked_array(folder, "info.json", f"{name}.npy")

    return Influence(
        folder=folder.name,
        info=info,
        displacement=table("displacement"),
        placebo=table("placebo"),
        excess=table("excess"),
        p_values=table("p_values"),
        influences={
            measurement: table(f"influence_{text.file_name(measurement)}")
            for measurement in info["measurements"]
        },
        top_units=table("top_units"),
        top_images=table("top_images"),
    )


class Units:
    """The units of some tables, looked up when they are shown."""

    def __init__(
        self,
        run: Run,
        data: TrainingImages,
        tables: Influence,
        proof: Verification | None = None,
    ) -> None:
        self.proof = proof or verification.read(run)
        self.data = data
        self.groups = tables.info.get("group_sources")
        self.names = files.read_json(run.path / "sources.json")["names"]
        source_of = files.read_array(run.source_of)
        self.order = np.argsort(source_of, kind="stable")
        self.sorted = source_of[self.order]
        if self.groups is not None:
            self.names = tables.info["unit_names"]

    def images(self, number: int) -> Int64[np.ndarray, " images"]:
        """The training images of a unit, ascending."""
        sources = [number] if self.groups is None else self.groups[number]
        begins = np.searchsorted(self.sorted, sources)
        ends = np.searchsorted(self.sorted, sources, side="right")
        spans = map(slice, begins, ends)
        return np.sort(np.concatenate([self.order[span] for span in spans]))

    def unit(self, number: int, n_pictures: int) -> Unit:
        """A unit with its first pictures."""
        images = self.images(number)
        title, name = f"source {number}", self.names[number]
        facts = []
        if self.groups is not None:
            title = name
            facts.append(counted(len(self.groups[number]), "source"))
        elif name == str(number):  # the source is an image, and images have names
            facts.append(self.data.names[images[0]])
        else:
            facts.append(name)
        facts += [label for label in self._labels(images) if label != title]
        if len(images) > 1:
            facts.append(counted(len(images), "image"))
        facts += self._inexact(number)
        pictures = {
            int(image): figures.picture(self.data.images[image])
            for image in images[:n_pictures]
        }
        return Unit(title, facts, pictures)

    def _inexact(self, number: int) -> list[str]:
        """Whether the certificate excepts this unit."""
        removed = [number] if self.groups is None else self.groups[number]
        against = self.proof.against(removed)
        if any(reason.holds is False for reason in against):
            return ["not exact: see the certificate"]
        return ["perhaps not exact: see the certificate"] if against else []

    def _labels(self, images: Int64[np.ndarray, " images"]) -> list[str]:
        if self.data.labels is None:
            return []
        labels = np.unique(self.data.labels[images])
        if len(labels) > 1:
            return [counted(len(labels), "label")]
        return [f"label {self.data.label_names[labels[0]]}"]


def find(
    tables: Influence,
    units: Units,
    query: int,
    image: Float32[np.ndarray, "channels height width"],
) -> Finding:
    """What the tables say about one query, whose full picture is given."""
    top = tables.top_units[query]
    differences = image - tables.top_images[query]
    limit = float(np.abs(differences.mean(axis=1)).max()) or 1.0
    order = np.lexsort((-tables.displacement[query], tables.p_values[query]))
    rest = order[~np.isin(order, top)]
    above = _above(tables, query)
    return Finding(
        tables=tables,
        attributable=not tables.objection
        and query not in tables.info["unattributable"],
        n_above=int(above.sum()),
        doubts=[
            doubt["sentence"]
            for doubt in tables.info.get("doubts", [])
            if doubt["query"] == query and not tables.objection
        ],
        top=[
            _row(
                tables,
                query,
                int(unit),
                units.unit(int(unit), N_THUMBNAILS),
                figures.picture(ablated),
                figures.difference_picture(difference, limit),
            )
            for unit, ablated, difference in zip(
                top, tables.top_images[query], differences, strict=True
            )
        ],
        more=[
            _row(tables, query, int(unit), units.unit(int(unit), 0))
            for unit in rest[:N_MORE]
        ],
        n_left=max(0, len(rest) - N_MORE),
        limit=limit,
        landscape=figures.histogram(
            tables.displacement[query],
            tables.placebo[query],
            above,
            tables.noun,
            f"Displacements of query {query}. {tables.title}",
        ),
    )


def _above(tables: Influence, query: int) -> Bool[np.ndarray, " units"]:
    """Which units may be said to stand out from placebo."""
    if tables.objection:
        return np.zeros(tables.p_values.shape[1], dtype=bool)
    return tables.p_values[query] <= tables.info["threshold"]


def _row(
    tables: Influence,
    query: int,
    number: int,
    unit: Unit,
    ablated: str = "",
    difference: str = "",
) -> Row:
    return Row(
        unit=unit,
        displacement=float(tables.displacement[query, number]),
        excess=float(tables.excess[query, number]),
        p_value=float(tables.p_values[query, number]),
        above=bool(_above(tables, query)[number]),
        influences=[
            float(table[query, number]) for table in tables.influences.values()
        ],
        ablated=ablated,
        difference=difference,
    )
