"""Files of a run: written whole or not at all, read with checks, known by their digests."""

import contextlib
import glob
import hashlib
import json
import math
import os
import platform
import shutil
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.system import text
from splits.errors import BadInput
from splits.unreadable import too_large, unreadable

# What Python raises at bytes that are no JSON object, or at one without a digest, or
# nested deeper than it follows.
_NO_RECORD = (
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    RecursionError,
)
# What numpy raises at bytes that are no array. A header is Python source to it: a damaged
# one fails in any of Python's ways, or asks for more memory than there is.
NO_ARRAY = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)
# Which file a digest in the manifest is of.
FILE_OF = {
    "config_digest": "config.yaml",
    "code_book_digest": "codes.npy",
    "source_of_digest": "source_of.npy",
}


def write_text(path: Path, text: str) -> None:
    """Write a text file whole.

    Names of files need not be valid Unicode; what is not becomes an escape, which JSON
    reads back as it was.
    """
    _write(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole; its digest is the sha256 of its text without it.

    Examples:
        >>> write_json(Path("facts.json"), {"seed": 0})
        >>> read_json(Path("facts.json"))
        {'seed': 0}
    """
    placed = {**content, "place": _place(path)}
    digest = text.digest(_as_json(placed, ""))
    _write(path, _as_json(placed, digest).encode("utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that `write_json` wrote.

    Raises:
        BadInput: If it is missing or damaged, or was written elsewhere.
    """
    try:
        written = path.read_bytes().decode("utf-8")
        content = json.loads(written)
        expected = content.pop("digest")
        found = text.digest(written.replace(expected, ""))
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except MemoryError:
        raise too_large(path) from None
    except _NO_RECORD as error:
        raise BadInput(
            f"{path} cannot be read as JSON with a digest ({error}). It is damaged: "
            "delete it, and run the stage that wrote it again."
        ) from None
    if found != expected:
        raise damaged(path, expected, found)
    # Runs of before files knew their place have none.
    place = content.pop("place", path.name)
    if not f"/{_joined(path.absolute())}".endswith(f"/{place}"):
        raise BadInput(
            f"{path} was written as {place}: files have changed places. Put each back, "
            "or delete it and run the stage that wrote it again."
        )
    return content


def write_array(path: Path, array: np.ndarray) -> str:
    """Write a .npy file whole; returns its sha256.

    Examples:
        >>> digest = write_array(Path("codes.npy"), np.arange(3))
        >>> read_array(Path("codes.npy"), digest).tolist()
        [0, 1, 2]
    """
    with replacing(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return sha256(path)


def make_array(
    path: Path, shape: tuple[int, ...], dtype: np.typing.DTypeLike, value: float = 0.0
) -> None:
    """Write a .npy file with one value everywhere, to be filled as a memory map.

    Its room on the disk is taken now: a memory map that finds none kills the process.
    """
    head = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": shape,
    }
    n_all, block = math.prod(shape), np.full(2**15, value, dtype)
    with replacing(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        for first in range(0, n_all, len(block)):
            file.write(block[: n_all - first].data)
        file.flush()
        os.fsync(file.fileno())


def read_array(path: Path, expected: str | None = None) -> np.ndarray:
    """The array in a .npy file, checked against its sha256 if that is given.

    Raises:
        BadInput: If it is missing or damaged.
    """
    if not path.exists():
        raise missing(path)
    if expected is not None:
        check(path, expected)
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except NO_ARRAY as error:
        # What numpy finds wrong with the bytes has no number of the system.
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from None
        if isinstance(error, MemoryError) and _is_as_long_as_it_says(path):
            raise too_large(path) from None
        raise BadInput(
            f"{path} is not a readable array ({error}). Delete it, and run the stage "
            "that wrote it again."
        ) from None


def _is_as_long_as_it_says(path: Path) -> bool:
    """Whether a .npy file holds all the numbers that its header announces."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except NO_ARRAY:
        return False
    return True


@contextlib.contextmanager
def folder_in_the_making(final: Path) -> Iterator[Path]:
    """A folder that gets its final name when the block ends without an error."""
    partial = final.with_name(final.name + ".part")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    publish(partial, final)


def publish(partial: Path, final: Path) -> None:
    """Give a finished folder its name; what had that name is gone afterwards."""
    for path in sorted(partial.rglob("*")):
        if path.is_file():
            flush(path)
    flush(partial)
    outdated = final.with_name(final.name + ".old")
    if final.exists():
        shutil.rmtree(outdated, ignore_errors=True)
        final.rename(outdated)
    partial.rename(final)
    flush(final.parent)
    # Also what a process left that ended between the two names.
    shutil.rmtree(outdated, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Take away what whoever wrote a finished folder left: hidden files, checkpoints."""
    for path in folder.glob(".*"):
        path.unlink()


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        BadInput: If it is missing, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise unreadable(path, error) from None


def array_digest(array: np.ndarray) -> str:
    """The sha256 of an array's type, shape and content, in hexadecimal.

    Examples:
        >>> array_digest(np.zeros(2)) == array_digest(np.zeros(2)[::-1])
        True
    """
    return digest_in_parts(array.dtype, array.shape, [array])


def digest_in_parts(
    dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[np.ndarray]
) -> str:
    """The `array_digest` of an array that comes in parts, one after the other."""
    little = dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{little.str} {shape} ".encode())
    for part in parts:
        content = part.astype(little, order="C", copy=False)
        # Read where it is: a copy of all training images would be large.
        digest.update(content.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def check(path: Path, expected: str, record: Path | None = None) -> None:
    """Compare a file with the sha256 on record.

    Args:
        path: The file.
        expected: The sha256.
        record: Where that was read, for the message.

    Raises:
        BadInput: If it is missing, or its bytes are not those that were written.
    """
    if not path.exists():
        raise missing(path)
    found = sha256(path)
    if found != expected:
        raise damaged(path, expected, found, record)


def changed(folder: Path, name: str, wanted: Any, found: Any) -> BadInput:
    """The error for a fact that is not what the manifest of a run folder says."""
    return BadInput(
        f"{name} of {folder / FILE_OF.get(name, '')} has changed: the run was made with "
        f"{wanted}, now there is {found}; so says {folder / 'manifest.json'}. Restore "
        "what was there, or start another run."
    )


def missing(path: Path) -> BadInput:
    """The error for a file that is not there."""
    return BadInput(
        f"{path} is missing. Run the stage that writes it again, or restore it."
    )


def damaged(
    path: Path, expected: str, found: str, record: Path | None = None
) -> BadInput:
    """The error for a file whose bytes are not those that were written."""
    source = f" by {record}" if record else ""
    return BadInput(
        f"{path} is damaged: expected sha256 {expected}{source}, found {found}. "
        f"{_remedy(record)}"
    )


def _remedy(record: Path | None) -> str:
    """A folder with a done mark is made again as a whole, or not at all."""
    if record is None or record.name not in ("info.json", "member.json"):
        return (
            "Delete it and run the stage that wrote it again, or restore it from a "
            "copy."
        )
    return (
        f"Delete the folder {record.parent} and run the stage that wrote it again, or "
        "restore the file from a copy."
    )


def _place(path: Path) -> str:
    """Where a file stands in its run folder, known by its config; else its name."""
    for parent in path.parents:
        if (parent / "config.yaml").exists():
            return _joined(path.relative_to(parent))
    return path.name


def _joined(path: Path) -> str:
    """A path as text, by the names that folders in the making will have."""
    return "/".join(part.removesuffix(".part") for part in path.parts)


def _as_json(content: dict[str, Any], digest: str) -> str:
    return json.dumps({**content, "digest": digest}, indent=1) + "\n"


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in _abandoned(path):
        abandoned.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    flush(path.parent)


def sweep_abandoned(folder: Path) -> None:
    """Take away temporary files below a folder whose writers were killed.

    What is written again sweeps its own; this is for what nobody writes again. A folder
    that cannot be written to keeps them, and so do other machines' files.
    """
    for partial in folder.rglob(f".*.{glob.escape(platform.node())}.*.part"):
        with contextlib.suppress(OSError):
            if _is_abandoned(partial):
                partial.unlink()


def _abandoned(path: Path) -> Iterator[Path]:
    """Temporary files for a path whose writers, on this machine, were killed."""
    begin = f".{path.name}.{platform.node()}."
    found = path.parent.glob(f"{glob.escape(begin)}*.part")
    return (partial for partial in found if _is_abandoned(partial))


def _is_abandoned(partial: Path) -> bool:
    process = partial.name.removesuffix(".part").rpartition(".")[2]
    return process.isdecimal() and not _runs(int(process))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Somebody else's.
        return True
    return True


def flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
