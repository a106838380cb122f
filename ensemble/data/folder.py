"""The data set `folder`: image files, and a table of metadata or subfolders of labels.

Metadata come from a table in the folder, such as `metadata.csv`, with a column
`file_name`. Without a table, the names of the first-level subfolders are labels. All
other files are counted in the inventory.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from ensemble.data import decoding, metadata
from ensemble.data.inventory import Inventory
from ensemble.data.lazy import ImagesOnDisk
from ensemble.run.config import DataConfig
from splits import spelling
from splits.errors import BadInput

# Kinds of directory entries that are no files, each with its test of `st_mode`.
_SPECIAL = {
    "a named pipe": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
}
HIDDEN = "hidden"
LINKED_FOLDER = "links to folders, which are not followed"
NO_FILE = "links that lead nowhere, pipes, sockets or devices"
DEEP_TABLE = "tables in subfolders (only data.path itself may hold one)"


@dataclass
class _FolderContents:
    """Relative paths of the images and tables in a folder."""

    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)


def read(
    config: DataConfig, inventory: Inventory | None = None
) -> tuple[
    Float32[np.ndarray, "images channels height width"] | ImagesOnDisk,
    dict[str, tuple[str, ...]],
    tuple[str, ...],
]:
    """Images, columns and names of a folder, in order of the files' relative paths.

    Args:
        config: The `data` section of a config, with the folder's path.
        inventory: Gives the reading rules, and notes the files that are not read.

    Raises:
        BadInput: If there is no image, a file cannot be read, images differ in size or
            channels, or the metadata do not fit the files.
    """
    inventory = inventory or Inventory()
    folder = Path(str(config.path))
    names, table = _files(folder, inventory)
    if table is not None:
        columns = _columns(table, names, inventory)
    else:
        columns = {"file_name": names, **_subfolders(folder, names)}
    if config.n_images is not None and config.n_images < len(names):
        left = len(names) - config.n_images
        inventory.notes.append(f"data.n_images leaves out the last {left} images.")
    names = names[: config.n_images]
    columns = {column: texts[: config.n_images] for column, texts in columns.items()}
    inventory.n_images = len(names)
    if config.stream:
        images = ImagesOnDisk(
            names, lambda n: _decode(folder, names[n], config, inventory)
        )
        return images, columns, names
    decoded = (_decode(folder, name, config, inventory) for name in names)
    return decoding.stack(decoded, names), columns, names


def _files(folder: Path, inventory: Inventory) -> tuple[tuple[str, ...], Path | None]:
    """Sorted relative paths of all images that are not hidden, and the table's path."""
    if not folder.is_dir():
        raise BadInput(f"data.path {folder} is not a folder. Name a folder of images.")
    found = _FolderContents()
    for entry, name in _walk(folder, "", inventory):
        _classify(entry, name, found, inventory)
    if not found.images:
        raise BadInput(
            f"{folder} holds no image. Put {decoding.FORMATS_TEXT} files there, or change "
            f"data.path.{_other_contents(inventory)}"
        )
    if len(found.tables) > 1:
        raise BadInput(
            f"{folder} holds {' and '.join(found.tables)}, and only one of them can "
            "say what is known of the images. Move the others away."
        )
    _note_twins(found.images, inventory)
    table = folder / found.tables[0] if found.tables else None
    return tuple(sorted(found.images)), table


def _other_contents(inventory: Inventory) -> str:
    """A sentence about the files in a folder without images."""
    found = [f"{count} {why}" for why, (count, _) in inventory.left_out.items()]
    return f" Found instead: {', '.join(found)}." if found else ""


