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
from ensemble.scorers.curvature.layers import (
    Gradients,
    Layers,
    Passage,
)
from ensemble.scorers.gradients import (
    batch_size,
    blocks,
    features,
    per_example,
)
from ensemble.scorers.gradients.blocks import (
    Against,
    Sizes,
)
from ensemble.scorers.gradients.per_example import (
    Draws,
    States,
)
from ensemble.scorers.interface import (
    Examples,
    Seen,
    Setting,
    all_of,
)

# Images whose scores are added up at once.
MOST_IMAGES = 4096


@dataclass(frozen=True, eq=False)
class Scored:
    """A network, the layers of it that take part, and the images that it scores.

    Attributes:
        setting: What it is a part of.
        number: Its position among the setting's networks.
        network: The network, in evaluation mode.
        layers: Layers that take part.
        train: The training images that it saw.
        rated: Those that it scores: what it saw, or the others.
    """

    setting: Setting
    number: int
    network: nn.Module
    layers: Layers
    train: Seen
    rated: Seen

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
        self.setting.work.gradients += len(examples) * len(draws)
        batch = self.batch(len(draws), self.layers.n_weights)
        found = []
        for part in batch.parts(len(examples)):
            states = states_at(self.setting, examples[part], draws, timestep)
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
            passage = self.forward(states.at(some))
            pull = pull_of(output, passage, states.at(some))
            for name, value in layers.per_image(passage, pull, n_images).items():
                total[name] = total[name] + value if name in total else value
        return {name: value / states.n_draws for name, value in total.items()}

    def forward(self, states: States) -> Passage:
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
        half = max(1, self.setting.max_memory_mb // 2)
        setting = dataclasses.replace(self.setting, max_memory_mb=half)
        return batch_size.batch(
            setting, self.network, setting.train, n_draws, width, self.room
        )

    @functools.cached_property
    def room(self) -> int:
        """Numbers that a layer is given at most at one draw, patch by patch."""
        one = self.setting.train[:1]
        timestep = torch.zeros(1, dtype=torch.int64, device=one.images.device)
        passage = layers.forward(
            self.network, self.layers, one.images, timestep, one.condition
        )
        return passage.room

    def sizes(self, n_draws: int, n_held: int) -> Sizes:
        """Blocks of queries and images whose gradients fit into memory together.

        Args:
            n_draws: Draws of each training image.
            n_held: Gradients that are held for each query, in half the memory.
        """
        number = self.setting.train.images.element_size()
        of_query = n_held * self.layers.n_weights * number
        n_queries = max(1, self.setting.max_memory_mb * 2**20 // (2 * of_query))
        n_images = self.batch(n_draws, self.layers.n_weights).n_images
        return Sizes(n_queries, n_images)


def scored(setting: Setting, pattern: str) -> Iterator[Scored]:
    """Every network of a setting, with the layers whose names match a pattern."""
    for number, network in enumerate(setting.networks):
        found = layers.find(network, pattern)
        train = Seen(setting.train, np.flatnonzero(setting.saw[number]))
        yield Scored(setting, number, network, found, train, rated=train)


def averaged(
    scorer: Callable[[Scored], Any],
    setting: Setting,
    parts: Iterable[Scored],
    sizes: Callable[[Scored], Sizes],
    prepare: Callable[[Scored], Callable[[slice], Against]],
    dampings: Sequence[float] = (),
) -> Float32[np.ndarray, "*dampings queries images"]:
    """Mean score of an image by the networks that rate it; 0 where there is none.

    Args:
        scorer: The scorer of one network; its options decide which table on disk is
            its own.
        setting: What is scored.
        parts: The networks, each with the images that it rates.
        sizes: Of the blocks, for one network.
        prepare: Gives, for one network, what prepares a block of queries.
        dampings: At each of which there are scores, if not at the scorer's own.
    """
    leading = (len(dampings),) if dampings else ()
    total = features.table(setting, *leading)
    n_scored = np.zeros(len(setting.train), dtype=np.int64)
    for part in parts:
        numbers = part.rated.numbers
        name = blocks.digest(
            scorer(part), setting, part.network, part.seen, numbers, dampings
        )
        shape = (*leading, len(setting.queries), len(numbers))
        found = blocks.filled(setting, name, shape, sizes(part), prepare(part))
        for first in range(0, len(numbers), MOST_IMAGES):
            some = slice(first, first + MOST_IMAGES)
            total[..., numbers[some]] += found[..., some]
        n_scored[numbers] += 1
    total /= n_scored.clip(min=1)
    return total


def with_unseen(networks: Iterable[Scored]) -> Iterator[Scored]:
    """Every network with what it saw; and once more with what it did not.

    Apart, so that a scorer that stops at what was seen shares its table.
    """
    for one in networks:
        yield one
        everything = np.arange(len(one.setting.train))
        others = np.setdiff1d(everything, one.seen)
        if others.size:
            yield dataclasses.replace(one, rated=Seen(one.setting.train, others))


def rating_all(networks: Iterable[Scored]) -> Iterator[Scored]:
    """Every network with all training images at once."""
    for one in networks:
        yield dataclasses.replace(one, rated=all_of(one.setting.train))


def states_at(
    setting: Setting, examples: Examples, draws: Draws, timestep: int | None
) -> States:
    """Every image at every draw, spread over the schedule or at one timestep."""
    if timestep is None:
        return per_example.drawn_states(setting.objective, examples, draws)
    alone = Draws(1, len(draws), draws.shared_noise, draws.seed)
    timesteps = torch.full((len(draws),), timestep)
    noise = alone.noise(examples, timesteps)
    clean = examples.images[:, None].expand_as(noise)
    return per_example.noised(
        setting.objective, clean, noise, timesteps, examples.condition
    )


def pull_of(
    output: str, passage: Passage, states: States
) -> Float[Tensor, "draws channels height width"]:
    """The gradient of an output by the prediction."""
    with torch.enable_grad():
        prediction = passage.prediction.detach().requires_grad_()
        value = per_example.read(output, prediction, states)
        return torch.autograd.grad(value.sum(), prediction)[0]
