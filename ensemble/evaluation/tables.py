"""Tables: what an evaluation found, as JSON and as CSV.

The identity of an evaluation is its options and the digests of everything that it read.
A table with the same identity is not made again.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensemble.run import files, query_names, table_records
from ensemble.run.folder import Run
from ensemble.system import environment

Row = dict[str, Any]


def file(run: Run, what: str, name: str) -> Path:
    """Where the evaluation is kept; a CSV and the plots lie beside it.

    What is evaluated has no hyphen in its name, so that none is mistaken for another.
    """
    return run.evaluation / f"{what}-{query_names.checked(name)}.json"


def is_current(path: Path, identity: dict[str, Any]) -> bool:
    """Whether this evaluation has been made already, of the same things.

    What version 0.1 did not write down is taken to be the same.
    """
    if not path.exists():
        return False
    return (
        table_records.first_difference(files.read_json(path)["identity"], identity)
        is None
    )


def require_same(path: Path, kept: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a file that was made of something else.

    Raises:
        BadInput: If a fact on record is not the one that is wanted.
    """
    table_records.require_same(path, kept, wanted, "Delete it, or ask for the same.")


def write(
    path: Path, identity: dict[str, Any], rows: Sequence[Row], facts: dict[str, Any]
) -> None:
    """Write an evaluation.

    Args:
        path: Where, as `file` says.
        identity: What was looked at, and how.
        rows: One for each line of the table.
        facts: Everything else that was found.
    """
    files.write_text(path.with_suffix(".csv"), as_csv(rows))
    content = {"identity": identity, **facts, "rows": list(rows)}
    files.write_json(
        path, {**content, "made": environment.now(), "commit": environment.commit()}
    )


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as text; an interval takes three columns: NAME, NAME_low and NAME_high."""
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def as_text(rows: Sequence[Row]) -> str:
    """Rows for people, in columns; an interval is written as VALUE [LOW, HIGH]."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns] + [
        [_shown(row.get(column)) for column in columns] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        ends = f"[{_shown(value['low'])}, {_shown(value['high'])}]"
        return f"{_shown(value['value'])} {ends}"
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _flat(row: Row) -> Row:
    flat: Row = {}
    for column, value in row.items():
        if isinstance(value, dict):
            flat[column] = value["value"]
            flat |= {f"{column}_{end}": value[end] for end in ("low", "high")}
        else:
            flat[column] = value
    return flat
