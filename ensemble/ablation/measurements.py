"""What is read off a picture, off a pair of pictures, or off the denoiser at a picture.

A measurement of pictures is a plain function (images) -> values. One of pairs says how
alike the full and the ablated picture are. One of the denoiser also looks at the
members; with votes v it is a quadratic form vᵀRv, so one members x members matrix per
query answers every ablation exactly. All stand in the table at the bottom: a line
there makes a measurement known everywhere. measurement_names.py makes those that take an
argument, such as the source to be like.

A classifier, or a feature network, that was fitted on the training images is upstream
of the reading, not of the pictures: ablated pictures stay exactly what they were, but
the number read off them depends on all that data.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ensemble.models.conditioning import Condition
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.models.objective import Objective
from ensemble.run import files
from ensemble.system import seeding

Images = Float[Tensor, "images channels height width"]
Values = Float[Tensor, " images"]


@dataclass(frozen=True)
class Measurement:
    """One number per picture.

    Attributes:
        sentence: What the number says, for people.
        of_pictures: Reads it off pictures, differentiably if the method `adjoint` is to
            follow it. They are around [-1, 1], not clipped.
        of_pair: Or says how alike each full and ablated picture are, at its largest for
            equal ones; so the influence, which is its value for the full picture and
            itself minus that for the pair, is the likeness that was lost.
        of_denoiser: Or reads the members x members matrix R of each query, so that
            its value under votes v is vᵀRv.
        identity: The sha256 of what it looks at besides the pictures: of images, or of
            a function's source; empty where its name says all.
    """

    sentence: str
    of_pictures: Callable[[Images], Values] | None = None
    of_denoiser: (
        Callable[
            [EnsembleModel, Objective, Images, Condition],
            Float[Tensor, "images members members"],
        ]
        | None
    ) = None
    of_pair: Callable[[Images, Images], Values] | None = None
    identity: str = ""

    @property
    def reading(self) -> Callable[[Images, Images], Values] | None:
        """(full, ablated) -> values at the ablated pictures; None: not of pictures."""
        if self.of_pictures is None:
            return self.of_pair
        measure = self.of_pictures
        return lambda full, ablated: measure(ablated)


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
    objective: Objective,
    images: Images,
    condition: Condition,
    n_draws: int = 32,
) -> Float[Tensor, "images members members"]:
    """The ensemble's denoising loss at a picture, as a quadratic form of the votes.

    With r_m = ε_m(x_t) - ε the residual of member m, and votes that sum to one,

        loss(v) = mean over draws |sum over m of v_m r_m|² / pixels = vᵀRv

    Timesteps are spread evenly over the schedule; noise is keyed by the draw alone, so
    that all queries and all ablations are measured with the same draws.

    Args:
        model: The members.
        objective: What they were trained to predict.
        images: The pictures to measure at.
        condition: Their labels, for conditional members.
        n_draws: (timestep, noise) pairs.
    """

    def at_draw(draw: int, time: Int[Tensor, ""]) -> Float[Tensor, "images m m"]:
        keyed = seeding.generator(0, "denoising loss", draw)
        noise = torch.randn(images.shape[1:], generator=keyed).to(images)
        times = time.to(images.device).expand(len(images))
        noise = noise.expand_as(images)
        noisy = objective.perturb(images, noise, times)
        target = objective.target(images, noise, times)
        with torch.no_grad():
            residual = torch.stack(
                [
                    model.predict_by(member, noisy, times, condition) - target
                    for member in range(model.n_members)
                ],
                dim=1,
            ).flatten(2)
        return (residual @ residual.mT).cpu().float() / residual.shape[2]

    # In order, so that sums are the same however many run at the same time.
    with ThreadPoolExecutor(model.side_by_side) as pool:
        forms = pool.map(at_draw, range(n_draws), objective.even_times(n_draws))
        return functools.reduce(torch.add, forms) / n_draws


def ssim(first: Images, second: Images) -> Values:
    """Structural similarity, 1 for equal pictures, after clipping to [-1, 1].

    With means m, variances s² and covariance c under a Gaussian window,

        (2 m₁ m₂ + C₁) (2 c + C₂) / ((m₁² + m₂² + C₁) (s₁² + s₂² + C₂))

    averaged over all positions where the window fits, and over channels; C₁ = (0.01 L)²,
    C₂ = (0.03 L)² and the range of pixels L = 2. The window has 11 x 11 pixels and
    standard deviation 1.5; where the picture is smaller, the largest odd side that fits
    and a standard deviation smaller in proportion (8 x 8 pixels: 7 and 0.95).
    (Wang, Bovik, Sheikh & Simoncelli 2004, doi 10.1109/TIP.2003.819861, equation 13)
    """
    first, second = first.clamp(-1, 1), second.clamp(-1, 1)
    window = _gaussian_window(min(first.shape[2:])).to(first)

    def smooth(images: Images) -> Float[Tensor, "images channels rows columns"]:
        planes = images.flatten(0, 1)[:, None]
        found = functional.conv2d(planes, window[None, None])
        return found[:, 0].unflatten(0, images.shape[:2])

    mean_1, mean_2 = smooth(first), smooth(second)
    spread_1 = smooth(first * first) - mean_1.square()
    spread_2 = smooth(second * second) - mean_2.square()
    together = smooth(first * second) - mean_1 * mean_2
    small, smaller = 0.06**2, 0.02**2
    likeness = (2 * mean_1 * mean_2 + smaller) * (2 * together + small)
    likeness = likeness / (mean_1.square() + mean_2.square() + smaller)
    return (likeness / (spread_1 + spread_2 + small)).mean(dim=(1, 2, 3))


def _gaussian_window(shorter_side: int) -> Float[Tensor, "side side"]:
    side = min(11, shorter_side - (shorter_side + 1) % 2)
    offsets = torch.arange(side, dtype=torch.float64) - side // 2
    weights = torch.exp(-0.5 * (offsets / (1.5 * side / 11)).square())
    weights = weights / weights.sum()
    return weights[:, None] * weights


def similarity(targets: Images, whose: str) -> Measurement:
    """Likeness to the nearest of some given pictures: the correlation of their pixels.

    That is the cosine between the pixels of the two pictures, each minus its own mean,
    after clipping to [-1, 1]: 1 for equal pictures, -1 for negatives.
    """

    def centred(images: Images) -> Float[Tensor, "images pixels"]:
        flat = images.clamp(-1, 1).flatten(1)
        return functional.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)

    def nearest(images: Images) -> Values:
        return (centred(images) @ centred(targets.to(images)).T).amax(dim=1)

    return Measurement(
        "correlation of the picture's pixels with those of the nearest image of "
        f"{whose}, from -1 to 1",
        of_pictures=nearest,
        identity=files.array_digest(targets.numpy()),
    )


def log_odds(
    weights: Float[Tensor, "classes pixels"],
    offsets: Float[Tensor, " classes"],
    label: int,
) -> Callable[[Images], Values]:
    """Log-odds of a label against all others, by a linear classifier of clipped pixels.

    With z = W x + b: z[label] - log of the sum over other labels of exp z[other].
    """

    def reading(images: Images) -> Values:
        flat = images.clamp(-1, 1).flatten(1)
        values = flat @ weights.to(images).T + offsets.to(images)
        own = torch.arange(len(offsets), device=images.device) == label
        others = values.masked_fill(own, -torch.inf)
        return values[:, label] - others.logsumexp(dim=1)

    return reading


def feature_likeness(
    features: Callable[[Images], Float[Tensor, "images ..."]],
) -> Measurement:
    """Minus the root mean squared difference of some features of the two pictures.

    Its influence is the displacement in the space of these features.
    """

    def likeness(full: Images, ablated: Images) -> Values:
        difference = features(full) - features(ablated)
        return -difference.flatten(1).square().mean(dim=1).sqrt()

    return Measurement(
        "minus the distance to the full picture, as the root mean squared difference "
        "of features",
        of_pair=likeness,
    )


MEASUREMENTS: dict[str, Measurement] = {
    "brightness": Measurement(
        "mean pixel of the picture, from -1 to 1", of_pictures=brightness
    ),
    "contrast": Measurement(
        "standard deviation of the picture's pixels", of_pictures=contrast
    ),
    "ssim": Measurement(
        "structural similarity to the full picture, 1 for the same", of_pair=ssim
    ),
    "denoising_loss": Measurement(
        "how badly the members denoise the picture; less means more familiar",
        of_denoiser=denoising_loss_form,
    ),
}
