"""What scorers keep on disk: arrays under the digest of whatever decides their content."""

import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt32
from torch import Tensor, nn

from ensemble.run import files
from ensemble.scorers.interface import (
    Examples,
    Setting,
)
from splits.errors import BadInput


def opened(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.typing.DTypeLike,
    empty: float = 0.0,
    what: str = "Scores",
    advice: str = "ask for fewer queries",
) -> np.memmap:
    """An array on disk, made with one value everywhere if it was not there.

    Args:
        path: Where.
        shape: Of the array.
        dtype: Of its numbers.
        empty: The value.
        what: It holds, for the error.
        advice: What else helps but making room.

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
            f"{what} of {' x '.join(map(str, shape))} take {needed / 2**20:.0f} MB, but "
            f"{path.parent} has {free / 2**20:.0f} MB left. Make room, or {advice}."
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


def made_once(
    setting: Setting, path: Path, make: Callable[[], np.ndarray]
) -> np.ndarray:
    """What is kept there, made if it is not; the seconds that it took count each time."""
    record = path.with_suffix(".json")
    if path.exists():
        if record.exists():
            setting.work.seconds_before += files.read_json(record)["seconds"]
    else:
        began = time.perf_counter()
        files.write_array(path, make())
        files.write_json(record, {"seconds": round(time.perf_counter() - began, 6)})
    return files.read_array(path)


def sums(rows: np.ndarray) -> UInt32[np.ndarray, " rows"]:
    """A checksum of each row."""
    return np.array([zlib.crc32(row.tobytes()) for row in rows], dtype=np.uint32)


def digest_of(facts: dict[str, Any]) -> str:
    """Of facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def of_network(setting: Setting, network: nn.Module) -> dict[str, Any]:
    """Digests of a network's weights and of the noise that it was trained on."""
    return {
        **{
            name: _of_tensor(fact) if isinstance(fact, Tensor) else fact
            for name, fact in setting.objective.identity().items()
        },
        "weights": {
            name: (_of_tensor(weights), weights.requires_grad)
            for name, weights in network.named_parameters()
        },
    }


def of_examples(examples: Examples) -> dict[str, Any]:
    """Digests of images, labels and keys."""
    condition = examples.condition
    return {
        "images": _of_tensor(examples.images),
        "keys": _of_tensor(examples.keys),
        "condition": None if condition is None else _of_tensor(condition),
    }


def _of_tensor(tensor: Tensor) -> str:
    return files.array_digest(tensor.detach().cpu().numpy())
