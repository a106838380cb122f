"""Coded shards: training images written in the order in which members read them."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Bool, Int64
from tqdm import tqdm

from ensemble.data import decoding
from ensemble.data.datasets import TrainingImages
from ensemble.provenance import drawing
from ensemble.provenance.plans import Plan
from ensemble.run import files
from ensemble.run.config import Config, DataConfig
from ensemble.system import locks
from splits import shard_order, shards
from splits.errors import BadInput
from splits.shard_order import Reading
from splits.shards import Sample


@dataclass(frozen=True, eq=False)
class CodedShards:
    """Training images on their way into shards.

    Attributes:
        data: The images; their names are their keys in the shards.
        bits: The code of each image.
        order: Images in the order in which they lie.
        per_shard: Images in each shard.
    """

    data: TrainingImages
    bits: Bool[np.ndarray, "images members"]
    order: Int64[np.ndarray, " images"]
    per_shard: list[int]

    def samples(self) -> Iterator[Sample]:
        """The images as samples of shards, in their order."""
        for image in tqdm(self.order.tolist(), "shards", leave=False, disable=None):
            yield self.data.names[image], _sample(self.data, image)

    def sizes(self) -> Int64[np.ndarray, " images"]:
        """Bytes that each image will take in its shard, in their order."""
        return np.array([shards.footprint(fields) for _, fields in self.samples()])

    def reading(self, sizes: Int64[np.ndarray, " images"], read_bytes: int) -> Reading:
        """What members read of images of these sizes, in blocks of `read_bytes`."""
        return shard_order.measure_reading(
            self.bits[self.order], sizes, self.per_shard, read_bytes
        )

    def members(self) -> list[list[int]]:
        """For each shard, the members that train on some of its images."""
        begins = np.cumsum([0, *self.per_shard[:-1]])
        seen = np.logical_or.reduceat(self.bits[self.order], begins)
        return [np.flatnonzero(row).tolist() for row in seen]


def laid_out(
    config: Config,
    data: TrainingImages,
    per_shard: int,
    read_bytes: int = shard_order.PAGE_BYTES,
) -> CodedShards:
    """Images in the order of their codes, under the names that they get.

    Codes may follow from names, so they are drawn for the names in the shards: whoever
    trains on the shards with the same config draws the same codes.

    Args:
        config: Says who trains on what.
        data: Its training images.
        per_shard: The most images of a shard.
        read_bytes: How much is read at once where the shards will lie.

    Raises:
        BadInput: If `per_shard` or `read_bytes` is less than one, or the config
            contradicts itself.
    """
    if per_shard < 1 or read_bytes < 1:
        raise BadInput(
            f"{per_shard} images in a shard, {read_bytes} bytes read at once; there "
            "must be at least 1 of each."
        )
    ready: Plan = drawing.drawn_for(config, replace(data, names=_keys(len(data.names))))
    bits = ready.codes.bits[ready.source_of]
    # The first image speaks for the others: their sizes only decide between orders.
    order = shard_order.order_by_code(
        bits, shards.footprint(_sample(data, 0)), read_bytes
    )
    sizes = shard_order.shard_sizes(bits[order], per_shard)
    return CodedShards(ready.data, bits, order, sizes)


def write(coded: CodedShards, folder: Path) -> Int64[np.ndarray, " images"]:
    """Write the shards and their index, from which the images read back exactly.

    Returns:
        Bytes that each image takes in its shard, in their order.

    Raises:
        BadInput: If the folder is not empty or cannot be written.
    """
    sizes: list[int] = []
    try:
        with locks.exclusive(folder), _new(folder) as partial:
            samples = _measured(coded.samples(), sizes)
            written = shards.write(partial, samples, coded.per_shard)
            entries = zip(written, coded.members(), strict=True)
            shards.write_index(
                partial, [replace(shard, members=seen) for shard, seen in entries]
            )
    except OSError as error:
        raise BadInput(
            f"Cannot write {folder}: {error.strerror}. Choose another folder, or make "
            "room."
        ) from None
    return np.array(sizes)


@contextlib.contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A folder in the making, where there was none or an empty one."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is not empty. Choose a new folder for the shards.")
    with files.atomic_folder(folder) as partial:
        yield partial


def data_section(config: DataConfig, folder: Path, n_shards: int) -> str:
    """The part of a config file that reads the shards."""
    last = f"{n_shards - 1:06d}"
    span = f"{{000000..{last}}}" if n_shards > 1 else last
    section = dataclasses.asdict(config) | {
        "kind": "shards",
        "path": str(folder / f"images-{span}.tar"),
        # The images were cut, scaled and chosen before they were written.
        **{"size": None, "channels": None, "n_images": None},
    }
    plain = dataclasses.asdict(DataConfig())
    changed = {key: value for key, value in section.items() if value != plain[key]}
    return yaml.safe_dump({"data": changed}, sort_keys=False).rstrip()


def _keys(n_images: int) -> tuple[str, ...]:
    """Numbers of the same length, so that their order is that of the images."""
    digits = max(6, len(str(n_images)))
    return tuple(f"{image:0{digits}d}" for image in range(n_images))


def _measured(samples: Iterator[Sample], sizes: list[int]) -> Iterator[Sample]:
    """The samples, while the bytes that they take are noted."""
    for key, fields in samples:
        sizes.append(shards.footprint(fields))
        yield key, fields


def _sample(data: TrainingImages, image: int) -> dict[str, bytes]:
    field, content = decoding.encode(data.images[image])
    row = {column: texts[image] for column, texts in data.columns.items()}
    sample = {field: content, "json": json.dumps(row).encode()}
    if data.labels is not None:
        sample["cls"] = str(data.labels[image]).encode()
    return sample
