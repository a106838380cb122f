"""Tables that scoring and evaluation saved, as the report shows them."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ensemble.report import findings
from ensemble.run import files, records, table_records
from ensemble.run.folder import Run
from ensemble.run.voters import Membership

N_LOSSES = 5


@dataclass(frozen=True)
class Table:
    """A table of a JSON file, and the figures that belong to it."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[Any]]
    figures: list[str]


def of_losses(run: Run, name: str, known: Membership) -> list[Table]:
    """Whose removal raises the loss of given pictures most, if that was measured."""
    table = findings.losses(run, name, known)
    if table is None:
        return []
    names = files.read_json(run.path / "sources.json")["names"]
    rows = [
        [query, *(_loss(row, names, int(one)) for one in np.argsort(row)[:N_LOSSES])]
        for query, row in enumerate(table)
    ]
    columns = ["query", *(f"source {place}" for place in range(1, len(rows[0])))]
    note = (
        "For each picture, the sources whose removal raises the ensemble's denoising "
        "loss at it most, and by how much. This is exact for every source; it is not "
        "compared with placebos."
    )
    return [Table("Loss without a source", note, columns, rows, [])]


def _loss(row: Float32[np.ndarray, " sources"], names: list[str], source: int) -> str:
    name = "" if names[source] == str(source) else f" ({names[source]})"
    return f"{source}{name}: {-row[source]:+.4f}"


def read(run: Run, name: str, folder: Path, kind: str) -> list[Table]:
    """Whatever tables a folder's JSON files hold, as they are.

    Raises:
        BadInput: If one is damaged, or was made with other queries of this name.
    """
    found = records.list_records(folder, kind)
    about = table_records.read_query_facts(run, name) if found else {}
    for path in found:
        if folder == run.scores(name) or path.stem.endswith(f"-{name}"):
            kept = files.read_json(path)
            identity = kept.get("identity", kept)
            made_with = identity.get("truth", identity)
            table_records.require_same(
                path, made_with, about, "Delete it, and make it again."
            )
    return [_table(path) for path in found]


def _table(path: Path) -> Table:
    content = files.read_json(path)
    title = content.pop("title", path.stem)
    note = content.pop("note", "")
    drawings = [path.parent / file for file in content.pop("figures", [])]
    if "rows" in content:
        lines = content["rows"]
        columns = list(dict.fromkeys(column for line in lines for column in line))
        rows = [[line.get(column) for column in columns] for line in lines]
    else:
        columns, rows = ["fact", "value"], [list(fact) for fact in content.items()]
    return Table(title, note, columns, rows, [_svg_address(path) for path in drawings])


def _svg_address(path: Path) -> str:
    """An SVG file as a `data:` address; as an image it can neither run nor load."""
    text = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:image/svg+xml;base64,{text}"
