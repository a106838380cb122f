"""Batches of training images, taken from memory or prefetched from files.

The order of a member's images is known beforehand, so batches from files are read and
decoded in threads while the member trains on earlier ones. Their content equals that
of batches from memory to the bit.
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
from ensemble.run.folder import REFERENCE, Trainable
from ensemble.system import seeding

# Decoding mostly runs outside of the interpreter's lock, and on two cores the second one
# is idle while a member trains on the first.
THREADS = 2
# This many batches are read in advance, so that one slow read does not stop training.
N_PREFETCHED = 4


def key_of(member: Trainable) -> list[int]:
    """The numbers that key a model's random draws: none for the reference.

    So the reference shares no random draws with any member.
    """
    return [] if member == REFERENCE else [member]


class Split:
    """A member's training images, in the order in which it sees them.

    Every epoch shows each image of the split exactly once, in a new random order.

    Args:
        images: Indices of the member's training images, ascending.
        seed: The training seed.
        member: The member, or the reference, that trains on the split.

    Attributes:
        digests: For each kind of checkpoint, by file name: the digest of all images
            that are shown before it.
        shown: For each kind of checkpoint: the images shown before it, ascending.
        ends: Checkpoints that are kept permanently, by step; here there are none.
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
        """Indices of the images of one step; a batch may extend into the next epochs."""
        n_images = len(self.images)
        begin, end = step * batch_size, (step + 1) * batch_size
        epochs = range(begin // n_images, (end - 1) // n_images + 1)
        shown = np.concatenate([self.epoch(epoch) for epoch in epochs])
        offset = begin - epochs[0] * n_images
        return shown[offset : offset + batch_size]


class InMemoryLoader:
    """A loader that keeps all training images in the memory of the device.

    Args:
        images: All training images.
        device: The device of the batches.
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
        """The batch of images with the indices `shown`; the step does not matter."""
        return self.images[torch.from_numpy(shown).to(self.images.device)]


class PrefetchingLoader:
    """A loader that reads images from disk while earlier steps are computed.

    Args:
        images: All training images.
        device: The device of the batches.
        order: A function from a step to the indices of its images.
        n_steps: Number of training steps.
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
        """The batch of a step, and a request to read the batches of the next steps.

        Args:
            step: The step.
            shown: The indices of its images, as `order` gives them.

        Raises:
            BadInput: If a file cannot be read any more.
        """
        for later in range(step, min(step + 1 + N_PREFETCHED, self.n_steps)):
            if later not in self._coming:
                wanted = shown if later == step else self.order(later)
                self._coming[later] = self._threads.submit(
                    self.images.__getitem__, wanted
                )
        return torch.from_numpy(self._coming.pop(step).result()).to(self.device)


def make_loader(
    images: Images,
    device: torch.device,
    order: Callable[[int], Int[np.ndarray, " batch"]],
    n_steps: int,
) -> InMemoryLoader | PrefetchingLoader:
    """The loader that fits the place of the images: memory or files."""
    if isinstance(images, ImagesOnDisk):
        return PrefetchingLoader(images, device, order, n_steps)
    return InMemoryLoader(images, device)
