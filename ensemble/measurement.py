"""What is read off a picture, or off the denoiser at a picture.

A measurement of pictures is a plain function (images) -> values. A measurement of the
denoiser also looks at the members; with votes v it is a quadratic form vᵀRv, so one
members x members matrix per query answers every ablation exactly. All stand in one
table at the bottom: a line there makes a measurement known everywhere.

Before: model.py, queries.py. After: ablation.py, influence.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from ensemble import luck
from ensemble.model import EnsembleModel
from splits.errors import BadInput

Images = Float[Tensor, "images channels height width"]
Values = Float[Tensor, " images"]


@dataclass(frozen=True)
class Measurement:
    """One number per picture.

    Attributes:
        sentence: What the number says, for people.
        of_pictures: Reads it off pictures.
        of_denoiser: Or reads the members x members matrix R of each query, so that
            its value under votes v is vᵀRv.
    """

    sentence: str
    of_pictures: Callable[[Images], Values] | None = None
    of_denoiser: (
        Callable[
            [EnsembleModel, DDPMScheduler, Images, Int[Tensor, " images"] | None],
            Float[Tensor, "images members members"],
        ]
        | None
    ) = None


def displacement(full: Images, ablated: Images) -> Values:
    """Root mean squared difference of pixels; pixels run from -1 to 1."""
    return (full - ablated).square().mean(dim=(1, 2, 3)).sqrt()


def brightness(images: Images) -> Values:
    """Mean pixel, after clipping to [-1, 1]."""
    return images.clamp(-1, 1).mean(dim=(1, 2, 3))


def contrast(images: Images) -> Values:
    """Standard deviation of the pixels, after clipping to [-1, 1]."""
    return images.clamp(-1, 1).std(dim=(1, 2, 3), correction=0)


def denoising_loss_form(
    model: EnsembleModel,
    schedule: DDPMScheduler,
    images: Images,
    condition: Int[Tensor, " images"] | None,
    n_draws: int = 32,
) -> Float[Tensor, "images members members"]:
    """The ensemble's denoising loss at a picture, as a quadratic form of the votes.

    With r_m = ε_m(x_t) - ε the residual of member m, and votes that sum to one,

        loss(v) = mean over draws |sum over m of v_m r_m|² / pixels = vᵀRv

    Timesteps are spread evenly over the schedule; noise is keyed by the draw alone, so
    that all queries and all ablations are measured with the same draws.

    Args:
        model: The members.
        schedule: The noise that they were trained on.
        images: The pictures to measure at.
        condition: Their labels, for conditional members.
        n_draws: (timestep, noise) pairs.
    """
    n_timesteps = schedule.config["num_train_timesteps"]
    levels = (torch.arange(n_draws) + 0.5) * n_timesteps / n_draws
    form = torch.zeros(len(images), model.n_members, model.n_members)
    for draw, level in enumerate(levels.long()):
        keyed = luck.generator(0, "denoising loss", draw)
        noise = torch.randn(images.shape[1:], generator=keyed).to(images)
        timestep = level.to(images.device).expand(len(images))
        noise = noise.expand_as(images)
        noisy = schedule.add_noise(images, noise, timestep)  # type: ignore[arg-type]
        wanted = noise
        if schedule.config["prediction_type"] == "v_prediction":
            wanted = schedule.get_velocity(images, noise, timestep)  # type: ignore[arg-type]
        with torch.no_grad():
            residual = torch.stack(
                [
                    model.predict_by(member, noisy, timestep, condition) - wanted
                    for member in range(model.n_members)
                ],
                dim=1,
            ).flatten(2)
        form += (residual @ residual.mT).cpu().float() / residual.shape[2]
    return form / n_draws


def chosen_measurements(names: Sequence[str] | None) -> dict[str, Measurement]:
    """Measurements by name; all of them if None.

    Raises:
        BadInput: If one is unknown.
    """
    if names is None:
        return dict(MEASUREMENTS)
    for name in names:
        if name not in MEASUREMENTS:
            raise BadInput(
                f"There is no measurement {name!r}; known: {', '.join(MEASUREMENTS)}."
            )
    return {name: MEASUREMENTS[name] for name in names}


MEASUREMENTS: dict[str, Measurement] = {
    "brightness": Measurement(
        "mean pixel of the picture, from -1 to 1", of_pictures=brightness
    ),
    "contrast": Measurement(
        "standard deviation of the picture's pixels", of_pictures=contrast
    ),
    "denoising_loss": Measurement(
        "how badly the members denoise the picture; less means more familiar",
        of_denoiser=denoising_loss_form,
    ),
}
