"""Done marks: a JSON file with facts about a folder and the sha256 of all its files."""

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
            raise files.changed_error(folder, name, manifest.get(name), found)


def write_done_mark(folder: Path, name: str, facts: dict[str, Any]) -> None:
    """Write the done mark of a folder.

    Args:
        folder: The folder, whose other files are complete.
        name: The file name of the done mark.
        facts: What the done mark records, beside the sha256 of every file.

    Examples:
        >>> folder = Path("result")
        >>> _ = files.write_array(folder / "score.npy", np.zeros(2))
        >>> write_done_mark(folder, "info.json", {"method": "trak"})
        >>> check_done_mark(folder, "info.json")["method"]
        'trak'
    """
    digests = {
        str(path.relative_to(folder)): files.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != name and not path.name.startswith(".")
    }
    files.write_json(folder / name, {**facts, "files": digests})


def check_done_mark(folder: Path, name: str) -> dict[str, Any]:
    """Check every file that a folder's done mark lists, and return the done mark.

    Raises:
        BadInput: If a file or the done mark is missing or damaged.
    """
    record = files.read_json(folder / name)
    for file, expected in record["files"].items():
        files.check_file(folder / file, expected, folder / name)
    return record


def checked_array(folder: Path, name: str, file: str) -> np.ndarray:
    """An array of a finished folder, checked against the folder's done mark.

    Raises:
        BadInput: If the array or the done mark is missing or damaged.
    """
    digests = files.read_json(folder / name)["files"]
    if file not in digests:
        raise files.missing_error(folder / file)
    files.check_file(folder / file, digests[file], folder / name)
    return files.read_array(folder / file)


def list_records(folder: Path, kind: str) -> list[Path]:
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
            raise files.missing_error(record)
    return found
