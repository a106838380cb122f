"""Training objectives: the noisy state and the target of a denoiser.

An objective defines how a clean image becomes a noisy one, what the denoiser should
predict, and which clean image a prediction implies. Training, measurements and scorers
all use it, so a new objective is one class here and one line of `OBJECTIVES`.
"""

import abc
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Int, Int64
from torch import Tensor

from ensemble.run.config import ModelConfig
from splits.errors import BadInput

Images = Float[Tensor, "images channels height width"]
Times = Int[Tensor, " images"]

BETA_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


class Objective(abc.ABC):
    """What a denoiser learns to predict, and from which noisy state.

    Attributes:
        name: What configs call it: `model.prediction_type`.
        n_times: Noise levels that a denoiser knows.
        first_time: The time of the lowest of them, as a denoiser is given it; the
            others follow in steps of one.
        has_bound: Whether some weights make its loss a variational bound.
    """

    name: ClassVar[str]
    first_time: ClassVar[int] = 0
    has_bound: ClassVar[bool] = True
    n_times: int

    @abc.abstractmethod
    def __init__(self, config: ModelConfig) -> None:
        """The objective that the `model` section of a config asks for."""

    @abc.abstractmethod
    def perturb(self, clean: Images, noise: Images, times: Times) -> Images:
        """Noisy images, each at its time.

        Args:
            clean: Images, around [-1, 1].
            noise: Standard normal noise.
            times: One for each image.
        """

    @abc.abstractmethod
    def target(self, clean: Images, noise: Images, times: Times) -> Images:
        """What a denoiser should predict at the noisy images of `perturb`."""

    @abc.abstractmethod
    def clean_estimate(self, noisy: Images, prediction: Images, time: Any) -> Images:
        """The clean images that predictions speak of.

        Args:
            noisy: What the denoiser was given.
            prediction: What it made of that.
            time: One time for all of them, as a tensor without axes.
        """

    @abc.abstractmethod
    def elbo_weight(self, times: Int64[Tensor, " times"]) -> Float[Tensor, " times"]:
        """How the variational bound weighs the squared error at each time.

        Raises:
            BadInput: If the objective is no variational bound at any weight.
        """

    @abc.abstractmethod
    def identity(self) -> dict[str, str | Tensor]:
        """What decides the noisy states and targets, for the keys of caches."""

    @property
    @abc.abstractmethod
    def scheduler_config(self) -> dict[str, Any]:
        """What a diffusers scheduler needs to know to sample for this objective."""

    def sample_times(self, n: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
        """Times to train at, drawn uniformly from all of them."""
        return torch.randint(self.n_times, (n,), generator=generator) + self.first_time

    def even_times(self, n: int) -> Int64[Tensor, " n"]:
        """Times spread evenly over all of them, in rising order."""
        levels = (torch.arange(n) + 0.5) * self.n_times / n
        return levels.long() + self.first_time

    def shifted_times(self, n: int, shift: Float[Tensor, ""]) -> Int64[Tensor, " n"]:
        """Times spread evenly, all moved by a share of the distance between two.

        Args:
            n: How many.
            shift: In [0, 1); drawn uniformly, each time is uniform on its own stretch.
        """
        levels = (torch.arange(n) + shift) / n
        rounded = (levels * self.n_times).long().clamp(max=self.n_times - 1)
        return rounded + self.first_time


class _Diffusion(Objective):
    """Diffusion with a noise schedule: x_t = sqrt(ᾱ_t) x + sqrt(1 - ᾱ_t) ε.

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 4.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.schedule = DDPMScheduler(
            num_train_timesteps=config.n_timesteps,
            beta_schedule=BETA_SCHEDULES[config.schedule],  # type: ignore[arg-type]
            prediction_type=self.name,  # type: ignore[arg-type]
            clip_sample=False,
        )
        self.n_times = config.n_timesteps

    def perturb(self, clean: Images, noise: Images, times: Times) -> Images:
        """Noisy images, each at its time."""
        return self.schedule.add_noise(clean, noise, times)  # type: ignore[arg-type]

    def identity(self) -> dict[str, str | Tensor]:
        """What decides the noisy states and targets, for the keys of caches."""
        return {"schedule": self.schedule.alphas_cumprod, "prediction": self.name}

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """What a diffusers scheduler needs to know."""
        return self.schedule.config

    def _kept(self, times: Any) -> Tensor:
        """ᾱ_t: the share of the signal's variance that is left."""
        return self.schedule.alphas_cumprod.to(times.device)[times]


class Epsilon(_Diffusion):
    """The denoiser predicts the noise ε (Ho et al. 2020, eq. 14)."""

    name = "epsilon"

    def target(self, clean: Images, noise: Images, times: Times) -> Images:
        """What a denoiser should predict."""
        return noise

    def clean_estimate(self, noisy: Images, prediction: Images, time: Any) -> Images:
        """The clean images that predictions speak of."""
        kept = self._kept(time).to(noisy)
        return (noisy - (1 - kept).sqrt() * prediction) / kept.sqrt()

    def elbo_weight(self, times: Int64[Tensor, " times"]) -> Float[Tensor, " times"]:
        """β_t / (2 α_t (1 - ᾱ_t)) with α_t = 1 - β_t (Ho et al. 2020, eq. 12)."""
        beta = self.schedule.betas.to(times.device)[times]
        return beta / (2 * (1 - beta) * (1 - self._kept(times)))


class Velocity(_Diffusion):
    """The denoiser predicts v = sqrt(ᾱ_t) ε - sqrt(1 - ᾱ_t) x.

    Source: Salimans and Ho 2022 (arXiv 2202.00512), appendix D.
    """

    name = "v_prediction"

    def target(self, clean: Images, noise: Images, times: Times) -> Images:
        """What a denoiser should predict."""
        return self.schedule.get_velocity(clean, noise, times)  # type: ignore[arg-type]

    def clean_estimate(self, noisy: Images, prediction: Images, time: Any) -> Images:
        """The clean images that predictions speak of."""
        kept = self._kept(time).to(noisy)
        return kept.sqrt() * noisy - (1 - kept).sqrt() * prediction

    def elbo_weight(self, times: Int64[Tensor, " times"]) -> Float[Tensor, " times"]:
        """The weight of noise times ᾱ_t: an error of v is one of ε divided by ᾱ_t."""
        kept = self._kept(times)
        beta = self.schedule.betas.to(times.device)[times]
        return beta / (2 * (1 - beta) * (1 - kept)) * kept


class RectifiedFlow(Objective):
    """The denoiser predicts ε - x on the straight line x_t = (1 - s) x + s ε.

    A denoiser is told the time s n, from 1 to n, as diffusers' flow matching schedulers
    tell it. Source: Liu et al. 2023 (arXiv 2209.03003), eq. 1.
    """

    name = "flow"
    first_time = 1
    has_bound = False

    def __init__(self, config: ModelConfig) -> None:
        self.n_times = config.n_timesteps

    def perturb(self, clean: Images, noise: Images, times: Times) -> Images:
        """Noisy images, each at its time."""
        share = self._share(times, clean)
        return (1 - share) * clean + share * noise

    def target(self, clean: Images, noise: Images, times: Times) -> Images:
        """What a denoiser should predict."""
        return noise - clean

    def clean_estimate(self, noisy: Images, prediction: Images, time: Any) -> Images:
        """The clean images that predictions speak of."""
        return noisy - self._share(time, noisy) * prediction

    def elbo_weight(self, times: Int64[Tensor, " times"]) -> Float[Tensor, " times"]:
        """There is none: a straight line's loss is not weighed by any bound."""
        raise BadInput(
            "The objective flow has no variational bound to weigh losses by. Use an "
            "output that is not weighted, such as `loss`."
        )

    def identity(self) -> dict[str, str | Tensor]:
        """What decides the noisy states and targets, for the keys of caches."""
        return {"schedule": f"straight, {self.n_times} times", "prediction": self.name}

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """What a diffusers scheduler needs to know."""
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.n_times)
        return dict(scheduler.config)

    def _share(self, times: Any, like: Images) -> Tensor:
        """How much of each image is noise."""
        share = times.to(like) / self.n_times
        return share if share.ndim == 0 else share[:, None, None, None]


OBJECTIVES: dict[str, type[Objective]] = {
    one.name: one for one in (Epsilon, Velocity, RectifiedFlow)
}


def objective_of(config: ModelConfig) -> Objective:
    """The objective that members of a run are trained for.

    Args:
        config: The `model` section of the run's config.
    """
    return OBJECTIVES[config.prediction_type](config)
