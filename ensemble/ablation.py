"""Exact ablation: every picture as it would be without a source.

An ablation is a vote vector. Distinct vectors are sampled once, many at a time, from
the queries' own noise; all of a query's ablations share the first step, because they
all start from the same state. Results go to disk block by block, so that an
interrupted landscape is continued, not begun again.

Before: queries.py (pictures by other votes). After: influence.py.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int
from torch import nn
from tqdm.auto import tqdm

from ensemble import store
from ensemble.measurement import Images, Measurement, Values, displacement
from ensemble.model import predict
from ensemble.pipeline import EnsemblePipeline
from ensemble.queries import Queries, ablated_pictures, on_device
from splits.errors import BadInput

PROGRESS, VALUES = "progress.json", "values.npy"

# (full, ablated) -> a value for each ablated picture.
Reading = Callable[[Images, Images], Values]
# The query and the votes of each picture of a block.
Block = tuple[Int[np.ndarray, " pictures"], Float64[np.ndarray, "pictures members"]]
# What was read off them, displacement first; and images that members were run on.
Measured = tuple[Float32[np.ndarray, "measurements pictures"], int]


@dataclass(frozen=True, eq=False)
class Landscape:
    """What every ablation does to every query.

    Attributes:
        displacement: Distance between full and ablated picture.
        measured: For each measurement of pictures, its value on the ablated pictures.
        full: For each measurement of pictures, its value on the full pictures; of
            pairs, on each full picture and itself.
        member_forwards: Work: images that members were run on.
    """

    displacement: Float32[np.ndarray, "queries vectors"]
    measured: dict[str, Float32[np.ndarray, "queries vectors"]]
    full: dict[str, Float32[np.ndarray, " queries"]]
    member_forwards: int


@torch.no_grad()
def landscape(
    pipe: EnsemblePipeline,
    queries: Queries,
    votes: Float64[np.ndarray, "vectors members"],
    measurements: dict[str, Measurement],
    folder: Path,
    max_memory_mb: int = 1024,
    computed: Callable[[Iterable[Block]], Iterable[Measured]] | None = None,
) -> Landscape:
    """Sample every query with every vote vector, exactly.

    Args:
        pipe: The ensemble.
        queries: What is sampled again.
        votes: One vector for each ablation; equal vectors are sampled once.
        measurements: What to read off the pictures, by name.
        folder: Where finished blocks are kept until all are done.
        max_memory_mb: Bound on the memory of activations and states.
        computed: Gives what `measured` gives for each block, in order; None: here.
    """
    distinct, vector_of = np.unique(votes, axis=0, return_inverse=True)
    vector_of = vector_of.reshape(-1)
    readings = readings_of(measurements)
    blocks = _Blocks(folder, queries, distinct, list(readings))
    size = block_size(pipe, max_memory_mb)
    pairs = ((query, distinct[vectors]) for query, vectors in blocks.missing(size))
    if computed is None:
        results = (measured(pipe, queries, readings, *block) for block in pairs)
    else:
        results = computed(pairs)
    with blocks.bar() as bar:
        for found, work in results:
            blocks.keep(found, work)
            bar.update(found.shape[1])
    full = on_device(pipe, queries.images)
    values = blocks.values()[:, :, vector_of]
    return Landscape(
        displacement=values[0],
        measured=dict(zip(readings, values[1:], strict=True)),
        full={
            name: measure(full, full).cpu().float().numpy()
            for name, measure in readings.items()
        },
        member_forwards=blocks.member_forwards,
    )


def readings_of(measurements: Mapping[str, Measurement]) -> dict[str, Reading]:
    """What measurements read off pictures, by name, as far as they do."""
    return {
        name: measurement.reading
        for name, measurement in measurements.items()
        if measurement.reading is not None
    }


@torch.no_grad()
def measured(
    pipe: EnsemblePipeline,
    queries: Queries,
    readings: Mapping[str, Reading],
    of_query: Int[np.ndarray, " pictures"],
    votes: Float64[np.ndarray, "pictures members"],
) -> Measured:
    """Sample one block of pictures and measure them."""
    before = pipe.members.n_forwards
    images = ablated_pictures(pipe, queries, of_query, votes)
    full = on_device(pipe, queries.images)
    full = full[torch.from_numpy(of_query).to(full.device)]
    values = [displacement(full, images)]
    values += [measure(full, images) for measure in readings.values()]
    return torch.stack(values).cpu().float().numpy(), pipe.members.n_forwards - before


class _Blocks:
    """Finished values on disk, in the order in which they are computed.

    The order is query by query, vector by vector; `progress.json` says how many of
    the pairs are done, and is replaced after the values are on the disk.
    """

    def __init__(
        self, folder: Path, queries: Queries, votes: np.ndarray, names: list[str]
    ) -> None:
        self.folder = folder
        self.shape = (1 + len(names), len(queries.seeds), len(votes))
        self.key = {
            "votes": store.array_digest(votes),
            "queries": store.array_digest(queries.images),
            "names": names,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.done, self.member_forwards = 0, 0
        # Pair by pair, so that it does not depend on the size of the blocks.
        self.digest = hashlib.sha256()
        self.array = self._continued() if (folder / PROGRESS).exists() else self._new()

    def _continued(self) -> np.memmap:
        """The values that an interrupted landscape has left; new ones if of another.

        Raises:
            BadInput: If they are damaged.
        """
        kept, values = store.read_json(self.folder / PROGRESS), self.folder / VALUES
        if kept["key"] != self.key or not kept["done"]:
            return self._new()
        found = store.read_array(values)
        if (found.shape, found.dtype) == (self._flat(), np.float32):
            self.digest.update(_pair_by_pair(found[:, : kept["done"]]))
        expected, digest = kept.get("values_sha256"), self.digest.hexdigest()
        if digest != expected:
            raise BadInput(
                f"{values} is damaged: {PROGRESS} expects sha256 {expected} of what is "
                f"done, found {digest}. Delete {self.folder}, and ablate again."
            )
        self.done, self.member_forwards = kept["done"], kept["member_forwards"]
        return np.lib.format.open_memmap(values, mode="r+")

    def _new(self) -> np.memmap:
        # It speaks for values that are replaced now.
        (self.folder / PROGRESS).unlink(missing_ok=True)
        store.make_array(self.folder / VALUES, self._flat(), np.float32)
        return np.lib.format.open_memmap(self.folder / VALUES, mode="r+")

    def _flat(self) -> tuple[int, int]:
        return self.shape[0], self.shape[1] * self.shape[2]

    def missing(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Query and vector of each pair of every block that is not done."""
        total = self._flat()[1]
        for first in range(self.done, total, size):
            pairs = np.arange(first, min(first + size, total))
            yield pairs // self.shape[2], pairs % self.shape[2]

    def bar(self) -> tqdm:
        """Shows how far it is."""
        return tqdm(
            total=self._flat()[1],
            initial=self.done,
            desc="ablating",
            unit=" pictures",
            disable=None,
        )

    def keep(self, values: np.ndarray, member_forwards: int) -> None:
        """Put the values of a block on the disk."""
        self.array[:, self.done : self.done + values.shape[1]] = values
        self.array.flush()
        self.digest.update(_pair_by_pair(values))
        self.done += values.shape[1]
        self.member_forwards += member_forwards
        kept = {
            "key": self.key,
            "done": self.done,
            "member_forwards": self.member_forwards,
            "values_sha256": self.digest.hexdigest(),
        }
        store.write_json(self.folder / PROGRESS, kept)

    def values(self) -> Float32[np.ndarray, "measurements queries vectors"]:
        """All values."""
        return np.array(self.array).reshape(self.shape)


