"""Files of a run: atomic writing, checked reading, and digests."""

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

# Exceptions of Python if bytes are no JSON object, the object has no digest, or it is
# nested too deeply.
_RECORD_ERRORS = (
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    RecursionError,
)
# Exceptions of numpy if bytes are no array. Numpy parses the header as Python source, so
# a damaged one can raise many exceptions, or ask for more memory than there is.
ARRAY_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)
# The file that belongs to each digest in the manifest.
FILE_OF = {
    "config_digest": "config.yaml",
    "code_book_digest": "codes.npy",
    "source_of_digest": "source_of.npy",
}


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    File names in the text need not be valid Unicode: invalid characters are escaped, and
    a JSON reader restores them.
    """
    _write(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically, with a digest: the sha256 of its text without it.

    Examples:
        >>> write_json(Path("facts.json"), {"seed": 0})
        >>> read_json(Path("facts.json"))
        {'seed': 0}
    """
    placed = {**content, "place": _path_in_run(path)}
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
        raise missing_error(path) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except MemoryError:
        raise too_large(path) from None
    except _RECORD_ERRORS as error:
        raise BadInput(
            f"{path} cannot be read as JSON with a digest ({error}). It is damaged: "
            "delete it, and run the stage that wrote it again."
        ) from None
    if found != expected:
        raise damaged_error(path, expected, found)
    # Files of older runs do not record their place.
    place = content.pop("place", path.name)
    if not f"/{_final_path(path.absolute())}".endswith(f"/{place}"):
        raise BadInput(
            f"{path} was written as {place}: files have changed places. Put each back, "
            "or delete it and run the stage that wrote it again."
        )
    return content


def write_array(path: Path, array: np.ndarray) -> str:
    """Write a .npy file atomically and return its sha256.

    Examples:
        >>> digest = write_array(Path("codes.npy"), np.arange(3))
        >>> read_array(Path("codes.npy"), digest).tolist()
        [0, 1, 2]
    """
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return sha256(path)


def create_array(
    path: Path, shape: tuple[int, ...], dtype: np.typing.DTypeLike, value: float = 0.0
) -> None:
    """Write a .npy file with one value everywhere, to be filled as a memory map.

    The file's space is allocated now, because a memory map that runs out of disk space
    kills the process.
    """
    head = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": shape,
    }
    n_all, block = math.prod(shape), np.full(2**15, value, dtype)
    with atomic_file(path) as partial, partial.open("wb") as file:
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
        raise missing_error(path)
    if expected is not None:
        check_file(path, expected)
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except ARRAY_ERRORS as error:
        # An OSError that numpy raises about the content has no system error number.
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from None
        if isinstance(error, MemoryError) and _has_announced_length(path):
            raise too_large(path) from None
        raise BadInput(
            f"{path} is not a readable array ({error}). Delete it, and run the stage "
            "that wrote it again."
        ) from None


def _has_announced_length(path: Path) -> bool:
    """Whether a .npy file is as long as its header says."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except ARRAY_ERRORS:
        return False
    return True


@contextlib.contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """A temporary folder that gets its final name if the block ends without an error."""
    partial = final.with_name(final.name + ".part")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    commit_folder(partial, final)


def commit_folder(partial: Path, final: Path) -> None:
    """Rename a finished folder to its final name, and replace what had that name."""
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
    # This also removes the leftover of a process that was killed between two renames.
    shutil.rmtree(outdated, ignore_errors=True)


def remove_hidden_files(folder: Path) -> None:
    """Delete hidden files, such as checkpoints, from a finished folder."""
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
        raise missing_error(path) from None
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
    """The `array_digest` of an array that is given in consecutive parts."""
    little = dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{little.str} {shape} ".encode())
    for part in parts:
        content = part.astype(little, order="C", copy=False)
        # The bytes are not copied: a copy of all training images would be large.
        digest.update(content.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def check_file(path: Path, expected: str, record: Path | None = None) -> None:
    """Compare a file with the sha256 on record.

    Args:
        path: The file.
        expected: The sha256.
        record: Where that was read, for the message.

    Raises:
        BadInput: If it is missing, or its bytes are not those that were written.
    """
    if not path.exists():
        raise missing_error(path)
    found = sha256(path)
    if found != expected:
        raise damaged_error(path, expected, found, record)


def changed_error(folder: Path, name: str, wanted: Any, found: Any) -> BadInput:
    """The error for a fact that differs from the manifest of a run folder."""
    return BadInput(
        f"{name} of {folder / FILE_OF.get(name, '')} has changed: the run was made with "
        f"{wanted}, now there is {found}; so says {folder / 'manifest.json'}. Restore "
        "what was there, or start another run."
    )


def missing_error(path: Path) -> BadInput:
    """The error for a missing file."""
    return BadInput(
        f"{path} is missing. Run the stage that writes it again, or restore it."
    )


def damaged_error(
    path: Path, expected: str, found: str, record: Path | None = None
) -> BadInput:
    """The error for a file whose sha256 is not the recorded one."""
    source = f" by {record}" if record else ""
    return BadInput(
        f"{path} is damaged: expected sha256 {expected}{source}, found {found}. "
        f"{_remedy(record)}"
    )


def _remedy(record: Path | None) -> str:
    """The remedy for a damaged file: a folder with a done mark is replaced as a whole."""
    if record is None or record.name not in ("info.json", "member.json"):
        return (
            "Delete it and run the stage that wrote it again, or restore it from a "
            "copy."
        )
    return (
        f"Delete the folder {record.parent} and run the stage that wrote it again, or "
        "restore the file from a copy."
    )


def _path_in_run(path: Path) -> str:
    """A file's path inside its run folder (the one with a config), or just its name."""
    for parent in path.parents:
        if (parent / "config.yaml").exists():
            return _final_path(path.relative_to(parent))
    return path.name


def _final_path(path: Path) -> str:
    """A path as text, with the final names of temporary folders."""
    return "/".join(part.removesuffix(".part") for part in path.parts)


def _as_json(content: dict[str, Any], digest: str) -> str:
    return json.dumps({**content, "digest": digest}, indent=1) + "\n"


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which replaces it when the block ends.

    Examples:
        >>> with atomic_file(Path("note.txt")) as partial:
        ...     _ = partial.write_text("done")
        >>> Path("note.txt").read_text()
        'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in _abandoned_files(path):
        abandoned.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    flush(path.parent)


def remove_abandoned(folder: Path) -> None:
    """Delete temporary files below a folder if the processes that wrote them are gone.

    `atomic_file` deletes those of the file that it writes; this is for files that are
    not written again. Files of other machines stay, and so do files in folders without
    write permission.
    """
    for partial in folder.rglob(f".*.{glob.escape(platform.node())}.*.part"):
        with contextlib.suppress(OSError):
            if _is_abandoned(partial):
                partial.unlink()


def _abandoned_files(path: Path) -> Iterator[Path]:
    """Temporary files of a path that killed processes of this machine left behind."""
    begin = f".{path.name}.{platform.node()}."
    found = path.parent.glob(f"{glob.escape(begin)}*.part")
    return (partial for partial in found if _is_abandoned(partial))


def _is_abandoned(partial: Path) -> bool:
    process = partial.name.removesuffix(".part").rpartition(".")[2]
    return process.isdecimal() and not _process_exists(int(process))


def _process_exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # The process belongs to another user.
        return True
    return True


def flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
