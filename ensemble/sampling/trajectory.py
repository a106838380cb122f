"""The trajectory: the one loop from noise to images, and where noise comes from."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int
from torch import Tensor

from ensemble.models.conditioning import UNCONDITIONAL, Condition
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.sampling import arguments, schedulers
from ensemble.sampling.arguments import Generators
from ensemble.sampling.schedulers import Scheduler, step_arguments


@dataclass(frozen=True)
class Sampling:
    """How noise becomes a picture.

    Attributes:
        scheduler: Any diffusers scheduler; it is copied, never changed.
        n_steps: Denoising steps.
        guidance_scale: Strength of classifier-free guidance; 1 is none.
        eta: Share of fresh noise in DDIM, from 0 to 1; other schedulers ignore it.
    """

    scheduler: Scheduler
    n_steps: int
    guidance_scale: float = 1.0
    eta: float = 0.0


def query_generators(seeds: Sequence[int] | np.ndarray) -> list[torch.Generator]:
    """One CPU generator per image.

    An image's noise then follows from its seed alone, not from the batch that it is
    drawn in, nor from the votes.
    """
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def initial_noise(
    model: EnsembleModel, generator: Generators, n_images: int
) -> Float[Tensor, "images channels height width"]:
    """Standard normal noise, drawn from the images' generators.

    Members of half precision start from that of whole ones, rounded.
    """
    drawn = randn_tensor(
        (n_images, *model.image_shape),
        generator=generator,
        device=model.device,
        dtype=torch.promote_types(model.dtype, torch.float32),
    )
    return drawn.to(model.dtype)


def guided(
    predicted: Callable[[Condition], Tensor],
    condition: Condition,
    guidance_scale: float,
) -> Float[Tensor, "images channels height width"]:
    """A prediction under a condition, pushed away from the one under none.

    Guidance is linear in the prediction, so guiding the average is averaging the
    guided members. (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598)

    Args:
        predicted: The prediction under a condition.
        condition: What is asked for.
        guidance_scale: Strength; 1 is none.
    """
    told = predicted(condition)
    if condition.is_unconditional or guidance_scale == 1.0:
        return told
    untold = predicted(condition.null())
    return untold + guidance_scale * (told - untold)


@dataclass(frozen=True, eq=False)
class Moment:
    """Where a trajectory stands before one of its steps.

    Attributes:
        number: Of the step; the first is 0.
        timestep: Of the diffusion, as the scheduler counts it.
        states: The states, as the scheduler steps them.
        scaled: The same, as denoisers are given them.
    """

    number: int
    timestep: Tensor
    states: Tensor
    scaled: Tensor


class Trajectory:
    """The way from noise to images, one sampling step at a time.

    Whoever walks it says at each moment what is predicted there:

        walk = Trajectory(sampling, noise)
        for moment in walk:
            walk.step(predicted(moment.scaled, moment.timestep))
        walk.states

    Args:
        sampling: How to step.
        noise: Standard normal noise that the states start from.
        generator: For samplers that add noise: one for each state.

    Raises:
        BadInput: If the scheduler cannot take so many steps.

    Attributes:
        states: Where the states are now, not clipped.
        n_steps: Steps from noise to images, by the scheduler's own count.
    """

    def __init__(
        self,
        sampling: Sampling,
        noise: Float[Tensor, "states channels height width"],
        generator: Generators = None,
    ) -> None:
        self._scheduler = schedulers.started(
            sampling.scheduler, sampling.n_steps, noise.device
        )
        self._extra = step_arguments(self._scheduler, generator, sampling.eta)
        self._moment: Moment | None = None
        self.states = noise * schedulers.initial_scale(self._scheduler)
        self.n_steps = len(self._scheduler.timesteps)

    def __iter__(self) -> Iterator[Moment]:
        """The moments before each step; `step` must be called at each of them."""
        for number, timestep in enumerate(self._scheduler.timesteps):
            scaled = schedulers.scaled_input(self._scheduler, self.states, timestep)
            self._moment = Moment(number, timestep, self.states, scaled)
            yield self._moment
            if self._moment is not None:
                raise RuntimeError("A trajectory was to go on before it was stepped.")

    def step(
        self, prediction: Tensor, state_of: Int[Tensor, " images"] | None = None
    ) -> None:
        """Step all states by what is predicted at them.

        Args:
            prediction: At each state that is stepped.
            state_of: The state that each of them comes from, where one state becomes
                several; by default each state stays one.

        Raises:
            BadInput: If a state is not finite after the step.
        """
        moment, self._moment = self._moment, None
        assert moment is not None
        states = moment.states if state_of is None else moment.states[state_of]
        self.states = self._scheduler.step(
            prediction, moment.timestep, states, **self._extra
        ).prev_sample
        arguments.require_finite(
            self.states, self._scheduler, moment.number, self.n_steps, moment.timestep
        )


def denoise(
    model: EnsembleModel,
    sampling: Sampling,
    noise: Float[Tensor, "states channels height width"],
    votes: Float[Tensor, "images members"],
    condition: Condition = UNCONDITIONAL,
    generator: Generators = None,
    state_of: Int[Tensor, " images"] | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Walk from noise to images, one sampling step at a time.

    Images that start from the same noise share the first step's member forwards; from
    the second step on each has a state of its own.

    Args:
        model: The members.
        sampling: How to step.
        noise: Standard normal noise of each state.
        votes: Votes of each image.
        condition: What the members are told of each state.
        generator: For samplers that add noise: one per image.
        state_of: The state that each image starts from; by default image i starts from
            state i.

    Yields:
        Step, timestep and the images after that step, not clipped.

    Raises:
        BadInput: If the scheduler cannot take so many steps, or an image is not finite
            after one.
    """
    walk = Trajectory(sampling, noise, generator)
    for moment in walk:
        prediction = guided(
            functools.partial(
                model, moment.scaled, moment.timestep, votes, state_of=state_of
            ),
            condition,
            sampling.guidance_scale,
        )
        walk.step(prediction, state_of)
        if state_of is not None:
            condition = condition[state_of]
            state_of = None
        yield moment.number, moment.timestep, walk.states