def _pair_by_pair(values: Float32[np.ndarray, "measurements pairs"]) -> bytes:
    return values.T.astype(np.float32).tobytes()


def block_size(pipe: EnsemblePipeline, max_memory_mb: int) -> int:
    """Images at once, half of the memory for activations and half for states.

    More than some hundred images a member make nothing faster, and a block that is
    interrupted is lost.
    """
    half = max_memory_mb * 2**20 // 2
    activations, state = picture_bytes(pipe)
    pipe.members.forward_batch = int(np.clip(half // activations, 1, 512))
    return int(np.clip(half // (8 * state), 1, 1024))


def picture_bytes(pipe: EnsemblePipeline) -> tuple[int, int]:
    """Bytes of one image's activations in a member, and of its state."""
    network = pipe.members.networks[0]
    total = 0

    def count(_: nn.Module, __: tuple, output: object) -> None:
        nonlocal total
        if torch.is_tensor(output):
            total += output.numel() * output.element_size()

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    state = torch.zeros(1, *pipe.members.image_shape, device=pipe.members.device)
    state = state.to(pipe.members.dtype)
    label = None
    if pipe.members.no_label is not None:
        label = torch.zeros(1, dtype=torch.int64, device=state.device)
    with torch.no_grad():
        predict(network, state, torch.zeros((), device=state.device), label)
    for hook in hooks:
        hook.remove()
    return total, state.numel() * state.element_size()
