"""Records of ablation tables: where a table is stored, and what it was made from.

The tables that ablation measured on queries lie in `influence/NAME`, one folder for
each table, and `Kind.folder_name` names the folder. The record of a table names the
queries, the members' codes and weights, what was removed, and every option, so that
comparing two records shows whether a table belongs to something else.

Version 0.1 kept tables beside each other in `influence/` under the names NAME,
NAME-differential, NAME-1a2b3c4d, so that two sets of queries could share a folder, and
its records do not name the queries and weights. Such tables are still found, by the
recorded method, units and number of members, but no new ones are written there.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.run import query_names, records
from ensemble.run.files import array_digest, read_json
from ensemble.run.folder import Run
from ensemble.run.voters import Membership
from splits.errors import BadInput

# LOSS evaluates the denoiser's loss at given images, without sampling.
EXACT, DIFFERENTIAL, ADJOINT, LOSS = "exact", "differential", "adjoint", "loss"
RECORD = "info.json"
# Relative tolerance between a displacement and that of the stored pictures: both were
# rounded, and an accelerator adds in another order.
TOLERANCE = 1e-2
# How messages name facts whose own name does not explain them.
FACT_NAMES = {
    "queries_digest": "queries_digest (the pictures of the queries)",
    "seeds_digest": "seeds_digest (seeds and conditions of the queries)",
    "units_digest": "units_digest (what is removed at once)",
}


@dataclass(frozen=True)
class Kind:
    """The kind of a table; a set of queries has at most one table of each kind.

    Attributes:
        method: `exact`, `differential`, `adjoint` or `loss`.
        groups: Digits of the digest of the groups; empty: every source by itself.
        reading: The file name of the measurement, if the table has only one.
        n_first: If the ensemble was cut to its first members: their number; else None.
    """

    method: str
    groups: str = ""
    reading: str = ""
    n_first: int | None = None

    @property
    def folder_name(self) -> str:
        """The name of the table's folder in `influence/NAME`.

        Examples:
            >>> Kind("exact", n_first=8).folder_name
            'exact-first-8'
        """
        return self.method + self._suffix

    def old_folder_name(self, name: str) -> str:
        """The name of the table's folder in `influence`, as version 0.1 wrote it."""
        plain = self.method in (EXACT, LOSS)
        return name + ("" if plain else f"-{self.method}") + self._suffix

    @property
    def _suffix(self) -> str:
        first = "" if self.n_first is None else f"-first-{self.n_first}"
        groups = f"-{self.groups}" if self.groups else ""
        return first + groups + (f".{self.reading}" if self.reading else "")


_FOLDER_NAME = re.compile(
    r"(?P<method>exact|differential|adjoint|loss)(?:-first-(?P<n_first>\d+))?"
    r"(?:-(?P<groups>[0-9a-f]{8,16}))?(?:\.(?P<reading>.+))?"
)


def folder_of(run: Run, name: str, kind: Kind) -> Path:
    """The folder of a table on the queries with this name."""
    return run.influence(name) / kind.folder_name


def old_folder_of(run: Run, name: str, kind: Kind) -> Path | None:
    """The folder in which version 0.1 stored a table; None if there is none.

    Args:
        run: The run folder.
        name: The name of the queries.
        kind: The kind of table, with its `groups` as version 0.1 wrote them.
    """
    path = run.influence(name).with_name(kind.old_folder_name(name))
    return path if _old_kind(run, path, name) == kind else None


def tables(run: Run, name: str) -> Iterator[tuple[Path, Kind]]:
    """All tables on the queries with this name.

    Tables of version 0.1 are left out if there is a newer one of the same content.

    Raises:
        BadInput: If the record of one is missing or damaged.
    """
    found: dict[str, tuple[Path, Kind]] = {}
    folder = run.influence(name)
    for path in sorted(folder.glob("[!.]*")):
        kind = _kind_of_folder(path.name)
        if kind is not None and path.is_dir():
            found[_content_key(path, kind)] = path, kind
    for path in sorted(folder.parent.glob("[!.]*")):
        kind = _old_kind(run, path, name) if path.name.startswith(name) else None
        if kind is not None:
            found.setdefault(_content_key(path, kind), (path, kind))
    yield from found.values()


def _kind_of_folder(called: str) -> Kind | None:
    """The kind of table that a folder's name stands for; None if it names no table."""
    parts = _FOLDER_NAME.fullmatch(called)
    if parts is None or called.endswith(query_names.ENDINGS):
        return None
    given = {key: value for key, value in parts.groupdict().items() if value}
    if (given["method"] == ADJOINT) != ("reading" in given):
        return None
    n_first = given.pop("n_first", None)
    return Kind(**given, n_first=None if n_first is None else int(n_first))


