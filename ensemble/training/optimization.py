"""How a member's weights are changed: the loss, the learning rate and the average."""

import math

import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from jaxtyping import Float, Int
from torch import Tensor

from ensemble.models.conditioning import Condition
from ensemble.models.denoisers import predict
from ensemble.models.objective import Objective
from ensemble.run.config import TrainingConfig


def denoising_loss(
    network: torch.nn.Module,
    objective: Objective,
    clean: Float[Tensor, "batch channels height width"],
    timestep: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch channels height width"],
    condition: Condition,
    accelerator: Accelerator,
) -> Float[Tensor, ""]:
    """Mean squared error of the prediction (Ho et al. 2020, eq. 14)."""
    noisy = objective.perturb(clean, noise, timestep)
    with accelerator.autocast():
        prediction = predict(network, noisy, timestep, condition)
    target = objective.target(clean, noise, timestep)
    return torch.nn.functional.mse_loss(prediction.float(), target)


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """Linear warm-up, then constant or half a cosine down to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    left = max(1, settings.steps - settings.warmup_steps)
    done = (step - settings.warmup_steps) / left
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def average(network: UNet2DModel, settings: TrainingConfig) -> EMAModel | None:
    """The running average of a network's weights; None if the config asks for none."""
    if settings.ema_decay is None:
        return None
    return EMAModel(network.parameters(), decay=settings.ema_decay, foreach=True)
