"""Schedulers: how a sampler steps from noise to an image."""

import copy
import inspect
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
)
from torch import Tensor

from ensemble.models.objective import objective_of
from ensemble.run.config import ModelConfig, SamplingConfig
from ensemble.sampling.arguments import Generators
from splits.errors import BadInput

# diffusers' SchedulerMixin declares none of the methods that every scheduler has.
Scheduler = Any
SCHEDULERS = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}


def sampler(config: ModelConfig, sampling: SamplingConfig) -> Scheduler:
    """The scheduler that generates; it never clips, so that derivatives are exact."""
    noise = objective_of(config).scheduler_config
    return SCHEDULERS[sampling.scheduler].from_config(noise)


def set_steps(scheduler: Scheduler, n_steps: int, device: torch.device) -> None:
    """Tell a scheduler how many steps it has.

    Raises:
        BadInput: If it cannot take so many.
    """
    try:
        scheduler.set_timesteps(n_steps, device=device)
    except (
        ValueError,
        IndexError,
        TypeError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise BadInput(
            f"{type(scheduler).__name__} cannot take {n_steps} steps: {error}. Choose "
            "another num_inference_steps, or another scheduler."
        ) from None


def step_arguments(
    scheduler: Scheduler, generator: Generators, eta: float
) -> dict[str, Any]:
    """What this scheduler's step takes of what every step might."""
    known = inspect.signature(scheduler.step).parameters
    offered = {"generator": generator, "eta": eta}
    return {name: value for name, value in offered.items() if name in known}


def started(scheduler: Scheduler, n_steps: int, device: torch.device) -> Scheduler:
    """A copy of a scheduler that stands before the first of its steps.

    Raises:
        BadInput: If it cannot take so many.
    """
    scheduler = copy.deepcopy(scheduler)
    set_steps(scheduler, n_steps, device)
    return scheduler


def initial_scale(scheduler: Scheduler) -> Any:
    """What standard normal noise is multiplied by before the first step."""
    # Flow matching schedulers start from the noise itself, and so have no such number.
    return getattr(scheduler, "init_noise_sigma", 1.0)


def scaled_input(scheduler: Scheduler, states: Tensor, timestep: Tensor) -> Tensor:
    """The states as a denoiser is given them."""
    if hasattr(scheduler, "scale_model_input"):
        return scheduler.scale_model_input(states, timestep)
    return states
