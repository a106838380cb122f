"""Batches of training images: which ones, out of memory or read ahead from files.

The order of a member's images is known beforehand, so batches from files are read and
decoded in threads while the member trains on the ones before. They hold the same
numbers as batches out of memory, whoever reads them and whenever.
"""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from ensemble.data.datasets import Images
from ensemble.data.lazy import ImagesOnDisk
from ensemble.run import files, folder
from ensemble.run.folder import (
    REFERENCE,
    Trainable,
)
from ensemble.system import seeding

# Decoding runs beside the interpreter for the most part; on two cores the second one
# is idle while a member trains on the first.
THREADS = 2
# Batches on their way, so that one slow read does not stop the training.
AHEAD = 4


def key_of(member: Trainable) -> list[int]:
    """What keys its draws; without a number, the reference has no member's luck."""
    return [] if member == REFERENCE else [member]


class Split:
    """A member's training images, in the order in which it sees them.

    Every epoch shows each image of the split exactly once, in an order of its own.

    Args:
        images: Indices of the member's training images, ascending.
        seed: The training seed.
        member: Whose split it is.

    Attributes:
        digests: Of all that is shown up to each kind of checkpoint, by its name.
        shown: The images that are shown up to each kind of checkpoint, ascending.
        ends: Checkpoints that are kept for good, by their steps: none.
    """

    def __init__(
        self, images: Int[np.ndarray, " split"], seed: int, member: Trainable
    ) -> None:
        self.images = images
        self.digests = {folder.CHECKPOINT: files.array_digest(images)}
        self.shown = {folder.CHECKPOINT: images}
        self.ends: dict[int, str] = {}
        key = key_of(member)
        self.epoch = functools.lru_cache(maxsize=2)(
            lambda epoch: seeding.rng(seed, "order", *key, epoch).permutation(images)
        )

    def batch(self, step: int, batch_size: int) -> Int[np.ndarray, " batch"]:
        """The images of one step; a batch may reach into the next epochs."""
        n_images = len(self.images)
        begin, end = step * batch_size, (step + 1) * batch_size
        epochs = range(begin // n_images, (end - 1) // n_images + 1)
        shown = np.concatenate([self.epoch(epoch) for epoch in epochs])
        offset = begin - epochs[0] * n_images
        return shown[offset : offset + batch_size]


class Held:
    """Batches of images that are all in the memory of the device.

    Args:
        images: All training images.
        device: Where the batches are wanted.
    """

    def __init__(
        self,
        images: Float32[np.ndarray, "images channels height width"],
        device: torch.device,
    ) -> None:
        self.images = torch.from_numpy(images.copy()).to(device)

    def at(
        self, step: int, shown: Int[np.ndarray, " batch"]
    ) -> Float32[Tensor, "batch channels height width"]:
        """The images with these numbers."""
        return self.images[torch.from_numpy(shown).to(self.images.device)]


class ReadAhead:
    """Batches of images on disk, read while the steps before them are computed.

    Args:
        images: All training images.
        device: Where the batches are wanted.
        order: The numbers of the images of a step.
        n_steps: How many steps there are.
    """

    def __init__(
        self,
        images: ImagesOnDisk,
        device: torch.device,
        order: Callable[[int], Int[np.ndarray, " batch"]],
        n_steps: int,
    ) -> None:
        self.images, self.device = images, device
        self.order, self.n_steps = order, n_steps
        self._threads = ThreadPoolExecutor(THREADS, "images")
        self._coming: dict[int, Future[np.ndarray]] = {}

    def at(
        self, step: int, shown: Int[np.ndarray, " batch"]
    ) -> Float32[Tensor, "batch channels height width"]:
        """The images of a step, which are those with these numbers.

        Raises:
            BadInput: If a file cannot be read any more.
        """
        for later in range(step, min(step + 1 + AHEAD, self.n_steps)):
            if later not in self._coming:
                wanted = shown if later == step else self.order(later)
                self._coming[later] = self._threads.submit(
                    self.images.__getitem__, wanted
                )
        return torch.from_numpy(self._coming.pop(step).result()).to(self.device)


def batches(
    images: Images,
    device: torch.device,
    order: Callable[[int], Int[np.ndarray, " batch"]],
    n_steps: int,
) -> Held | ReadAhead:
    """What gives a member its batches, by where the images are."""
    if isinstance(images, ImagesOnDisk):
        return ReadAhead(images, device, order, n_steps)
    return Held(images, device)
