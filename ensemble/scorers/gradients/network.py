"""One network while it is scored, and gradients by its layers at single images."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from ensemble.scorers.curvature import layers
from ensemble.scorers.curvature.layers import Gradients, Layers, RecordedForward
from ensemble.scorers.gradients import batch_size, blocks, features, per_example
from ensemble.scorers.gradients.blocks import ScoreBlock, Sizes
from ensemble.scorers.gradients.per_example import Draws, States
from ensemble.scorers.interface import Examples, ScoringContext, Subset, all_of

# Images whose scores are added up at once.
MOST_IMAGES = 4096


@dataclass(frozen=True, eq=False)
class ScoredNetwork:
    """A network, the layers of it that take part, and the images that it scores.

    Attributes:
        context: What it is a part of.
        number: Its position among the setting's networks.
        network: The network, in evaluation mode.
        layers: Layers that take part.
        train: The training images that it saw.
        scored_images: Those that it scores: what it saw, or the others.
    """

    context: ScoringContext
    number: int
    network: nn.Module
    layers: Layers
    train: Subset
    scored_images: Subset

    @property
    def seen(self) -> Int64[np.ndarray, " seen"]:
        """Numbers of the training images that it saw, ascending."""
        return self.train.numbers

    def own(self, draws: Draws) -> Draws:
        """As many draws, with noise that is its own among the setting's networks."""
        return dataclasses.replace(draws, seed=draws.seed + self.number)

    def gradients(
        self, examples: Examples, output: str, draws: Draws, timestep: int | None = None
    ) -> Gradients:
        """Gradients of an output at single images, averaged over draws.

        Args:
            examples: No more than whose gradients fit into memory.
            output: A name in `gradients.OUTPUTS`.
            draws: Timesteps and noise.
            timestep: Take all draws there, instead of spread over the schedule.

        Raises:
            BadInput: If one is not finite; names layer and image.
        """
        self.context.work.gradients += len(examples) * len(draws)
        batch = self.batch(len(draws), self.layers.n_weights)
        found = []
        for part in batch.parts(len(examples)):
            states = states_at(self.context, examples[part], draws, timestep)
            found.append(self._mean_over_draws(states, output, batch))
        gradients = {
            name: torch.cat([some[name] for some in found]) for name in found[0]
        }
        layers.require_finite(gradients, "image", examples.keys.tolist())
        return gradients

    def _mean_over_draws(
        self, states: States, output: str, batch: batch_size.Batch
    ) -> Gradients:
        n_images = len(states.noisy)
        total: Gradients = {}
        for some in batch.draws(states.n_draws):
            recorded = self.forward(states.at(some))
            cotangent = cotangent_of(output, recorded, states.at(some))
            for name, value in layers.per_image(recorded, cotangent, n_images).items():
                total[name] = total[name] + value if name in total else value
        return {name: value / states.n_draws for name, value in total.items()}

    def forward(self, states: States) -> RecordedForward:
        """Run the network on every image at every draw."""
        n_images = len(states.noisy)
        condition = states.condition.repeat(states.n_draws)
        noisy = states.noisy.flatten(0, 1)
        timesteps = states.timesteps.repeat(n_images).to(noisy.device)
        return layers.forward(self.network, self.layers, noisy, timesteps, condition)

    def batch(self, n_draws: int, width: int) -> batch_size.Batch:
        """Images and draws that gradients are taken of at once, in half the memory.

        Args:
            n_draws: Draws of each image.
            width: Numbers that are kept of each image.
        """
        half = max(1, self.context.max_memory_mb // 2)
        context = dataclasses.replace(self.context, max_memory_mb=half)
        return batch_size.batch(
            context, self.network, context.train, n_draws, width, self.workspace_size
        )

    @functools.cached_property
    def workspace_size(self) -> int:
        """Numbers that a layer is given at most at one draw, patch by patch."""
        one = self.context.train[:1]
        timestep = torch.zeros(1, dtype=torch.int64, device=one.images.device)
        recorded = layers.forward(
            self.network, self.layers, one.images, timestep, one.condition
        )
        return recorded.workspace_size

    def sizes(self, n_draws: int, n_held: int) -> Sizes:
        """Blocks of queries and images whose gradients fit into memory together.

        Args:
            n_draws: Draws of each training image.
            n_held: Gradients that are held for each query, in half the memory.
        """
        number = self.context.train.images.element_size()
        of_query = n_held * self.layers.n_weights * number
        n_queries = max(1, self.context.max_memory_mb * 2**20 // (2 * of_query))
        n_images = self.batch(n_draws, self.layers.n_weights).n_images
        return Sizes(n_queries, n_images)


def scored_networks(context: ScoringContext, pattern: str) -> Iterator[ScoredNetwork]:
    """Every network of a setting, with the layers whose names match a pattern."""
    for number, network in enumerate(context.networks):
        found = layers.find(network, pattern)
        train = Subset(context.train, np.flatnonzero(context.saw[number]))
        yield ScoredNetwork(context, number, network, found, train, scored_images=train)


def mean_over_networks(
    scorer: Callable[[ScoredNetwork], Any],
    context: ScoringContext,
    parts: Iterable[ScoredNetwork],
    sizes: Callable[[ScoredNetwork], Sizes],
    prepare: Callable[[ScoredNetwork], Callable[[slice], ScoreBlock]],
    dampings: Sequence[float] = (),
) -> Float32[np.ndarray, "*dampings queries images"]:
    """Mean score of an image by the networks that rate it; 0 where there is none.

    Args:
        scorer: The scorer of one network; its options decide which table on disk is
            its own.
        context: What is scored.
        parts: The networks, each with the images that it rates.
        sizes: Of the blocks, for one network.
        prepare: Gives, for one network, what prepares a block of queries.
        dampings: At each of which there are scores, if not at the scorer's own.
    """
    leading = (len(dampings),) if dampings else ()
    total = features.table(context, *leading)
    n_scored = np.zeros(len(context.train), dtype=np.int64)
    for part in parts:
        numbers = part.scored_images.numbers
        name = blocks.digest(
            scorer(part), context, part.network, part.seen, numbers, dampings
        )
        shape = (*leading, len(context.queries), len(numbers))
        found = blocks.fill_scores(context, name, shape, sizes(part), prepare(part))
        for first in range(0, len(numbers), MOST_IMAGES):
            some = slice(first, first + MOST_IMAGES)
            total[..., numbers[some]] += found[..., some]
        n_scored[numbers] += 1
    total /= n_scored.clip(min=1)
    return total


def with_unseen(networks: Iterable[ScoredNetwork]) -> Iterator[ScoredNetwork]:
    """Every network with what it saw; and once more with what it did not.

    Apart, so that a scorer that stops at what was seen shares its table.
    """
    for one in networks:
        yield one
        everything = np.arange(len(one.context.train))
        others = np.setdiff1d(everything, one.seen)
        if others.size:
            yield dataclasses.replace(
                one, scored_images=Subset(one.context.train, others)
            )


def scoring_all(networks: Iterable[ScoredNetwork]) -> Iterator[ScoredNetwork]:
    """Every network with all training images at once."""
    for one in networks:
        yield dataclasses.replace(one, scored_images=all_of(one.context.train))


def states_at(
    context: ScoringContext, examples: Examples, draws: Draws, timestep: int | None
) -> States:
    """Every image at every draw, spread over the schedule or at one timestep."""
    if timestep is None:
        return per_example.draw_states(context.objective, examples, draws)
    alone = Draws(1, len(draws), draws.shared_noise, draws.seed)
    timesteps = torch.full((len(draws),), timestep)
    noise = alone.noise(examples, timesteps)
    clean = examples.images[:, None].expand_as(noise)
    return per_example.add_noise(
        context.objective, clean, noise, timesteps, examples.condition
    )


def cotangent_of(
    output: str, recorded: RecordedForward, states: States
) -> Float[Tensor, "draws channels height width"]:
    """The gradient of an output by the prediction."""
    with torch.enable_grad():
        prediction = recorded.prediction.detach().requires_grad_()
        value = per_example.read(output, prediction, states)
        return torch.autograd.grad(value.sum(), prediction)[0]
