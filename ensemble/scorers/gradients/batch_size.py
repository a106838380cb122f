"""How many images, and how many of their noise draws, fit into memory at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ensemble.models.denoisers import predict
from ensemble.models.memory import activation_bytes
from ensemble.scorers.interface import Examples, ScoringContext
from splits.errors import BadInput

# Measured on UNets of 0.2 to 2.6 million weights: a forward and a backward pass hold
# 1.3 to 1.5 times the layers' outputs, and two copies of one layer's gradient.
PASSES, GRADIENTS = 2, 3
# The noise, the noisy image and the target.
IMAGES = 3
# Larger batches of images and draws are no faster.
ENOUGH = 1024


@dataclass(frozen=True)
class Batch:
    """The size of a batch.

    Attributes:
        n_images: Number of images.
        n_draws: Number of noise draws of each image.
    """

    n_images: int
    n_draws: int

    def parts(self, n_images: int) -> Iterator[slice]:
        """Slices of the images, batch by batch."""
        for first in range(0, n_images, self.n_images):
            yield slice(first, min(first + self.n_images, n_images))

    def draws(self, n_draws: int) -> Iterator[slice]:
        """Slices of the draws, batch by batch."""
        for first in range(0, n_draws, self.n_draws):
            yield slice(first, min(first + self.n_draws, n_draws))


def batch(
    context: ScoringContext,
    network: nn.Module,
    examples: Examples,
    n_draws: int,
    width: int,
    workspace: int = 0,
) -> Batch:
    """The largest batch that fits into the memory of the context.

    Args:
        context: Says how much memory may be used.
        network: The network that is differentiated.
        examples: The images; all have the same size.
        n_draws: Noise draws of each image.
        width: Numbers that are kept of each image.
        workspace: Further numbers that each draw of an image needs.

    Raises:
        BadInput: If a single image at a single draw does not fit.
    """
    number = examples.images.element_size()
    state = PASSES * activation_bytes(network, lambda: _run_once(network, examples))
    state += number * (IMAGES * examples.images[0].numel() + workspace)
    largest = max(weights.numel() for weights in network.parameters())
    image = number * (GRADIENTS * largest + 2 * width)
    allowed = context.max_memory_mb * 2**20
    if state + image > allowed:
        raise BadInput(
            f"One image takes {(state + image) / 2**20:.0f} MB; allowed: "
            f"{context.max_memory_mb}. Raise --max-memory."
        )
    n_draws = min(n_draws, (allowed - image) // state, ENOUGH)
    fitting = allowed // (n_draws * state + image)
    return Batch(max(1, min(fitting, ENOUGH // n_draws)), n_draws)


def _run_once(network: nn.Module, examples: Examples) -> None:
    """Run a network on the first example."""
    timestep = torch.zeros(1, dtype=torch.int64, device=examples.images.device)
    predict(network, examples.images[:1], timestep, examples.condition[:1])
