"""Sealed records: a JSON file that knows its own digest and those of its arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from ensemble.run import files


def require_recorded(folder: Path, facts: dict[str, Any]) -> None:
    """Compare facts with those in the manifest.

    Raises:
        BadInput: If one is not what the run was made with.
    """
    manifest = files.read_json(folder / "manifest.json")
    for name, found in facts.items():
        if manifest.get(name) != found:
            raise files.changed(folder, name, manifest.get(name), found)


def seal(folder: Path, name: str, facts: dict[str, Any]) -> None:
    """Write the done mark of a folder: facts, and the sha256 of every file in it."""
    digests = {
        str(path.relative_to(folder)): files.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != name and not path.name.startswith(".")
    }
    files.write_json(folder / name, {**facts, "files": digests})


def check_sealed(folder: Path, name: str) -> dict[str, Any]:
    """The done mark of a folder, once every file that it lists has been checked.

    Raises:
        BadInput: If a file or the done mark is missing or damaged.
    """
    record = files.read_json(folder / name)
    for file, expected in record["files"].items():
        files.check(folder / file, expected, folder / name)
    return record


def sealed_array(folder: Path, name: str, file: str) -> np.ndarray:
    """An array of a sealed folder, checked against the folder's done mark.

    Raises:
        BadInput: If the array or the done mark is missing or damaged.
    """
    digests = files.read_json(folder / name)["files"]
    if file not in digests:
        raise files.missing(folder / file)
    files.check(folder / file, digests[file], folder / name)
    return files.read_array(folder / file)


def records(folder: Path, kind: str) -> list[Path]:
    """The JSON files of a folder; every file of that kind has one of its own.

    Args:
        folder: Where `METHOD.json` stands beside `METHOD.npy` and `METHOD.path.npy`.
        kind: What the names of the others end with, such as `.npy`.

    Raises:
        BadInput: If a JSON file is missing.
    """
    found = sorted(folder.glob("*.json"))
    for path in sorted(folder.glob(f"*{kind}")):
        record = path.with_name(path.name.partition(".")[0] + ".json")
        if record not in found:
            raise files.missing(record)
    return found
