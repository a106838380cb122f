"""Provenance: where a table is kept, and what it was made with.

Whatever ablation measured on queries lies in `influence/NAME`, one folder for each
table, and `Kind.called` alone says what it is called. What is on record of a table names
the queries, the members' codes and weights, what was removed, and every option, so that
a table which belongs to something else is found by comparing two records.

Version 0.1 kept tables beside each other in `influence/`, called NAME, NAME-differential,
NAME-1a2b3c4d, so that two sets of queries could share a folder, and its records do not
say which queries and weights made them. Such tables are still found, by the method, the
units and the number of members on record, and are never written again.
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

# The last reads the denoiser's loss at given images, and samples nothing.
EXACT, DIFFERENTIAL, ADJOINT, LOSS = "exact", "differential", "adjoint", "loss"
RECORD = "info.json"
# How far a displacement may be from that of the pictures that are kept: both were
# rounded, and an accelerator adds in another order.
TOLERANCE = 1e-2
# What facts are called in messages, where their own name is not enough.
WORDS = {
    "queries_digest": "queries_digest (the pictures of the queries)",
    "seeds_digest": "seeds_digest (seeds and conditions of the queries)",
    "units_digest": "units_digest (what is removed at once)",
}


@dataclass(frozen=True)
class Kind:
    """Which of the tables on a set of queries.

    Attributes:
        method: `exact`, `differential`, `adjoint` or `loss`.
        groups: Digits of the digest of the groups; empty: every source by itself.
        reading: The file name of the measurement, if the table is of one only.
        n_first: The first so many members, as if there were no others; None: all.
    """

    method: str
    groups: str = ""
    reading: str = ""
    n_first: int | None = None

    @property
    def called(self) -> str:
        """What the folder is called, in `influence/NAME`."""
        return self.method + self._suffix

    def called_before(self, name: str) -> str:
        """What version 0.1 called it, in `influence`."""
        plain = self.method in (EXACT, LOSS)
        return name + ("" if plain else f"-{self.method}") + self._suffix

    @property
    def _suffix(self) -> str:
        first = "" if self.n_first is None else f"-first-{self.n_first}"
        groups = f"-{self.groups}" if self.groups else ""
        return first + groups + (f".{self.reading}" if self.reading else "")


_CALLED = re.compile(
    r"(?P<method>exact|differential|adjoint|loss)(?:-first-(?P<n_first>\d+))?"
    r"(?:-(?P<groups>[0-9a-f]{8,16}))?(?:\.(?P<reading>.+))?"
)


def folder_of(run: Run, name: str, kind: Kind) -> Path:
    """Where a table on queries of that name is written."""
    return run.influence(name) / kind.called


def before(run: Run, name: str, kind: Kind) -> Path | None:
    """Where version 0.1 left a table; None if it left none of that kind.

    Args:
        run: The run folder.
        name: The queries.
        kind: The table; its `groups` as version 0.1 wrote them.
    """
    path = run.influence(name).with_name(kind.called_before(name))
    return path if _kind_before(run, path, name) == kind else None


def tables(run: Run, name: str) -> Iterator[tuple[Path, Kind]]:
    """All tables on queries of that name; of version 0.1 those without a successor.

    Raises:
        BadInput: If the record of one is missing or damaged.
    """
    found: dict[str, tuple[Path, Kind]] = {}
    folder = run.influence(name)
    for path in sorted(folder.glob("[!.]*")):
        kind = _kind_called(path.name)
        if kind is not None and path.is_dir():
            found[_what(path, kind)] = path, kind
    for path in sorted(folder.parent.glob("[!.]*")):
        kind = _kind_before(run, path, name) if path.name.startswith(name) else None
        if kind is not None:
            found.setdefault(_what(path, kind), (path, kind))
    yield from found.values()


def _kind_called(called: str) -> Kind | None:
    """The table whose folder is called so; None if that is no table's name."""
    parts = _CALLED.fullmatch(called)
    if parts is None or called.endswith(query_names.ENDINGS):
        return None
    given = {key: value for key, value in parts.groupdict().items() if value}
    if (given["method"] == ADJOINT) != ("reading" in given):
        return None
    n_first = given.pop("n_first", None)
    return Kind(**given, n_first=None if n_first is None else int(n_first))


