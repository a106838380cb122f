"""Exact ablation: every picture as it would be without a source.

An ablation is a vote vector. Distinct vectors are sampled once, many at a time, from
the queries' own noise; all of a query's ablations share the first step, because they
all start from the same state. Results go to disk block by block, so that an
interrupted landscape is continued, not begun again.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ensemble.ablation.measurements import Images, Measurement, Values, displacement
from ensemble.ablation.removal_sets import votes_without
from ensemble.models.denoisers import predict
from ensemble.models.memory import activation_bytes
from ensemble.run import files, table_records
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries, ablated_pictures, on_device
from ensemble.system.progress import Progress
from splits.errors import BadInput

PROGRESS, VALUES = "progress.json", "values.npy"
MOST_PICTURES = 1024
# What a core does of a member's work, and what any accelerator does. With less, the
# demo's blocks would be smaller than those of version 0.1, and so have other last bits.
OPERATIONS_A_SECOND = {"cpu": 2.6e10, "other": 1e12}

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
        seconds_before: What the blocks took that were there when this session began.
    """

    displacement: Float32[np.ndarray, "queries vectors"]
    measured: dict[str, Float32[np.ndarray, "queries vectors"]]
    full: dict[str, Float32[np.ndarray, " queries"]]
    member_forwards: int
    seconds_before: float


@torch.no_grad()
def landscape(
    pipe: EnsemblePipeline,
    queries: Queries,
    votes: Float64[np.ndarray, "vectors members"],
    measurements: dict[str, Measurement],
    folder: Path,
    max_memory_mb: int = 1024,
    computed: Callable[[Iterable[Block]], Iterable[Measured]] | None = None,
    made_by: Mapping[str, Any] | None = None,
) -> Landscape:
    """Sample every query with every vote vector, exactly.

    What an interrupted landscape has left is gone on with, if it is of the same.

    Args:
        pipe: The ensemble.
        queries: What is sampled again.
        votes: One vector for each ablation; equal vectors are sampled once.
        measurements: What to read off the pictures, by name.
        folder: Where finished blocks are kept until all are done.
        max_memory_mb: Bound on the memory of activations and states.
        computed: Gives what `measured` gives for each block, in order; None: here.
        made_by: Facts about the members, by which blocks of others are told apart.
    """
    distinct, vector_of = np.unique(votes, axis=0, return_inverse=True)
    vector_of = vector_of.reshape(-1)
    readings = readings_of(measurements)
    blocks = _Blocks(folder, queries, distinct, list(readings), made_by or {})
    size = blocks.size_of(pipe, max_memory_mb)
    pairs = ((query, distinct[vectors]) for query, vectors in blocks.missing(size))
    if computed is None:
        results = (measured(pipe, queries, readings, *block) for block in pairs)
    else:
        results = computed(pairs)
    before = blocks.seconds
    shown = Progress("ablating", "pictures", blocks.n_pairs, blocks.done, before)
    with shown as progress:
        for found, work in results:
            blocks.keep(found, work)
            progress.advance(found.shape[1])
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
        seconds_before=before,
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


@torch.no_grad()
def pictures_without(
    pipe: EnsemblePipeline,
    queries: Queries,
    of_query: Int[np.ndarray, " pictures"],
    silenced: Bool[np.ndarray, "pictures members"],
) -> Float32[np.ndarray, "pictures channels height width"]:
    """Exact pictures of queries without some members; equal ones are sampled once.

    Args:
        pipe: The ensemble.
        queries: What is sampled again.
        of_query: The query that each picture is of.
        silenced: The members without which it is made.
    """
    pairs = np.column_stack([of_query, silenced])
    _, first, same_as = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    images = ablated_pictures(
        pipe, queries, of_query[first], votes_without(silenced[first])
    )
    return images.cpu().float().numpy()[same_as.reshape(-1)]


