"""Tables of metadata beside images: CSV, TSV, JSON lines and Parquet, read as text.

They have the form of the image folders of Hugging Face `datasets`: a column `file_name`
with paths relative to the folder, and any other columns.
"""

import csv
import importlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from splits import spelling
from splits.errors import BadInput

# The names that a table may have, in the order in which messages list them.
NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
Table = tuple[list[str], list[list[str]]]


def read(path: Path) -> Table:
    """Header and rows of a table, all rows as long as the header.

    Raises:
        BadInput: If it cannot be read, has no column `file_name` or one column twice,
            or a row has other columns than the first.
    """
    header, rows = _READERS[path.suffix.lower()](path)
    _require_header(path, header)
    # Spreadsheets leave empty rows behind, which describe no image.
    rows = [row for row in rows if any(field.strip() for field in row)]
    for row in rows:
        if len(row) != len(header):
            raise BadInput(
                f"{path} has a row of {len(row)} fields under a header of "
                f"{len(header)}: {','.join(row)!r}. Fill it, or quote its commas."
            )
    return header, rows


def text(value: Any) -> str:
    """A value as text: empty for None, unchanged for text, else JSON.

    Examples:
        >>> text(None), text("Eve"), text([1, 2])
        ('', 'Eve', '[1, 2]')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, default=str)


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON text, in which no object may have a name twice.

    Raises:
        ValueError: If the text is no JSON, or an object has a name twice.

    Examples:
        >>> parse_json('{"artist": "Eve"}')
        {'artist': 'Eve'}
    """
    return json.loads(content, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


def _require_header(path: Path, header: list[str]) -> None:
    shown = ", ".join(map(repr, header))
    if "file_name" not in header or len(set(header)) < len(header):
        raise BadInput(
            f"{path} has the columns {shown}; a column file_name is needed, and each "
            "name once. Mend the header; CSV has commas between columns, TSV has tabs."
        )
    for one, other in spelling.same(header):
        raise BadInput(
            f"{path} has the columns {one!a} and {other!a}, which are one name in two "
            "spellings. Give each column its own name."
        )


def _read_delimited(path: Path) -> Table:
    tabs = path.suffix.lower() == ".tsv"
    try:
        # Spreadsheets write a byte order mark, which utf-8-sig takes off.
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(
                file, strict=True, delimiter="\t" if tabs else ","
            )
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(
            f"{path} cannot be read as a table ({error}). Save it as "
            f"{'TSV' if tabs else 'CSV'} in UTF-8, with a header."
        ) from None
    return header, rows


def _read_json_lines(path: Path) -> Table:
    try:
        with path.open(encoding="utf-8-sig") as file:
            found = [*_objects(file)]
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} cannot be read as JSON lines ({error}). Write one object with "
            "names and values in each line, in UTF-8."
        ) from None
    header = [*found[0][1]] if found else []
    for number, row in found:
        if row.keys() != found[0][1].keys():
            odd = sorted(row.keys() ^ found[0][1].keys())[0]
            raise BadInput(
                f"Lines {found[0][0]} and {number} of {path} differ in what they say: "
                f"only one has {odd!r}. Write it in each line, or in none."
            )
    return header, [[text(row[name]) for name in header] for _, row in found]


def _objects(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"line {number}: {found!r} is no object")
        yield number, found


def _read_parquet(path: Path) -> Table:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise BadInput(
            f"{path} is a Parquet table, and the package pyarrow, which reads those, is "
            "not installed. Install it (pip install pyarrow), or save the table as "
            "metadata.csv."
        ) from None
    try:
        # Not read_table, which takes a folder, too, and columns from its path.
        table = parquet.ParquetFile(path).read()
        columns = [column.to_pylist() for column in table.columns]
    # pyarrow can raise any exception if the bytes are no Parquet table.
    except Exception as error:
        raise BadInput(
            f"{path} cannot be read as a Parquet table ({error}). Write it again, or "
            "save it as metadata.csv."
        ) from None
    rows = [[text(value) for value in row] for row in zip(*columns, strict=True)]
    return list(table.column_names), rows


_READERS = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