def _kind_before(run: Run, path: Path, name: str) -> Kind | None:
    """What a folder that version 0.1 wrote holds of these queries; None if nothing.

    The name alone does not say it: NAME-differential is also where it kept the exact
    table of queries that are called so.
    """
    suffix = path.name.removeprefix(name)
    kind = _kind_called(EXACT + suffix) or _kind_called(suffix[1:])
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


def _what(path: Path, kind: Kind) -> str:
    """What a table is of, however its groups are called in the folder's name."""
    units: Any = None
    if kind.groups:
        info = read_json(path / RECORD)
        units = [info.get("unit_names"), info.get("group_sources")]
    return json.dumps([kind.method, kind.n_first, kind.reading, units])


def of_queries(run: Run, name: str) -> dict[str, Any]:
    """The facts by which a set of queries is known, read from its folder.

    Raises:
        BadInput: If a file is missing or damaged.
    """
    folder = run.queries(name)
    files = read_json(folder / RECORD)["files"]

    def table(file: str) -> np.ndarray:
        return records.sealed_array(folder, RECORD, file)

    conditions = table("conditions.npy") if "conditions.npy" in files else None
    return query_facts(table("images.npy"), table("seeds.npy"), conditions)


def query_facts(
    images: np.ndarray, seeds: np.ndarray, conditions: np.ndarray | None
) -> dict[str, Any]:
    """The facts by which a set of queries is known, for the record of a table."""
    given = seeds if conditions is None else np.stack([seeds, conditions])
    return {
        "query_seeds": seeds.tolist(),
        "seeds_digest": array_digest(given.astype(np.int64)),
        "queries_digest": array_digest(images),
    }


def made_of(run: Run, name: str) -> list[Path]:
    """Folders of what was measured on, or scored for, queries of that name."""
    found = [path for path, _ in tables(run, name)]
    folders = {
        run.influence(name) if run.influence(name) in p.parents else p for p in found
    }
    scores = run.scores(name)
    return sorted(folders) + ([scores] if scores.exists() else [])


def difference(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first fact in which a record differs; what is not on record is passed over."""
    for fact, value in wanted.items():
        if fact in kept and kept[fact] != value:
            return fact
    return None


def require_same(
    path: Path, kept: Mapping[str, Any], wanted: Mapping[str, Any], remedy: str
) -> None:
    """Refuse what was made with something else than it is wanted for.

    Args:
        path: Where it is.
        kept: What is on record of it.
        wanted: What it must have been made with.
        remedy: What can be done.

    Raises:
        BadInput: If a fact differs; both sides are named.
    """
    fact = difference(kept, wanted)
    if fact is not None:
        raise BadInput(
            f"{path} was made with another {WORDS.get(fact, fact)}: {kept[fact]}, asked "
            f"for {wanted[fact]}. {remedy}"
        )


def require_current(
    folder: Path, known: Membership, queries: Mapping[str, Any]
) -> None:
    """Refuse a table that other members made, or that is of other queries.

    Args:
        folder: The table.
        known: Who may vote.
        queries: The facts of the queries that are called so now.

    Raises:
        BadInput: If it is so, or the record is missing or damaged.
    """
    info = read_json(folder / RECORD)
    known.require_made(folder, info)
    remedy = f"Delete {folder}, and ablate again."
    require_same(folder, info, queries, remedy)


def shows(folder: Path, images: np.ndarray, exact: bool) -> bool:
    """Whether a table is of these pictures, as far as it tells.

    Records of version 0.1 do not name the queries. But a table keeps the ablated
    pictures of the units that displace most and, if it is exact, their displacement.
    """
    top, ablated, displacement = (
        records.sealed_array(folder, RECORD, f"{name}.npy")
        for name in ("top_units", "top_images", "displacement")
    )
    if len(top) != len(images) or ablated.shape[2:] != images.shape[1:]:
        return False
    apart = np.square(ablated - images[:, None], dtype=np.float64)
    found = np.sqrt(apart.mean(axis=(2, 3, 4)))
    kept = np.take_along_axis(displacement, top, axis=1)
    return not exact or bool(np.allclose(found, kept, rtol=TOLERANCE, atol=1e-4))
