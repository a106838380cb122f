"""A cache on disk: results are computed once and found by the digest of their inputs.

The name of a result is `digest_of` everything that determines it. A missing result is
computed by one process, while others wait. There are three kinds of results:

- an array, or a folder of files: written completely or not at all;
- a table: an array that is filled block by block, so that an interrupted computation
  continues where it was. Missing entries are NaN. Each row has a checksum, and a
  damaged row is computed again.

The cost of each result is stored beside it, so that later users can report it.
"""

import contextlib
import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt32

from ensemble.run import files, records
from ensemble.run.files import check_file
from ensemble.system import locks
from splits.errors import BadInput

INFO = "info.json"
Chosen = slice | Int64[np.ndarray, " chosen"]


def digest_of(facts: dict[str, Any]) -> str:
    """The first 24 hexadecimal digits of the sha256 of facts that JSON can hold.

    Examples:
        >>> digest_of({"method": "trak", "seed": 0})
        '2ccc193c9e0db87618e19e51'
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Kind:
    """A kind of table.

    Attributes:
        what: The table's content, as error messages name it.
        advice: What the user can do, beside making room, if the disk is full.
        axis: The axis of the rows.
        costs: The ending of the name of the file with the rows' costs.
        cost: Type and shape of a row's cost.
    """

    what: str
    advice: str
    axis: int
    costs: str
    cost: tuple[type[np.floating], tuple[int, ...]]


@dataclass(frozen=True)
class Cache:
    """A cache in a folder.

    Attributes:
        folder: The folder; it need not exist yet.
    """

    folder: Path

    def array(
        self, name: str, make: Callable[[], np.ndarray]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """An array, which is computed if it is not in the cache.

        Args:
            name: The digest of everything that determines it.
            make: Computes it.

        Returns:
            The array, and its cost as `seconds` if it was computed earlier. The cost is
            empty if this call computed the array.

        Raises:
            BadInput: If it cannot be read.
        """
        path = self.folder / f"{name}.npy"
        record = path.with_suffix(".json")
        cost: dict[str, Any] = {}
        with locks.exclusive(path):
            if not path.exists():
                began = time.perf_counter()
                files.write_array(path, make())
                seconds = round(time.perf_counter() - began, 6)
                files.write_json(record, {"seconds": seconds})
            elif record.exists():
                cost = files.read_json(record)
        return files.read_array(path), cost

    def files(
        self, name: str, make: Callable[[Path], dict[str, Any]]
    ) -> tuple[Path, dict[str, Any]]:
        """A folder of files, which are computed if they are not in the cache.

        Args:
            name: The digest of everything that determines them.
            make: Writes the files into a folder, and returns facts for its record.

        Returns:
            The folder; and its record, with the `seconds` that it took, if the files
            were computed earlier. The record is empty if this call computed them.

        Raises:
            BadInput: If a file is not as it was written.
        """
        folder = self.folder / name
        made_before: dict[str, Any] = {}
        with locks.exclusive(folder):
            if folder.exists():
                made_before = files.read_json(folder / INFO)
            else:
                began = time.perf_counter()
                with files.atomic_folder(folder) as partial:
                    facts = make(partial)
                    seconds = time.perf_counter() - began
                    records.write_done_mark(
                        partial, INFO, {"seconds": seconds, **facts}
                    )
        for file, expected in files.read_json(folder / INFO)["files"].items():
            check_file(folder / file, expected)
        return folder, made_before

    @contextlib.contextmanager
    def table(
        self, name: str, shape: tuple[int, ...], dtype: np.typing.DTypeLike, kind: Kind
    ) -> Iterator["Table"]:
        """A table to be filled; no other process can open it until the block ends.

        Args:
            name: The digest of everything that determines it.
            shape: Shape of the table.
            dtype: Type of its numbers.
            kind: The kind of table.

        Raises:
            BadInput: If there is no room for it.
        """
        path = self.folder / f"{name}.npy"
        n_rows = shape[kind.axis]
        cost_type, of_row = kind.cost
        with locks.exclusive(path):
            values = _open_or_create(path, shape, dtype, np.nan, kind)
            costs = path.with_suffix(f".{kind.costs}.npy")
            checksums = path.with_suffix(".sums.npy")
            yield Table(
                values,
                _open_or_create(costs, (n_rows, *of_row), cost_type, 0.0, kind),
                _open_or_create(checksums, (n_rows,), np.uint32, 0.0, kind),
                kind.axis,
            )


class Table:
    """An array on disk that is filled block by block.

    Attributes:
        values: The table as it is on the disk; missing entries are NaN.
        costs: The cost of each row; zero if none was added.
    """

    def __init__(
        self,
        values: np.memmap,
        costs: np.memmap,
        checksums: UInt32[np.memmap, " rows"],
        axis: int,
    ) -> None:
        self.values, self.costs = values, costs
        self._checksums, self._axis = checksums, axis
        self._by_row = np.moveaxis(values, axis, 0)
        for row, checksum in zip(self._by_row, checksums, strict=True):
            # Rows that are NaN already are not written again.
            if _checksum(row) != checksum and not np.isnan(row).all():
                row[...] = np.nan

    def missing(self) -> Int64[np.ndarray, " missing"]:
        """Numbers of the rows with missing entries."""
        lacking = [bool(np.isnan(row).any()) for row in self._by_row]
        return np.flatnonzero(lacking)

    def is_missing(self, rows: Chosen, columns: slice) -> bool:
        """Whether a block has missing entries."""
        return bool(np.isnan(self._by_row[rows, ..., columns]).any())

    def put(
        self,
        rows: Chosen,
        values: np.ndarray,
        columns: slice = slice(None),
    ) -> None:
        """Write a block, whose axes are those of the table."""
        self._by_row[rows, ..., columns] = np.moveaxis(values, self._axis, 0)
        self._checksums[rows] = [_checksum(row) for row in self._by_row[rows]]

    def count(
        self, rows: Chosen | int, cost: float | Float64[np.ndarray, " costs"]
    ) -> None:
        """Add to the costs of rows, and write the table to the disk."""
        self.costs[rows] += cost
        for array in (self.values, self._checksums, self.costs):
            array.flush()


def _checksum(row: np.ndarray) -> int:
    return zlib.crc32(row.tobytes())


def _open_or_create(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.typing.DTypeLike,
    empty: float,
    kind: Kind,
) -> np.memmap:
    """Open an array on disk; create it with one value everywhere if it is missing.

    Raises:
        BadInput: If there is no room for it.
    """
    kept = _open_existing(path, shape, dtype)
    if kept is not None:
        return kept
    needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise BadInput(
            f"{kind.what} of {' x '.join(map(str, shape))} take {needed / 2**20:.0f} "
            f"MB, but {path.parent} has {free / 2**20:.0f} MB left. Make room, or "
            f"{kind.advice}."
        )
    files.create_array(path, shape, dtype, empty)
    return np.lib.format.open_memmap(path, "r+")


def _open_existing(
    path: Path, shape: tuple[int, ...], dtype: np.typing.DTypeLike
) -> np.memmap | None:
    """The array on disk; None if it is missing, damaged, or has another shape or type."""
    try:
        array = np.lib.format.open_memmap(path, "r+")
    except files.ARRAY_ERRORS:
        return None
    return array if (array.shape, array.dtype) == (shape, np.dtype(dtype)) else None
