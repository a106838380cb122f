"""A folder of images: which files belong to it, and what is known about them.

What is known comes from `metadata.csv` in the folder, a table with a column
`file_name`, or else from the first-level subfolders, whose names are labels.

Before: config.py (where the folder is), pixels.py. After: data.py.
"""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from ensemble import pixels
from ensemble.config import DataConfig
from ensemble.on_disk import ImagesOnDisk
from splits.errors import BadInput

METADATA = "metadata.csv"


def read(
    config: DataConfig,
) -> tuple[
    Float32[np.ndarray, "images channels height width"] | ImagesOnDisk,
    dict[str, tuple[str, ...]],
    tuple[str, ...],
]:
    """Images, columns and names of a folder, in order of the files' relative paths.

    Raises:
        BadInput: If there is no image, a file cannot be read, images differ in size or
            channels, or the metadata do not fit the files.
    """
    folder = Path(str(config.path))
    names = _files(folder)
    if (folder / METADATA).exists():
        columns = _table(folder / METADATA, names)
    else:
        columns = {"file_name": names, **_subfolders(folder, names)}
    names = names[: config.n_images]
    columns = {column: texts[: config.n_images] for column, texts in columns.items()}
    if config.stream:
        images = ImagesOnDisk(names, lambda n: _decoded(folder, names[n], config))
        return images, columns, names
    decoded = (_decoded(folder, name, config) for name in names)
    return pixels.stack(decoded, names), columns, names


def _files(folder: Path) -> tuple[str, ...]:
    """Relative paths of all images that are not hidden, sorted."""
    if not folder.is_dir():
        raise BadInput(f"data.path {folder} is not a folder. Name a folder of images.")
    paths = [
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in pixels.FORMATS and path.is_file()
    ]
    names = [
        path.as_posix()
        for path in paths
        if not any(part.startswith(".") for part in path.parts)
    ]
    if not names:
        raise BadInput(
            f"{folder} holds no image. Put PNG, JPEG or WebP files there, or change "
            "data.path."
        )
    return tuple(sorted(names))


def _decoded(
    folder: Path, name: str, config: DataConfig
) -> Float32[np.ndarray, "channels height width"]:
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"Cannot read {path}: {error.strerror}. Permit access, or move it away."
        ) from None
    return pixels.decode(content, str(path), config)


def _subfolders(folder: Path, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The column `label`, if images lie in subfolders."""
    loose = [name for name in names if "/" not in name]
    if len(loose) == len(names):
        return {}
    if loose:
        raise BadInput(
            f"{folder / loose[0]} lies beside subfolders with images, which are its "
            f"labels. Move it into one of them, or list all images in {METADATA}."
        )
    return {"label": tuple(name.partition("/")[0] for name in names)}


def _table(path: Path, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The columns of the metadata, rows in the order of `names`."""
    header, rows = _rows(path)
    place = header.index("file_name")
    listed = Counter(row[place] for row in rows)
    twice = [name for name, count in listed.items() if count > 1]
    if twice:
        raise BadInput(f"{path} lists {twice[0]!r} twice. Keep one row for each image.")
    absent = sorted(listed.keys() - set(names))
    if absent:
        raise BadInput(
            f"{path} lists {absent[0]!r}, which is not an image in the folder "
            f"({len(absent)} such rows). Write paths relative to the folder, with "
            "forward slashes, or remove the rows."
        )
    unlisted = sorted(set(names) - listed.keys())
    if unlisted:
        raise BadInput(
            f"{path} does not list {unlisted[0]!r}, which is in the folder "
            f"({len(unlisted)} such images). Add a row for each, or move them away."
        )
    ordered = sorted(rows, key=lambda row: row[place])
    return {
        column: tuple(row[index] for row in ordered)
        for index, column in enumerate(header)
    }


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table, all rows as long as the header."""
    try:
        # Spreadsheets write a byte order mark, which utf-8-sig takes off.
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(
            f"{path} cannot be read as a table ({error}). Save it as CSV in UTF-8, with "
            "a header."
        ) from None
    if "file_name" not in header or len(set(header)) < len(header):
        raise BadInput(
            f"{path} has the columns {', '.join(header)}; a column file_name is needed, "
            "and each name once. Mend the header."
        )
    rows = [row for row in rows if row]
    for row in rows:
        if len(row) != len(header):
            raise BadInput(
                f"{path} has a row of {len(row)} fields under a header of "
                f"{len(header)}: {','.join(row)!r}. Fill it, or quote its commas."
            )
    return header, rows
