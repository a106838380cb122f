"""Features: the row of numbers by which a kernel method knows an image, kept on disk.

A feature is a projected gradient, averaged over noise draws. Rows are kept in a table
that is filled block by block, so an interrupted scorer goes on where it was, and methods
that look at the same gradients share them.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from ensemble.run import files
from ensemble.run.cache import Kind, Table, digest_of
from ensemble.scorers.gradients import batch_size, cache, per_example, trainable
from ensemble.scorers.gradients.batch_size import Batch
from ensemble.scorers.gradients.kernel import Kernel, decompose
from ensemble.scorers.gradients.per_example import OUTPUTS, Draws, States
from ensemble.scorers.gradients.projection import Projection
from ensemble.scorers.interface import Examples, ScoringContext, Subset, all_of
from splits.errors import BadInput

# A row's cost is its share of the seconds of its block.
FEATURES = Kind(
    what="Features",
    advice="project to fewer dimensions",
    axis=0,
    costs="seconds",
    cost=(np.float64, ()),
)


@dataclass(frozen=True)
class Feature:
    """Which gradient stands for an image.

    Attributes:
        output: What is differentiated: a name in `gradients.OUTPUTS`.
        draws: Noise draws that it is averaged over.
        projection: How many numbers are left of it.
        unit_draws: Scale the gradient at every draw to length one before averaging.
    """

    output: str = "loss"
    draws: Draws = Draws()
    projection: Projection = Projection()
    unit_draws: bool = False

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise BadInput(
                f"output is {self.output!r}; known: {', '.join(OUTPUTS)}. Choose one."
            )

    def width(self, network: nn.Module) -> int:
        """Numbers in a row."""
        weights = trainable.parameters(network)
        return self.projection.width(sum(weight.numel() for _, weight in weights))

    def batch(
        self,
        context: ScoringContext,
        network: nn.Module,
        examples: Examples,
        n_draws: int,
    ) -> Batch:
        """Images and draws at once."""
        at_once = 1 if self.unit_draws else n_draws
        return batch_size.batch(
            context, network, examples, at_once, self.width(network)
        )

    def rows(
        self, network: nn.Module, states: States, batch: Batch, keys: list[int]
    ) -> Float[Tensor, "images width"]:
        """Features of images.

        Args:
            network: What is differentiated.
            states: The images with noise added.
            batch: Draws at once.
            keys: By which an image is named in errors.
        """
        total = states.noisy.new_zeros(len(states.noisy), self.width(network))
        for chosen in batch.draws(states.n_draws):
            rows = per_example.gradient_sums(
                network, states.at(chosen), self.output, self.projection, keys
            )
            # The projected gradient's length is the gradient's, give or take
            # 1 / sqrt(2 n_dimensions) of it.
            total += functional.normalize(rows) if self.unit_draws else rows
        return total / states.n_draws


@dataclass(frozen=True, eq=False)
class Rows:
    """What one network's gradients say about training images and queries.

    Attributes:
        network: The network.
        train: Features of the training images that it saw; a memory map.
        seen: The numbers of these images, ascending.
        queries: Features of the queries.
        max_memory_mb: Bound on the memory of what is made of them.
    """

    network: nn.Module
    train: Float[np.ndarray, "seen width"]
    seen: Int64[np.ndarray, " seen"]
    queries: Float[np.ndarray, "queries width"]
    max_memory_mb: int

    def kernel(self) -> Kernel:
        """The kernel of the training images."""
        return decompose(self.train, self.max_memory_mb)

    def blocks(self) -> Iterator[slice]:
        """Training images by so many as memory allows."""
        at_once = max(1, self.max_memory_mb * 2**20 // (64 * self.train.shape[1]))
        for first in range(0, len(self.seen), at_once):
            yield slice(first, first + at_once)


Block = Callable[
    [Float[np.ndarray, "images width"], Int64[np.ndarray, " images"]],
    Float[np.ndarray, "queries images"],
]


def of_networks(
    context: ScoringContext,
    feature: Feature,
    query_features: Callable[[nn.Module], np.ndarray] | None = None,
) -> Iterator[Rows]:
    """Features of every network, one after the other.

    Args:
        context: What is scored.
        feature: What stands for an image.
        query_features: Gives the queries' features for a network; None: the same feature.
    """
    for network, saw in zip(context.networks, context.saw, strict=True):
        yield rows_of(context, feature, network, saw, query_features)


def of_checkpoints(context: ScoringContext, feature: Feature) -> Iterator[Rows]:
    """Features of every checkpoint of every network; how many there are is noted."""
    for number, network in enumerate(context.networks):
        moments = context.checkpoints(number) if context.checkpoints else [network]
        context.notes.append({"checkpoints": len(moments)})
        for moment in moments:
            yield rows_of(context, feature, moment, context.saw[number])


def rows_of(
    context: ScoringContext,
    feature: Feature,
    network: nn.Module,
    saw: np.ndarray,
    query_features: Callable[[nn.Module], np.ndarray] | None = None,
) -> Rows:
    """Features of one network."""
    seen = np.flatnonzero(saw)
    return Rows(
        network=network,
        train=load_or_compute(context, feature, network, Subset(context.train, seen)),
        seen=seen,
        queries=load_or_compute(context, feature, network, all_of(context.queries))
        if query_features is None
        else query_features(network),
        max_memory_mb=context.max_memory_mb,
    )


def mean_over_networks(
    context: ScoringContext, networks: Iterable[Rows], prepare: Callable[[Rows], Block]
) -> Float32[np.ndarray, "queries images"]:
    """Mean score by the networks that saw an image; 0 if none did.

    Args:
        context: What is scored.
        networks: Features of each network.
        prepare: Gives, for one network, the function that scores a block of images.
    """
    total = table(context)
    n_scored = np.zeros(len(context.train), dtype=np.int64)
    for rows in networks:
        n_scored[rows.seen] += 1
        add_scores(total, rows, prepare(rows))
    total /= n_scored.clip(min=1)
    return total


def add_scores(
    total: Float32[np.ndarray, "queries images"], rows: Rows, score: Block
) -> None:
    """Add one network's scores to the images that it saw, in place."""
    for block in rows.blocks():
        images = rows.seen[block]
        total[:, images] += score(rows.train[block], images)


