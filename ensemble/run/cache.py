"""A folder of results that are made once, under the digest of whatever decides them.

Whoever needs a result looks it up by its name, which is `digest_of` its causes. What is
not there is made by one process at a time, others wait. Three kinds of results are kept:

- an array, and a folder of files: written whole or not at all;
- a table: an array that is filled block by block, so that an interrupted one goes on
  where it was. What is not there yet is not a number; a checksum of each row tells a
  damaged row, which is made again.

Beside each result stands what it cost, so that a later user can count it.
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
from ensemble.run.files import check
from ensemble.system import locks
from splits.errors import BadInput

INFO = "info.json"
Chosen = slice | Int64[np.ndarray, " chosen"]


def digest_of(facts: dict[str, Any]) -> str:
    """Of facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Kind:
    """What a table holds.

    Attributes:
        what: It holds, for errors.
        advice: What helps but making room if it does not fit on the disk.
        axis: Of its rows.
        costs: What the file of the rows' costs is called, after the table's own name.
        cost: Type and shape of a row's cost.
    """

    what: str
    advice: str
    axis: int
    costs: str
    cost: tuple[type[np.floating], tuple[int, ...]]


@dataclass(frozen=True)
class Cache:
    """Results in a folder.

    Attributes:
        folder: Where they are; it need not exist yet.
    """

    folder: Path

    def array(
        self, name: str, make: Callable[[], np.ndarray]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """An array, made if it is not there.

        Args:
            name: What decides its content.
            make: Makes it.

        Returns:
            The array, and what it cost at an earlier time: `seconds`. Nothing of that
            is said if it was made just now.

        Raises:
            BadInput: If it cannot be read.
        """
        path = self.folder / f"{name}.npy"
        record = path.with_suffix(".json")
        cost: dict[str, Any] = {}
        with locks.alone(path):
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
        """A folder of files, made if it is not there.

        Args:
            name: What decides its content.
            make: Writes the files into a folder, and returns what goes on record.

        Returns:
            The folder; and what went on record at an earlier time, with the `seconds`
            that it took. Nothing of that is said if it was made just now.

        Raises:
            BadInput: If a file is not as it was written.
        """
        folder = self.folder / name
        made_before: dict[str, Any] = {}
        with locks.alone(folder):
            if folder.exists():
                made_before = files.read_json(folder / INFO)
            else:
                began = time.perf_counter()
                with files.folder_in_the_making(folder) as partial:
                    facts = make(partial)
                    seconds = time.perf_counter() - began
                    records.seal(partial, INFO, {"seconds": seconds, **facts})
        for file, expected in files.read_json(folder / INFO)["files"].items():
            check(folder / file, expected)
        return folder, made_before

    @contextlib.contextmanager
    def table(
        self, name: str, shape: tuple[int, ...], dtype: np.typing.DTypeLike, kind: Kind
    ) -> Iterator["Table"]:
        """A table to be filled, by nobody else until the block ends.

        Args:
            name: What decides its content.
            shape: Of the table.
            dtype: Of its numbers.
            kind: What it holds.

        Raises:
            BadInput: If there is no room for it.
        """
        path = self.folder / f"{name}.npy"
        n_rows = shape[kind.axis]
        cost_type, of_row = kind.cost
        with locks.alone(path):
            values = _opened(path, shape, dtype, np.nan, kind)
            costs = path.with_suffix(f".{kind.costs}.npy")
            sums = path.with_suffix(".sums.npy")
            yield Table(
                values,
                _opened(costs, (n_rows, *of_row), cost_type, 0.0, kind),
                _opened(sums, (n_rows,), np.uint32, 0.0, kind),
                kind.axis,
            )


class Table:
    """An array on disk that is filled block by block.

    Attributes:
        values: All of it, as it is on the disk; what is missing is not a number.
        costs: Of each row; zero if nothing was counted for it.
    """

    def __init__(
        self,
        values: np.memmap,
        costs: np.memmap,
        sums: UInt32[np.memmap, " rows"],
        axis: int,
    ) -> None:
        self.values, self.costs = values, costs
        self._sums, self._axis = sums, axis
        self._by_row = np.moveaxis(values, axis, 0)
        for row, sum_ in zip(self._by_row, sums, strict=True):
            # Nothing is written to rows that are known to be missing.
            if _sum_of(row) != sum_ and not np.isnan(row).all():
                row[...] = np.nan

    def missing(self) -> Int64[np.ndarray, " missing"]:
        """Numbers of the rows that are not there, or not to their end."""
        lacking = [bool(np.isnan(row).any()) for row in self._by_row]
        return np.flatnonzero(lacking)

    def lacks(self, rows: Chosen, columns: slice) -> bool:
        """Whether a block is not there, or not all of it."""
        return bool(np.isnan(self._by_row[rows, ..., columns]).any())

    def put(
        self,
        rows: Chosen,
        values: np.ndarray,
        columns: slice = slice(None),
    ) -> None:
        """Write a block, whose axes are those of the table."""
        self._by_row[rows, ..., columns] = np.moveaxis(values, self._axis, 0)
        self._sums[rows] = [_sum_of(row) for row in self._by_row[rows]]

    def count(
        self, rows: Chosen | int, cost: float | Float64[np.ndarray, " costs"]
    ) -> None:
        """Add to the costs of rows, and wait until all is on the disk."""
        self.costs[rows] += cost
        for array in (self.values, self._sums, self.costs):
            array.flush()


def _sum_of(row: np.ndarray) -> int:
    return zlib.crc32(row.tobytes())


def _opened(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.typing.DTypeLike,
    empty: float,
    kind: Kind,
) -> np.memmap:
    """An array on disk, made with one value everywhere if it was not there.

    Raises:
        BadInput: If there is no room for it.
    """
    kept = _kept(path, shape, dtype)
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
    files.make_array(path, shape, dtype, empty)
    return np.lib.format.open_memmap(path, "r+")


def _kept(
    path: Path, shape: tuple[int, ...], dtype: np.typing.DTypeLike
) -> np.memmap | None:
    """The array that is there; None if it is missing, or not what was written."""
    try:
        array = np.lib.format.open_memmap(path, "r+")
    except files.NO_ARRAY:
        return None
    return array if (array.shape, array.dtype) == (shape, np.dtype(dtype)) else None