class _Blocks:
    """Finished values on disk, in the order in which they are computed.

    The order is query by query, vector by vector; `progress.json` says how many of
    the pairs are done, and is replaced after the values are on the disk.
    """

    def __init__(
        self,
        folder: Path,
        queries: Queries,
        votes: np.ndarray,
        names: list[str],
        made_by: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.shape = (1 + len(names), len(queries.seeds), len(votes))
        self.key = {
            "votes": files.array_digest(votes),
            "queries": files.array_digest(queries.images),
            "names": names,
            "seeds": queries.facts()["seeds_digest"],
            **made_by,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.done, self.member_forwards = 0, 0
        # Of all sessions, and when this one last put something on the disk.
        self.seconds, self.since = 0.0, time.perf_counter()
        # Pictures of a block, where a session has chosen it.
        self.size: int | None = None
        # Pair by pair, so that it does not depend on the size of the blocks.
        self.digest = hashlib.sha256()
        self.array = self._continued() if (folder / PROGRESS).exists() else self._new()

    def _continued(self) -> np.memmap:
        """The values that an interrupted landscape has left; new ones if of another.

        Raises:
            BadInput: If they are damaged.
        """
        kept, values = files.read_json(self.folder / PROGRESS), self.folder / VALUES
        if table_records.first_difference(kept["key"], self.key) or not kept["done"]:
            return self._new()
        found = files.read_array(values)
        if (found.shape, found.dtype) == (self._flat(), np.float32):
            self.digest.update(_pair_by_pair(found[:, : kept["done"]]))
        expected, digest = kept.get("values_sha256"), self.digest.hexdigest()
        if digest != expected:
            raise BadInput(
                f"{values} is damaged: {PROGRESS} expects sha256 {expected} of what is "
                f"done, found {digest}. Delete {self.folder}, and ablate again."
            )
        self.done, self.member_forwards = kept["done"], kept["member_forwards"]
        # Version 0.1 wrote down neither, and made its blocks as large as memory allows.
        self.seconds = kept.get("seconds", 0.0)
        self.size = kept.get("block_size", MOST_PICTURES)
        return np.lib.format.open_memmap(values, mode="r+")

    def _new(self) -> np.memmap:
        # It speaks for values that are replaced now.
        (self.folder / PROGRESS).unlink(missing_ok=True)
        files.create_array(self.folder / VALUES, self._flat(), np.float32)
        return np.lib.format.open_memmap(self.folder / VALUES, mode="r+")

    def _flat(self) -> tuple[int, int]:
        return self.shape[0], self.shape[1] * self.shape[2]

    def missing(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Query and vector of each pair of every block that is not done."""
        total = self._flat()[1]
        for first in range(self.done, total, size):
            pairs = np.arange(first, min(first + size, total))
            yield pairs // self.shape[2], pairs % self.shape[2]

    @property
    def n_pairs(self) -> int:
        """Pictures in all."""
        return self._flat()[1]

    def size_of(self, pipe: EnsemblePipeline, max_memory_mb: int) -> int:
        """Pictures of a block: as many as when it was begun, if memory allows it.

        How many images a member sees at once can change the last bits of what it
        predicts. So the size follows from what is asked for, not from a clock.
        """
        most = block_size(pipe, max_memory_mb)
        if self.size is None:
            self.size = min(most, pictures_of_a_minute(pipe))
        self.size = min(self.size, most)
        return self.size

    def keep(self, values: np.ndarray, member_forwards: int) -> None:
        """Put the values of a block on the disk."""
        self.array[:, self.done : self.done + values.shape[1]] = values
        self.array.flush()
        self.digest.update(_pair_by_pair(values))
        self.done += values.shape[1]
        self.member_forwards += member_forwards
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        kept = {
            "key": self.key,
            "done": self.done,
            "member_forwards": self.member_forwards,
            "seconds": round(self.seconds, 3),
            "block_size": self.size,
            "values_sha256": self.digest.hexdigest(),
        }
        files.write_json(self.folder / PROGRESS, kept)

    def values(self) -> Float32[np.ndarray, "measurements queries vectors"]:
        """All values."""
        return np.array(self.array).reshape(self.shape)


def _pair_by_pair(values: Float32[np.ndarray, "measurements pairs"]) -> bytes:
    return values.T.astype(np.float32).tobytes()


def block_size(pipe: EnsemblePipeline, max_memory_mb: int) -> int:
    """Images at once, half of the memory for activations and half for states.

    More than some hundred images a member make nothing faster.
    """
    half = max_memory_mb * 2**20 // 2
    activations, state = picture_bytes(pipe)
    pipe.members.forward_batch = int(np.clip(half // activations, 1, 512))
    return int(np.clip(half // (8 * state), 1, MOST_PICTURES))


@torch.no_grad()
def pictures_of_a_minute(pipe: EnsemblePipeline) -> int:
    """Pictures whose ablation takes one core, or one accelerator, about a minute.

    A block that is interrupted is lost. It is counted in operations, so that blocks are
    the same wherever and whenever the same is asked for.
    """
    members, sampling = pipe.members, pipe.sampling()
    with _Counted() as counted:
        _one_forward(pipe)
    passes = 1 if sampling.guidance_scale == 1.0 or members.no_label is None else 2
    # About half of the members vote.
    forwards = sampling.n_steps * passes * max(1, members.n_members / 2)
    operations = max(1, counted.operations) * forwards
    speed = OPERATIONS_A_SECOND["cpu" if members.device.type == "cpu" else "other"]
    return int(np.clip(60 * speed // operations, 1, MOST_PICTURES))


def picture_bytes(pipe: EnsemblePipeline) -> tuple[int, int]:
    """Bytes of one image's activations in a member, and of its state."""
    network = pipe.members.networks[0]
    state = _one_state(pipe)
    activations = activation_bytes(network, lambda: _one_forward(pipe))
    return activations, state.numel() * state.element_size()


class _Counted(TorchDispatchMode):
    """Counts the operations of what runs inside it, whatever the modules are.

    torch's own FlopCounterMode follows modules by their gradients, and so refuses some.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        return out


@torch.no_grad()
def _one_forward(pipe: EnsemblePipeline) -> None:
    """Run one member on one state."""
    members, state = pipe.members, _one_state(pipe)
    told = members.condition(None if members.no_label is None else [0])
    predict(members.networks[0], state, torch.zeros((), device=state.device), told)


def _one_state(pipe: EnsemblePipeline) -> Float[Tensor, "1 channels height width"]:
    """A state of zeros, of the members' type and on their device."""
    members = pipe.members
    state = torch.zeros(1, *members.image_shape, device=members.device)
    return state.to(members.dtype)