def _old_kind(run: Run, path: Path, name: str) -> Kind | None:
    """The kind of table in a folder of version 0.1; None if it is of other queries.

    The name alone is not enough: NAME-differential can also be the exact table of
    queries that are called `NAME-differential`.
    """
    suffix = path.name.removeprefix(name)
    kind = _kind_of_folder(EXACT + suffix) or _kind_of_folder(suffix[1:])
    if kind is None or not any(path.glob("*.npy")):
        return None
    info = read_json(path / RECORD)
    if kind.method == EXACT and "displacement.npy" not in info["files"]:
        kind = replace(kind, method=LOSS)
    n_members = info.get("n_members")
    everybody = read_json(run.manifest)["n_members"]
    # Queries may be called NAME-first-16 too; then all members stand in the record.
    of_first = path.name.endswith(f"-first-{n_members}") and n_members != everybody
    agrees = (
        info["method"] == (EXACT if kind.method == LOSS else kind.method)
        and (kind.groups != "") == (info.get("units") == "groups")
        and kind.n_first == (n_members if of_first else None)
    )
    return kind if agrees else None


def _content_key(path: Path, kind: Kind) -> str:
    """A key that is equal for two tables with the same method, members and groups."""
    units: Any = None
    if kind.groups:
        info = read_json(path / RECORD)
        units = [info.get("unit_names"), info.get("group_sources")]
    return json.dumps([kind.method, kind.n_first, kind.reading, units])


def read_query_facts(run: Run, name: str) -> dict[str, Any]:
    """The facts that identify a set of queries, read from its folder.

    Raises:
        BadInput: If a file is missing or damaged.
    """
    folder = run.queries(name)
    files = read_json(folder / RECORD)["files"]

    def table(file: str) -> np.ndarray:
        return records.checked_array(folder, RECORD, file)

    conditions = table("conditions.npy") if "conditions.npy" in files else None
    return query_facts(table("images.npy"), table("seeds.npy"), conditions)


def query_facts(
    images: np.ndarray, seeds: np.ndarray, conditions: np.ndarray | None
) -> dict[str, Any]:
    """The facts that identify a set of queries, for the record of a table."""
    given = seeds if conditions is None else np.stack([seeds, conditions])
    return {
        "query_seeds": seeds.tolist(),
        "seeds_digest": array_digest(given.astype(np.int64)),
        "queries_digest": array_digest(images),
    }


def results_on(run: Run, name: str) -> list[Path]:
    """Folders with tables or scores of the queries with this name."""
    found = [path for path, _ in tables(run, name)]
    folders = {
        run.influence(name) if run.influence(name) in p.parents else p for p in found
    }
    scores = run.scores(name)
    return sorted(folders) + ([scores] if scores.exists() else [])


def first_difference(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The name of the first fact in which a record differs from the wanted facts.

    Facts that the record lacks do not count.

    Examples:
        >>> first_difference({"seed": 0, "steps": 5}, {"seed": 0, "steps": 6})
        'steps'
    """
    for fact, value in wanted.items():
        if fact in kept and kept[fact] != value:
            return fact
    return None


def require_same(
    path: Path, kept: Mapping[str, Any], wanted: Mapping[str, Any], remedy: str
) -> None:
    """Refuse a result whose record differs from the wanted facts.

    Args:
        path: The result.
        kept: Its record.
        wanted: The facts that it must have been made with.
        remedy: The advice at the end of the message.

    Raises:
        BadInput: If a fact differs; the message has both values.
    """
    fact = first_difference(kept, wanted)
    if fact is not None:
        raise BadInput(
            f"{path} was made with another {FACT_NAMES.get(fact, fact)}: {kept[fact]}, asked "
            f"for {wanted[fact]}. {remedy}"
        )


def require_current(
    folder: Path, known: Membership, queries: Mapping[str, Any]
) -> None:
    """Refuse a table that other members made, or that was measured on other queries.

    Args:
        folder: The folder of the table.
        known: The members that may vote.
        queries: The facts of the queries that have this name now.

    Raises:
        BadInput: If members or queries differ, or the record is missing or damaged.
    """
    info = read_json(folder / RECORD)
    known.require_made(folder, info)
    remedy = f"Delete {folder}, and ablate again."
    require_same(folder, info, queries, remedy)


def matches_images(folder: Path, images: np.ndarray, exact: bool) -> bool:
    """Whether a table of version 0.1 fits these query pictures.

    Records of version 0.1 do not name the queries. But a table keeps the ablated
    pictures of the units with the largest displacement, and an exact table must have
    these displacements.

    Args:
        folder: The folder of the table.
        images: The query pictures.
        exact: Whether the table's displacements were measured exactly.
    """
    top, ablated, displacement = (
        records.checked_array(folder, RECORD, f"{name}.npy")
        for name in ("top_units", "top_images", "displacement")
    )
    if len(top) != len(images) or ablated.shape[2:] != images.shape[1:]:
        return False
    apart = np.square(ablated - images[:, None], dtype=np.float64)
    found = np.sqrt(apart.mean(axis=(2, 3, 4)))
    kept = np.take_along_axis(displacement, top, axis=1)
    return not exact or bool(np.allclose(found, kept, rtol=TOLERANCE, atol=1e-4))
