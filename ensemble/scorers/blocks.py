"""Scores block by block, kept on disk, so that an interrupted scorer goes on.

A table of scores is a memory map under the digest of everything that decides its
content. What is not there yet is not a number. Every block of queries is prepared once,
then meets the training images block by block: no more than one block of either is held.

Before: setting.py. After: scored.py.
"""

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor, nn
from tqdm.auto import tqdm

from ensemble import store
from ensemble.scorers.setting import Examples, Setting, Work
from splits.errors import BadInput

# Scores a block of training images for the queries that it was prepared for.
Against = Callable[[slice], Float[np.ndarray, "queries images"]]


@dataclass(frozen=True)
class Sizes:
    """What is done at once.

    Attributes:
        n_queries: Queries.
        n_images: Training images.
    """

    n_queries: int
    n_images: int


def filled(
    setting: Setting,
    name: str,
    shape: tuple[int, int],
    sizes: Sizes,
    prepare: Callable[[slice], Against],
) -> Float32[np.ndarray, "queries images"]:
    """A table of scores, read back from disk as far as it is there.

    Args:
        setting: Says where, and keeps the tally of work.
        name: The table's digest.
        shape: Queries and images.
        sizes: Of the blocks; they may differ from one time to the next.
        prepare: Gives, for a block of queries, what scores blocks of images.

    Raises:
        BadInput: If there is no room for the table.
    """
    setting.folder.mkdir(parents=True, exist_ok=True)
    path = setting.folder / f"scores-{name}.npy"
    with filelock.FileLock(path.with_suffix(".lock")):
        table = _opened(path, shape, np.nan)
        costs = _opened(path.with_suffix(".costs.npy"), (shape[0], 3), 0.0)
        _remember(setting.work, costs.sum(axis=0, dtype=np.float64))
        for queries in tqdm(list(_parts(shape[0], sizes.n_queries)), disable=None):
            began, before = time.perf_counter(), dataclasses.replace(setting.work)
            _fill(table, queries, sizes.n_images, prepare)
            costs[queries.start] += (
                time.perf_counter() - began,
                setting.work.gradients - before.gradients,
                setting.work.forwards - before.forwards,
            )
            table.flush()
            costs.flush()
    return table


def _remember(work: Work, cost: Float64[np.ndarray, "3"]) -> None:
    """Count what was done at an earlier time: seconds, gradients, forwards."""
    work.seconds_before += float(cost[0])
    work.gradients += int(cost[1])
    work.forwards += int(cost[2])


def _fill(
    table: Float32[np.ndarray, "queries images"],
    queries: slice,
    images_at_once: int,
    prepare: Callable[[slice], Against],
) -> None:
    """Score the images that are missing for a block of queries."""
    missing = [
        images
        for images in _parts(table.shape[1], images_at_once)
        if np.isnan(table[queries, images]).any()
    ]
    if not missing:
        return
    against = prepare(queries)
    for images in missing:
        table[queries, images] = against(images)


def digest(
    scorer: Any, setting: Setting, network: nn.Module, seen: Int64[np.ndarray, " seen"]
) -> str:
    """Of everything that decides the scores by one network."""
    return digest_of(
        {
            "scorer": type(scorer).__name__,
            "options": dataclasses.asdict(scorer),
            "network": of_network(setting, network),
            "train": of_examples(setting.train),
            "seen": store.array_digest(seen),
            "queries": of_examples(setting.queries),
        }
    )


def digest_of(facts: dict[str, Any]) -> str:
    """Of facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def of_network(setting: Setting, network: nn.Module) -> dict[str, Any]:
    """Digests of a network's weights and of the noise that it was trained on."""
    return {
        "schedule": _of_tensor(setting.schedule.alphas_cumprod),
        "prediction": setting.schedule.config["prediction_type"],
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
    return store.array_digest(tensor.detach().cpu().numpy())


def _parts(n_all: int, at_once: int) -> Iterator[slice]:
    for first in range(0, n_all, at_once):
        yield slice(first, min(first + at_once, n_all))


def _opened(path: Path, shape: tuple[int, ...], empty: float) -> np.memmap:
    """An array on disk, made with one value everywhere if it was not there."""
    if path.exists():
        return np.lib.format.open_memmap(path, "r+")
    needed = 4 * int(np.prod(shape))
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise BadInput(
            f"Scores of {' x '.join(map(str, shape))} take {needed / 2**20:.0f} MB, but "
            f"{path.parent} has {free / 2**20:.0f} MB left. Make room, or ask for fewer "
            "queries."
        )
    with store.replacing(path) as partial:
        array = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
        array[:] = empty
        array.flush()
    return np.lib.format.open_memmap(path, "r+")
