"""Scores block by block, kept on disk, so that an interrupted scorer goes on.

Every block of queries is prepared once, then meets the training images block by block:
no more than one block of either is held.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from torch import nn
from tqdm.auto import tqdm

from ensemble.run import files
from ensemble.run.cache import (
    Kind,
    Table,
    digest_of,
)
from ensemble.scorers.gradients import cache
from ensemble.scorers.interface import (
    Setting,
    Work,
)

# Scores a block of training images for the queries that it was prepared for; perhaps at
# several dampings.
Against = Callable[[slice], Float[np.ndarray, "*dampings queries images"]]

# A block's seconds, gradients and forwards are the cost of its first query.
SCORES = Kind(
    what="Scores",
    advice="ask for fewer queries",
    axis=-2,
    costs="costs",
    cost=(np.float32, (3,)),
)


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
    kept_as = f"scores-{name}"
    with setting.cache.table(kept_as, shape, np.float32, SCORES) as table:
        _remember(setting.work, table.costs.sum(axis=0, dtype=np.float64))
        for queries in tqdm(list(_parts(shape[-2], sizes.n_queries)), disable=None):
            began, before = time.perf_counter(), dataclasses.replace(setting.work)
            _fill(table, queries, shape[-1], sizes.n_images, prepare)
            cost = [
                time.perf_counter() - began,
                setting.work.gradients - before.gradients,
                setting.work.forwards - before.forwards,
            ]
            table.count(queries.start, np.array(cost))
    return table.values


def _remember(work: Work, cost: Float64[np.ndarray, "3"]) -> None:
    """Count what was done at an earlier time: seconds, gradients, forwards."""
    work.seconds_before += float(cost[0])
    work.gradients += int(cost[1])
    work.forwards += int(cost[2])


def _fill(
    table: Table,
    queries: slice,
    n_images: int,
    images_at_once: int,
    prepare: Callable[[slice], Against],
) -> None:
    """Score the images that are missing for a block of queries."""
    missing = [
        images
        for images in _parts(n_images, images_at_once)
        if table.is_missing(queries, images)
    ]
    if not missing:
        return
    against = prepare(queries)
    for images in missing:
        table.put(queries, against(images), images)


def digest(
    scorer: Any,
    setting: Setting,
    network: nn.Module,
    seen: Int64[np.ndarray, " seen"],
    rated: Int64[np.ndarray, " rated"],
    dampings: Sequence[float] = (),
) -> str:
    """Of everything that decides the scores by one network."""
    return digest_of(
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
