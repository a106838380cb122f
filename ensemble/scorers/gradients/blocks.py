"""Scores block by block, kept on disk, so that an interrupted scorer goes on.

A table of scores is a memory map under the digest of everything that decides its
content. What is not there yet is not a number. Every block of queries is prepared once,
then meets the training images block by block: no more than one block of either is held.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt32
from torch import nn
from tqdm.auto import tqdm

from ensemble.run import files
from ensemble.scorers.gradients import cache
from ensemble.scorers.interface import (
    Setting,
    Work,
)
from ensemble.system import locks

# Scores a block of training images for the queries that it was prepared for; perhaps at
# several dampings.
Against = Callable[[slice], Float[np.ndarray, "*dampings queries images"]]


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
    shape: tuple[int, ...],
    sizes: Sizes,
    prepare: Callable[[slice], Against],
) -> Float32[np.ndarray, "*dampings queries images"]:
    """A table of scores, read back from disk as far as it is there.

    Args:
        setting: Says where, and keeps the tally of work.
        name: The table's digest.
        shape: Queries and images; before them dampings, if there are several.
        sizes: Of the blocks; they may differ from one time to the next.
        prepare: Gives, for a block of queries, what scores blocks of images.

    Raises:
        BadInput: If there is no room for the table.
    """
    setting.folder.mkdir(parents=True, exist_ok=True)
    path = setting.folder / f"scores-{name}.npy"
    with locks.alone(path):
        table = cache.opened(path, shape, np.float32, np.nan)
        costs = cache.opened(path.with_suffix(".costs.npy"), (shape[-2], 3), np.float32)
        sums = cache.opened(path.with_suffix(".sums.npy"), shape[-2:-1], np.uint32)
        by_query = np.moveaxis(table, -2, 0)
        by_query[sums != cache.sums(by_query)] = np.nan
        _remember(setting.work, costs.sum(axis=0, dtype=np.float64))
        for queries in tqdm(list(_parts(shape[-2], sizes.n_queries)), disable=None):
            began, before = time.perf_counter(), dataclasses.replace(setting.work)
            _fill(table, sums, queries, sizes.n_images, prepare)
            costs[queries.start] += (
                time.perf_counter() - began,
                setting.work.gradients - before.gradients,
                setting.work.forwards - before.forwards,
            )
            table.flush()
            sums.flush()
            costs.flush()
    return table


def _remember(work: Work, cost: Float64[np.ndarray, "3"]) -> None:
    """Count what was done at an earlier time: seconds, gradients, forwards."""
    work.seconds_before += float(cost[0])
    work.gradients += int(cost[1])
    work.forwards += int(cost[2])


def _fill(
    table: Float32[np.ndarray, "*dampings queries images"],
    sums: UInt32[np.ndarray, " queries"],
    queries: slice,
    images_at_once: int,
    prepare: Callable[[slice], Against],
) -> None:
    """Score the images that are missing for a block of queries."""
    missing = [
        images
        for images in _parts(table.shape[-1], images_at_once)
        if np.isnan(table[..., queries, images]).any()
    ]
    if not missing:
        return
    against = prepare(queries)
    for images in missing:
        table[..., queries, images] = against(images)
        sums[queries] = cache.sums(np.moveaxis(table[..., queries, :], -2, 0))


def digest(
    scorer: Any,
    setting: Setting,
    network: nn.Module,
    seen: Int64[np.ndarray, " seen"],
    rated: Int64[np.ndarray, " rated"],
    dampings: Sequence[float] = (),
) -> str:
    """Of everything that decides the scores by one network."""
    return cache.digest_of(
        {
            "scorer": type(scorer).__name__,
            "options": dataclasses.asdict(scorer),
            "dampings": list(dampings),
            "network": cache.of_network(setting, network),
            "train": cache.of_examples(setting.train),
            "seen": files.array_digest(seen),
            "rated": files.array_digest(rated),
            "queries": cache.of_examples(setting.queries),
        }
    )


def _parts(n_all: int, at_once: int) -> Iterator[slice]:
    for first in range(0, n_all, at_once):
        yield slice(first, min(first + at_once, n_all))