def _walk(
    folder: Path, below: str, inventory: Inventory
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Entries below a folder in sorted order, without hidden ones.

    Links to folders are not followed.
    """
    try:
        with os.scandir(folder / below) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        raise BadInput(
            f"Cannot list {folder / below}: {error.strerror}. Permit access, or move it "
            "away."
        ) from None
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.name.startswith("."):
            inventory.leave_out(HIDDEN, name)
        elif entry.is_dir(follow_symlinks=False):
            if not below and entry.name.lower() in metadata.NAMES and inventory.strict:
                raise _not_a_file_error(folder / name, "a folder")
            yield from _walk(folder, name, inventory)
        else:
            yield entry, name


def _classify(
    entry: os.DirEntry[str], name: str, found: _FolderContents, inventory: Inventory
) -> None:
    """Add a file to the images, to the tables, or to those that are not read."""
    what = _kind(entry)
    if what == "a folder":
        inventory.leave_out(LINKED_FOLDER, name)
        return
    ending = os.path.splitext(name)[1].lower()
    is_image = ending in decoding.endings(inventory.rules)
    is_table = _is_table(name, inventory.rules)
    if what is not None:
        if inventory.strict and (is_image or is_table):
            raise _not_a_file_error(Path(entry.path), what)
        inventory.leave_out(NO_FILE, name)
    elif is_image:
        found.images.append(name)
    elif is_table:
        found.tables.append(name)
    elif os.path.basename(name).lower() in metadata.NAMES and "/" in name:
        inventory.leave_out(DEEP_TABLE, name)
    else:
        inventory.leave_out(f"of format {ending}" if ending else "without ending", name)


def _is_table(name: str, rules: int) -> bool:
    if Inventory(rules).strict:
        return name.lower() in metadata.NAMES
    return name == metadata.NAMES[0]


def _kind(entry: os.DirEntry[str]) -> str | None:
    """What a directory entry is, with links followed; None for a regular file."""
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        what = "a link that leads nowhere" if entry.is_symlink() else "out of reach"
        return f"{what} ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "a folder"
    return next((what for what, told in _SPECIAL.items() if told(mode)), None)


def _not_a_file_error(path: Path, what: str) -> BadInput:
    return BadInput(
        f"{path} is {what}, where a file is wanted. Put the file itself there, or move "
        "it away."
    )


def _note_twins(names: list[str], inventory: Inventory) -> None:
    twins = spelling.same(names)
    if twins:
        one, other = twins[0]
        inventory.notes.append(
            f"{one!a} and {other!a} look like one name and are two images "
            f"({len(twins)} such pairs)."
        )


def _decode(
    folder: Path, name: str, config: DataConfig, inventory: Inventory
) -> Float32[np.ndarray, "channels height width"]:
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"Cannot read {path}: {error.strerror}. Permit access, or move it away."
        ) from None
    return decoding.decode(content, str(path), config, inventory)


def _subfolders(folder: Path, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The column `label`, if images lie in subfolders; else no column."""
    loose = [name for name in names if "/" not in name]
    if len(loose) == len(names):
        return {}
    if loose:
        raise BadInput(
            f"{folder / loose[0]} lies beside subfolders with images, which are its "
            f"labels. Move it into one of them, or list all images in "
            f"{metadata.NAMES[0]}."
        )
    return {"label": tuple(name.partition("/")[0] for name in names)}


def _columns(
    path: Path, names: tuple[str, ...], inventory: Inventory
) -> dict[str, tuple[str, ...]]:
    """The columns of the metadata, with entries in the order of `names`."""
    header, rows = metadata.read(path)
    place = header.index("file_name")
    _adopt_file_names(path, rows, place, names, inventory)
    listed = Counter(row[place] for row in rows)
    twice = [name for name, count in listed.items() if count > 1]
    if twice:
        raise BadInput(f"{path} lists {twice[0]!r} twice. Keep one row for each image.")
    absent = sorted(listed.keys() - set(names))
    if absent:
        raise _absent_error(path, absent, names)
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


def _adopt_file_names(
    path: Path,
    rows: list[list[str]],
    place: int,
    names: tuple[str, ...],
    inventory: Inventory,
) -> None:
    """Replace names in the rows by the names of their files, if the spelling differs.

    A table may write a name with blanks around it, in another Unicode form (if it was
    made on another system than the files), with a leading `./`, or with backslashes.
    """
    known, listed = set(names), {row[place] for row in rows}
    called: dict[str, list[str]] = {}
    for name in known - listed:
        called.setdefault(_normalised(name), []).append(name)
    changed = []
    for row in rows:
        meant = called.get(_normalised(row[place]), [])
        if row[place] not in known and len(meant) == 1:
            changed.append((row[place], meant[0]))
            row[place] = meant[0]
    if changed:
        written, meant = changed[0]
        inventory.notes.append(
            f"{path.name} writes {written!a} for the file {meant!a} ({len(changed)} "
            "such rows)."
        )


def _normalised(name: str) -> str:
    return spelling.plain(name).replace("\\", "/").removeprefix("./")


def _absent_error(path: Path, absent: list[str], names: tuple[str, ...]) -> BadInput:
    folded = {_normalised(name).casefold(): name for name in names}
    near = folded.get(_normalised(absent[0]).casefold())
    if near is not None:
        return BadInput(
            f"{path} lists {absent[0]!r}, and the folder has {near!r}: capitals count "
            f"({len(absent)} such rows). Write it as the file is called."
        )
    return BadInput(
        f"{path} lists {absent[0]!r}, which is not an image in the folder "
        f"({len(absent)} such rows). Write paths relative to the folder, with "
        "forward slashes, or remove the rows."
    )
