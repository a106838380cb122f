"""What is read off a picture, off a pair of pictures, or off the denoiser at a picture.

A measurement of pictures is a plain function (images) -> values. One of pairs says how
alike the full and the ablated picture are. One of the denoiser also looks at the
members; with votes v it is a quadratic form vᵀRv, so one members x members matrix per
query answers every ablation exactly. All stand in the tables at the bottom: a line
there makes a measurement known everywhere.

A classifier, or a feature network, that was fitted on the training images is upstream
of the reading, not of the pictures: ablated pictures stay exactly what they were, but
the number read off them depends on all that data.
"""

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ensemble.data import decoding
from ensemble.models.conditioning import Condition
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.models.objective import Objective
from ensemble.provenance.plan import Plan
from ensemble.run import files
from ensemble.run.config import DataConfig
from ensemble.system import seeding
from splits.errors import BadInput

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


def chosen_measurements(
    names: Sequence[str] | None, plan: Plan
) -> dict[str, Measurement]:
    """Measurements by name; all that need no argument if None.

    A name is one of `MEASUREMENTS`; or one of `WITH_ARGUMENT`, a colon and what it
    asks for; or MODULE:FUNCTION, a function (images) -> values of the user's own.

    Args:
        names: Their names.
        plan: The run's sources and labels.

    Raises:
        BadInput: If one is unknown, or does not fit the run.
    """
    if names is None:
        return dict(MEASUREMENTS)
    return {name: _named(name, plan) for name in names}


def _named(name: str, plan: Plan) -> Measurement:
    if name in MEASUREMENTS:
        return MEASUREMENTS[name]
    kind, colon, argument = name.partition(":")
    if not colon or not argument:
        known = [*MEASUREMENTS, *(f"{one}:..." for one in WITH_ARGUMENT)]
        raise BadInput(
            f"There is no measurement {name!r}; known: {', '.join(known)}, and "
            "MODULE:FUNCTION for a function (images) -> values of your own."
        )
    if kind in WITH_ARGUMENT:
        return WITH_ARGUMENT[kind](argument, plan)
    return Measurement(
        f"what {name} reads off the picture",
        of_pictures=_imported(name, one_value=True),
        identity=_source_digest(name),
    )


def _similarity_to(argument: str, plan: Plan) -> Measurement:
    """Similarity to the nearest image of a source, or to the image in a file."""
    in_a_file, known = os.path.isfile(argument), plan.called.knows(argument)
    if in_a_file and known:
        raise BadInput(
            f"similarity:{argument} is a source, and also a file that is there. Write "
            f"similarity:./{argument} for the file, or similarity:number: and "
            "the source's number."
        )
    if in_a_file:
        return similarity(_pictured(Path(argument), plan)[None], argument)
    if not known and Path(argument).suffix:
        raise BadInput(
            f"similarity:{argument} names no image: there is no such file, and no source "
            "is called so. Give a PNG, JPEG or WebP file, or a source's number or name. "
            f"{plan.called.advice(argument)}"
        )
    sources = plan.called.chosen(argument, "similarity")
    images = torch.tensor(plan.data.images[np.isin(plan.source_of, sources)])
    return similarity(images, plan.called.these(sources))


def _pictured(path: Path, plan: Plan) -> Float[Tensor, "channels height width"]:
    """The image in a file, cut and scaled to the size of the run's."""
    n_channels, side, _ = plan.data.images.shape[1:]
    wanted = DataConfig(size=side, channels=n_channels)
    return torch.from_numpy(decoding.decode(path.read_bytes(), str(path), wanted))


def _log_odds_of(argument: str, plan: Plan) -> Measurement:
    """Log-odds of a label by a classifier fitted to the run's own images.

    A logistic regression on pixels, by a solver without randomness. It saw all images,
    so the reading depends on them all; the pictures it reads do not.
    """
    names, labels = plan.data.label_names, plan.data.labels
    if labels is None or len(names) < 2:
        raise BadInput(
            f"The training images have {len(names)} labels: log-odds need two. Set "
            "data.label to a column that has more."
        )
    if argument not in names:
        raise BadInput(
            f"There is no label {argument!r}; this run has {', '.join(names)}."
        )
    from sklearn.linear_model import LogisticRegression

    there = ~np.isin(plan.source_of, plan.removed)
    known = np.unique(labels[there]).tolist()
    if names.index(argument) not in known or len(known) < 2:
        raise BadInput(
            f"Of the labels, images have only "
            f"{', '.join(names[label] for label in known)}: log-odds of {argument!r} "
            "need an image of it and one of another. Choose another label."
        )
    flat = np.asarray(plan.data.images).reshape(len(labels), -1)
    fitted = LogisticRegression(max_iter=1000).fit(flat[there], labels[there])
    weights, offsets = fitted.coef_, fitted.intercept_
    if len(known) == 2:  # scikit-learn keeps the second label's against the first
        weights = np.concatenate([np.zeros_like(weights), weights])
        offsets = np.concatenate([np.zeros_like(offsets), offsets])
    return Measurement(
        f"log-odds of label {argument}, by a logistic regression on the pixels of the "
        "training images",
        of_pictures=log_odds(
            torch.from_numpy(weights),
            torch.from_numpy(offsets),
            known.index(names.index(argument)),
        ),
    )


def _features_by(argument: str, plan: Plan) -> Measurement:
    """Likeness in the space of a user's features."""
    del plan
    features = _imported(argument, one_value=False)
    identity = _source_digest(argument)
    return dataclasses.replace(feature_likeness(features), identity=identity)


def _source_digest(name: str) -> str:
    """The sha256 of the module that a user's function is from, if it is a text."""
    module, _, _ = name.partition(":")
    path = getattr(importlib.import_module(module), "__file__", None)
    return files.sha256(Path(path)) if path else ""


def _imported(name: str, one_value: bool) -> Callable[[Images], Any]:
    """A user's function of images, whose every answer is checked for its shape."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function or "", None)
    except ImportError as error:
        raise BadInput(
            f"{name!r} cannot be imported ({error}). Write MODULE:FUNCTION, with the "
            "module's folder on PYTHONPATH."
        ) from None
    if not callable(found):
        raise BadInput(
            f"Module {module!r} has no function {function!r}. Write MODULE:FUNCTION."
        )

    def measured(images: Images) -> Any:
        values = found(images)
        shape = tuple(values.shape) if torch.is_tensor(values) else ()
        if shape[:1] != (len(images),) or one_value != (len(shape) == 1):
            wanted = "one value" if one_value else "a row of features"
            raise BadInput(
                f"{name} gives {type(values).__name__} {shape} for {len(images)} "
                f"images; a tensor with {wanted} for each image is wanted."
            )
        return values

    return measured


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

# Named like similarity:17 and made for the run: (what follows the colon, plan).
WITH_ARGUMENT: dict[str, Callable[[str, Plan], Measurement]] = {
    "similarity": _similarity_to,  # a source's number, or an image file
    "logit": _log_odds_of,  # a label
    "features": _features_by,  # MODULE:FUNCTION, (images) -> (images, features)
}
