"""A request to measure influence, and whether its tables are there already."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.ablation.measurements import Measurement
from ensemble.ablation.removal_sets import Units
from ensemble.provenance.plans import Plan
from ensemble.run import files, records, table_records
from ensemble.run.folder import Run
from ensemble.run.table_records import Kind
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.system import text
from splits.errors import BadInput


@dataclass(frozen=True, eq=False)
class Asked:
    """What is to be measured.

    Attributes:
        run: The run folder.
        pipe: The ensemble.
        plan: Sources and codes.
        name: The queries.
        units: What is removed.
        measurements: What to read off besides the displacement.
    """

    run: Run
    pipe: EnsemblePipeline
    plan: Plan
    name: str
    units: Units
    measurements: Mapping[str, Measurement]

    def kind(self, method: str, reading: str = "") -> Kind:
        """Which table it is that a method makes, of one measurement or of all."""
        groups = "" if self.units.kind == "sources" else self.units.digest()[:16]
        return Kind(method, groups, text.file_name(reading) if reading else "")

    def folder(self, method: str, reading: str = "") -> Path:
        """Where that table is kept: each method, and each set of units, its own."""
        return table_records.folder_of(self.run, self.name, self.kind(method, reading))

    def queries(self) -> Queries:
        """The queries.

        Raises:
            BadInput: If there are none, they are damaged or held out, or were made by
                other members or another sampler than the pipeline has.
        """
        # Before tables are looked for: version 0.1 ablated held-out queries from noise
        # that has nothing to do with them, and such tables may still be there.
        queries.require_sampler(self.run, self.name, self.pipe)
        found = queries.load(self.run, self.name, self.pipe.membership)
        queries.require_noise(found)
        return found

    def facts(self, asked_for: Queries) -> dict[str, Any]:
        """What goes on record of every table: whose it is, of what and of whom."""
        return {
            **asked_for.facts(),
            **queries.drawn_by(self.run, self.pipe),
            "units_digest": self.units.digest(),
        }

    @property
    def measured_by(self) -> dict[str, str]:
        """What measurements look at besides the pictures, by their names."""
        return {
            name: measurement.identity
            for name, measurement in self.measurements.items()
            if measurement.identity
        }


def stage_name(asked: Asked, folder: Path) -> str:
    """What the manifest calls the making of these tables."""
    return f"ablate {asked.name} {folder.name}"


def standing(
    asked: Asked,
    asked_for: Queries,
    method: str,
    options: Mapping[str, Any],
    reading: str = "",
) -> Path | None:
    """Where the tables have been made already; None if they must be made.

    Args:
        asked: What is asked for.
        asked_for: Its queries.
        method: By which method.
        options: The method's; None: whatever tables that are there have.
        reading: The measurement, if the table is of one only.

    Raises:
        BadInput: If they were made with something else than is asked for.
    """
    kind = asked.kind(method, reading)
    folder = table_records.folder_of(asked.run, asked.name, kind)
    remedy = f"Ask for the same, delete {folder}, or ablate queries of another --name."
    if folder.exists():
        info = records.check_done_mark(folder, "info.json")
        queries.membership_of(asked.run, asked.pipe).require_made(folder, info)
        table_records.require_same(folder, info, asked.facts(asked_for), remedy)
        table_records.require_same(
            folder, info["measured_by"], asked.measured_by, remedy
        )
        said = {name: value for name, value in options.items() if value is not None}
        table_records.require_same(
            folder, info["options"] if said else {}, said, remedy
        )
        missing = [one for one in asked.measurements if one not in info["measurements"]]
        if missing and not reading:
            raise BadInput(
                f"{folder} was made without {', '.join(missing)}, with "
                f"{', '.join(info['measurements'])}. {remedy}"
            )
        return folder
    return _standing_before(asked, asked_for, kind_before(asked, kind), options)


def kind_before(asked: Asked, kind: Kind) -> Kind:
    """The same table, as version 0.1 called groups: by who falls silent alone."""
    digest = files.array_digest(asked.units.silenced)[:8]
    return dataclasses.replace(kind, groups=digest if kind.groups else "")


def _standing_before(
    asked: Asked, asked_for: Queries, kind: Kind, options: Mapping[str, Any]
) -> Path | None:
    """Where version 0.1 left these tables, if its record fits what is asked for.

    What it left is never written again, so nothing is lost where it does not fit.

    Raises:
        BadInput: If it is damaged, or from before a removal.
    """
    folder = table_records.old_folder_of(asked.run, asked.name, kind)
    if folder is None:
        return None
    info = records.check_done_mark(folder, "info.json")
    queries.membership_of(asked.run, asked.pipe).require_made(folder, info)
    known = {"placebos": info.get("n_placebos")}
    groups = (asked.units.names, asked.units.sources)
    fits = [
        all(value in (None, known.get(name)) for name, value in options.items()),
        kind.reading or set(asked.measurements) <= set(info["measurements"]),
        not kind.groups or (info["unit_names"], info["group_sources"]) == groups,
        kind.method == table_records.ADJOINT
        or table_records.matches_images(
            folder, asked_for.images, kind.method == table_records.EXACT
        ),
    ]
    if not all(fits):
        print(f"{folder} is of version 0.1, and of something else: made anew.")
        return None
    print(
        f"{folder} is of version 0.1: which queries and weights made it was not recorded."
    )
    return folder