def table(
    context: ScoringContext, *leading: int
) -> Float32[np.ndarray, "*leading queries images"]:
    """Zeros for every score, on disk; they vanish when nobody holds them."""
    context.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=context.folder) as file:
        shape = (*leading, len(context.queries), len(context.train))
        return np.memmap(file, np.float32, "w+", shape=shape)


def unit(
    rows: Float[np.ndarray, "images width"],
) -> Float[np.ndarray, "images width"]:
    """Rows at length one; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def load_or_compute(
    context: ScoringContext, feature: Feature, network: nn.Module, examples: Subset
) -> Float[np.ndarray, "examples width"]:
    """Features of examples, from the disk as far as they are there.

    Raises:
        BadInput: If there is no room for them, or a gradient cannot be taken.
    """
    name = digest_of(
        {
            "feature": dataclasses.asdict(feature),
            "network": cache.of_network(context, network),
            "examples": cache.of_examples(examples.examples),
            "numbers": files.array_digest(examples.numbers),
        }
    )
    shape = (len(examples), feature.width(network))
    dtype = examples.examples.images[:0].cpu().numpy().dtype
    with context.cache.table(name, shape, dtype, FEATURES) as table:
        context.work.seconds_before += float(table.costs.sum())
        _fill(context, feature, network, examples, table)
    context.work.gradients += len(examples) * len(feature.draws)
    return table.values


def _fill(
    context: ScoringContext,
    feature: Feature,
    network: nn.Module,
    examples: Subset,
    table: Table,
) -> None:
    """Take the rows that are missing."""
    missing = table.missing()
    if not missing.size:
        return
    batch = feature.batch(context, network, examples.examples, len(feature.draws))
    with tqdm(
        total=len(examples),
        initial=len(examples) - len(missing),
        desc=f"gradients, {table.values.nbytes / 2**20:.0f} MB",
        unit=" images",
        disable=None,
    ) as bar:
        for part in batch.parts(len(missing)):
            began = time.perf_counter()
            numbers = missing[part]
            chosen = examples[numbers]
            states = per_example.draw_states(context.objective, chosen, feature.draws)
            found = feature.rows(network, states, batch, chosen.keys.tolist())
            table.put(numbers, found.cpu().numpy())
            table.count(numbers, (time.perf_counter() - began) / len(numbers))
            bar.update(len(numbers))
