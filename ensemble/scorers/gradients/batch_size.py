"""How many images, and how many of their noise draws, fit into memory at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ensemble.models.denoisers import predict
from ensemble.models.memory import activation_bytes
from ensemble.scorers.interface import (
    Examples,
    Setting,
)
from splits.errors import BadInput

# Measured on UNets of 0.2 to 2.6 million weights: a forward and a backward pass hold
# 1.3 to 1.5 times what the layers give out, and two copies of one layer's gradient.
PASSES, GRADIENTS = 2, 3
# Noise, noisy image, and what should be predicted.
IMAGES = 3
# More images at draws are no faster.
ENOUGH = 1024


@dataclass(frozen=True)
class Batch:
    """What is done at once.

    Attributes:
        n_images: Images.
        n_draws: Draws of each.
    """

    n_images: int
    n_draws: int

    def parts(self, n_images: int) -> Iterator[slice]:
        """Images, batch by batch."""
        for first in range(0, n_images, self.n_images):
            yield slice(first, min(first + self.n_images, n_images))

    def draws(self, n_draws: int) -> Iterator[slice]:
        """Draws, batch by batch."""
        for first in range(0, n_draws, self.n_draws):
            yield slice(first, min(first + self.n_draws, n_draws))


def batch(
    setting: Setting,
    network: nn.Module,
    examples: Examples,
    n_draws: int,
    width: int,
    room: int = 0,
) -> Batch:
    """The largest batch that the setting's memory allows.

    Args:
        setting: Bounds the memory.
        network: What is differentiated.
        examples: At which; all are alike in size.
        n_draws: Noise draws of each image.
        width: Numbers that are kept of each image.
        room: Numbers that are needed besides for each draw of an image.

    Raises:
        BadInput: If a single image at a single draw takes more.
    """
    number = examples.images.element_size()
    state = PASSES * activation_bytes(network, lambda: _run_once(network, examples))
    state += number * (IMAGES * examples.images[0].numel() + room)
    largest = max(weights.numel() for weights in network.parameters())
    image = number * (GRADIENTS * largest + 2 * width)
    allowed = setting.max_memory_mb * 2**20
    if state + image > allowed:
        raise BadInput(
            f"One image takes {(state + image) / 2**20:.0f} MB; allowed: "
            f"{setting.max_memory_mb}. Raise --max-memory."
        )
    n_draws = min(n_draws, (allowed - image) // state, ENOUGH)
    fitting = allowed // (n_draws * state + image)
    return Batch(max(1, min(fitting, ENOUGH // n_draws)), n_draws)


def _run_once(network: nn.Module, examples: Examples) -> None:
    """Run a network on the first of the examples."""
    timestep = torch.zeros(1, dtype=torch.int64, device=examples.images.device)
    predict(network, examples.images[:1], timestep, examples.condition[:1])
