"""Tables of scores, filled block by block on disk: an interrupted scorer goes on.

Every block of queries is prepared once and then scored against the training images,
block by block, so that no more than one block of either is in memory.
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
from ensemble.run.cache import Kind, Table, digest_of
from ensemble.scorers.gradients import cache
from ensemble.scorers.interface import ScoringContext, Work

# A function that scores a block of training images for one block of queries; where a
# method has several dampings, at each of them.
ScoreBlock = Callable[[slice], Float[np.ndarray, "*dampings queries images"]]

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
    """The size of a block.

    Attributes:
        n_queries: Number of queries.
        n_images: Number of training images.
    """

    n_queries: int
    n_images: int


def fill_scores(
    context: ScoringContext,
    name: str,
    shape: tuple[int, ...],
    sizes: Sizes,
    prepare: Callable[[slice], ScoreBlock],
) -> Float32[np.ndarray, "*dampings queries images"]:
    """A table of scores; what is on disk already is read back, the rest is computed.

    Args:
        context: Its folder holds the table, and its `work` is updated.
        name: The table's digest.
        shape: (queries, images), or (dampings, queries, images).
        sizes: Of the blocks; they may differ from one run to the next.
        prepare: Returns, for a block of queries, the function that scores images.

    Raises:
        BadInput: If there is no room for the table.
    """
    kept_as = f"scores-{name}"
    with context.cache.table(kept_as, shape, np.float32, SCORES) as table:
        _remember(context.work, table.costs.sum(axis=0, dtype=np.float64))
        for queries in tqdm(list(_parts(shape[-2], sizes.n_queries)), disable=None):
            began, before = time.perf_counter(), dataclasses.replace(context.work)
            _fill(table, queries, shape[-1], sizes.n_images, prepare)
            cost = [
                time.perf_counter() - began,
                context.work.gradients - before.gradients,
                context.work.forwards - before.forwards,
            ]
            table.count(queries.start, np.array(cost))
    return table.values


def _remember(work: Work, cost: Float64[np.ndarray, "3"]) -> None:
    """Add the cost of an earlier run: seconds, gradients, forwards."""
    work.seconds_before += float(cost[0])
    work.gradients += int(cost[1])
    work.forwards += int(cost[2])


def _fill(
    table: Table,
    queries: slice,
    n_images: int,
    images_at_once: int,
    prepare: Callable[[slice], ScoreBlock],
) -> None:
    """Score the images that a block of queries has no scores for."""
    missing = [
        images
        for images in _parts(n_images, images_at_once)
        if table.is_missing(queries, images)
    ]
    if not missing:
        return
    score_block = prepare(queries)
    for images in missing:
        table.put(queries, score_block(images), images)


def digest(
    scorer: Any,
    context: ScoringContext,
    network: nn.Module,
    seen: Int64[np.ndarray, " seen"],
    scored_images: Int64[np.ndarray, " rated"],
    dampings: Sequence[float] = (),
) -> str:
    """The digest of everything that one network's scores depend on."""
    return digest_of(
        {
            "scorer": type(scorer).__name__,
            "options": dataclasses.asdict(scorer),
            "dampings": list(dampings),
            "network": cache.of_network(context, network),
            "train": cache.of_examples(context.train),
            "seen": files.array_digest(seen),
            "rated": files.array_digest(scored_images),
            "queries": cache.of_examples(context.queries),
        }
    )


def _parts(n_all: int, at_once: int) -> Iterator[slice]:
    for first in range(0, n_all, at_once):
        yield slice(first, min(first + at_once, n_all))
