"""Gradients of single images, averaged over noise draws, in one ordinary backward pass.

A draw is a timestep and a noise to add; its noise is keyed by (image, timestep, draw),
so that no gradient depends on the batch that it is taken in. An output is the scalar
that is differentiated: the loss, or something else that a network's prediction says.

Images in a batch do not see each other, so one backward pass from the sum of all their
outputs brings every layer what belongs to each image. From that and from what the layer
was given follows the gradient by its weights, image by image; it is added to the
features (projection.py) at once and forgotten. No whole gradient is ever held.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ensemble.models.conditioning import Condition
from ensemble.models.denoisers import predict
from ensemble.models.objective import Objective
from ensemble.scorers.gradients import trainable
from ensemble.scorers.gradients.layer_rules import LAYERS, supported_layers
from ensemble.scorers.gradients.projection import Projection
from ensemble.scorers.interface import Examples
from ensemble.system import seeding
from splits.errors import BadInput

Predicted = Float[Tensor, "states channels height width"]
Values = Float[Tensor, " states"]


@dataclass(frozen=True)
class Draws:
    """Timesteps and noise at which an image is looked at.

    Attributes:
        n_timesteps: Spread evenly over the noise schedule.
        n_noises: Noise draws at each timestep.
        shared_noise: Add the same noise to all images, as if they had one key.
        seed: Draws the noise.
    """

    n_timesteps: int = 32
    n_noises: int = 1
    shared_noise: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_timesteps", "n_noises"):
            if getattr(self, name) < 1:
                raise BadInput(
                    f"{name} is {getattr(self, name)}; at least 1 is needed."
                )

    def __len__(self) -> int:
        return self.n_timesteps * self.n_noises

    def timesteps(self, objective: Objective) -> Int64[Tensor, " draws"]:
        """Timestep of each draw.

        Raises:
            BadInput: If the objective knows fewer.
        """
        n_known = objective.n_times
        if self.n_timesteps > n_known:
            raise BadInput(
                f"A scorer looks at {self.n_timesteps} noise levels, but this model has "
                f"only {n_known}. Train with model.n_timesteps of at least "
                f"{self.n_timesteps}; in Python, give the scorer Draws(n_timesteps="
                f"{n_known}) and a larger n_noises."
            )
        return objective.even_times(self.n_timesteps).repeat_interleave(self.n_noises)

    def noise(
        self, examples: Examples, timesteps: Int64[Tensor, " draws"]
    ) -> Float[Tensor, "images draws channels height width"]:
        """Standard normal noise of each image at each draw."""
        keys = [0] if self.shared_noise else examples.keys.tolist()
        drawn = [
            [
                torch.randn(
                    examples.images.shape[1:],
                    generator=seeding.generator(
                        self.seed, "scorer noise", key, timestep, draw % self.n_noises
                    ),
                )
                for draw, timestep in enumerate(timesteps.tolist())
            ]
            for key in keys
        ]
        noise = torch.stack([torch.stack(of_image) for of_image in drawn])
        return noise.expand(len(examples), *noise.shape[1:]).to(examples.images)


@dataclass(frozen=True, eq=False)
class States:
    """Images with noise added, and what a network should make of them.

    Attributes:
        noisy: Each image at each draw.
        target: What a network should predict.
        timesteps: Of each draw.
        weights: What the variational bound weighs the loss at each draw with; None if
            the objective has no bound.
        condition: What the network is told of each image.
    """

    noisy: Float[Tensor, "images draws channels height width"]
    target: Float[Tensor, "images draws channels height width"]
    timesteps: Int64[Tensor, " draws"]
    weights: Float[Tensor, " draws"] | None
    condition: Condition

    @property
    def n_draws(self) -> int:
        """Draws of each image."""
        return len(self.timesteps)

    def at(self, draws: slice) -> "States":
        """The same images at some of their draws."""
        return States(
            self.noisy[:, draws],
            self.target[:, draws],
            self.timesteps[draws],
            None if self.weights is None else self.weights[draws],
            self.condition,
        )


def add_noise(
    objective: Objective,
    clean: Float[Tensor, "images draws channels height width"],
    noise: Float[Tensor, "images draws channels height width"],
    timesteps: Int64[Tensor, " draws"],
    condition: Condition,
) -> States:
    """Add noise to images; every draw may start from an image of its own."""
    each = timesteps.repeat(len(clean)).to(clean.device)
    flat, drawn = clean.flatten(0, 1), noise.flatten(0, 1)
    weights = None
    if objective.has_bound:
        weights = objective.elbo_weight(timesteps.to(clean.device)).to(clean)
    return States(
        noisy=objective.perturb(flat, drawn, each).reshape(clean.shape),
        target=objective.target(flat, drawn, each).reshape(clean.shape),
        timesteps=timesteps,
        weights=weights,
        condition=condition,
    )


def draw_states(objective: Objective, examples: Examples, draws: Draws) -> States:
    """Every image at every draw."""
    timesteps = draws.timesteps(objective)
    noise = draws.noise(examples, timesteps)
    clean = examples.images[:, None].expand_as(noise)
    return add_noise(objective, clean, noise, timesteps, examples.condition)


def loss(prediction: Predicted, target: Predicted, _: Values) -> Values:
    """Mean squared error, as in training."""
    return (prediction - target).square().mean(dim=(1, 2, 3))


def weighted_loss(prediction: Predicted, target: Predicted, weights: Values) -> Values:
    """Mean squared error, weighed as in the variational bound."""
    return weights * loss(prediction, target, weights)


def squared_norm(prediction: Predicted, _: Predicted, __: Values) -> Values:
    """Mean square of the prediction, wherever it should have been."""
    return prediction.square().mean(dim=(1, 2, 3))


def mean(prediction: Predicted, _: Predicted, __: Values) -> Values:
    """Mean of the prediction."""
    return prediction.mean(dim=(1, 2, 3))


def l1_norm(prediction: Predicted, _: Predicted, __: Values) -> Values:
    """Mean magnitude of the prediction."""
    return prediction.abs().mean(dim=(1, 2, 3))


def l2_norm(prediction: Predicted, _: Predicted, __: Values) -> Values:
    """Root mean square of the prediction."""
    return squared_norm(prediction, _, __).sqrt()


def linf_norm(prediction: Predicted, _: Predicted, __: Values) -> Values:
    """Largest magnitude in the prediction."""
    return prediction.abs().amax(dim=(1, 2, 3))


def values(
    network: nn.Module, states: States, output: str
) -> Float[Tensor, "images draws"]:
    """The output at each image and draw; can be differentiated."""
    n_images = len(states.noisy)
    condition = states.condition.repeat(states.n_draws)
    noisy = states.noisy.flatten(0, 1)
    timesteps = states.timesteps.repeat(n_images).to(noisy.device)
    found = read(output, predict(network, noisy, timesteps, condition), states)
    return found.reshape(n_images, states.n_draws)


def read(output: str, prediction: Predicted, states: States) -> Values:
    """An output at the predictions for all states, image by image.

    Raises:
        BadInput: If it is weighted, and the objective knows no weights.
    """
    n_images, weights = len(states.noisy), states.weights
    if weights is None:
        if output == "weighted_loss":
            raise BadInput(
                "The output weighted_loss is weighted as a variational bound, and the "
                "objective of these networks has none. Use the output loss."
            )
        weights = states.timesteps.new_ones(len(states.timesteps), dtype=torch.float32)
    target = states.target.flatten(0, 1)
    return OUTPUTS[output](prediction, target, weights.repeat(n_images).to(target))


def gradient_sums(
    network: nn.Module,
    states: States,
    output: str,
    projection: Projection,
    keys: list[int],
) -> Float[Tensor, "images width"]:
    """Gradient of each image's output by all trainable weights, summed over draws.

    Args:
        network: In evaluation mode.
        states: The images with noise added.
        output: A name in `OUTPUTS`.
        projection: What stands for a gradient.
        keys: By which an image is named in errors.

    Raises:
        BadInput: If a gradient is not finite, or a layer cannot be differentiated image
            by image.
    """
    layers = supported_layers(network)
    collected = _Collected(network, projection, states, keys)
    with (
        trainable.forward_hooks(layers, collected.see),
        trainable.frozen(network),
        torch.enable_grad(),
    ):
        values(network, states, output).sum().backward()
    silent = set(layers) - collected.seen
    if silent:
        raise BadInput(
            f"No gradient came back to {', '.join(sorted(silent))}: the network uses "
            "their weights without calling them. Freeze these weights, or use other "
            "blocks."
        )
    return collected.rows


class _Collected:
    """Gradients on their way back, added to rows layer by layer."""

    def __init__(
        self,
        network: nn.Module,
        projection: Projection,
        states: States,
        keys: list[int],
    ) -> None:
        self.projection, self.keys = projection, keys
        self.first: dict[str, int] = {}
        n_weights = 0
        for name, weights in trainable.parameters(network):
            self.first[name] = n_weights
            n_weights += weights.numel()
        self.rows = states.noisy.new_zeros(
            len(states.noisy), projection.width(n_weights)
        )
        self.seen: set[str] = set()

    def see(
        self, layer: str, module: nn.Module, layer_input: Tensor, result: Tensor
    ) -> None:
        """Keep what a layer is given, and wait for what comes back to it."""
        self.seen.add(layer)
        # With all weights frozen, derivatives start at the first layers' results.
        if not result.requires_grad:
            result.requires_grad_()
        result.register_hook(
            lambda output_gradient: self._add(
                layer, module, layer_input, output_gradient
            )
        )

    def _add(
        self,
        layer: str,
        module: nn.Module,
        layer_input: Tensor,
        output_gradient: Tensor,
    ) -> None:
        of_layer = LAYERS[type(module)]
        n_images = len(self.rows)
        for parameter, gradient in of_layer(
            module, layer_input, output_gradient, n_images
        ):
            name = f"{layer}.{parameter}"
            if name not in self.first:
                continue
            finite = gradient.isfinite().all(dim=1)
            if not finite.all():
                image = self.keys[int(torch.nonzero(~finite)[0])]
                raise BadInput(
                    f"The gradient by {name} at image {image} is not finite. Look at "
                    "that image and at the network's weights."
                )
            self.projection.add(self.rows, gradient, name, self.first[name])


OUTPUTS: dict[str, Callable[[Predicted, Predicted, Values], Values]] = {
    "loss": loss,
    "weighted_loss": weighted_loss,
    "squared_norm": squared_norm,
    "mean": mean,
    "l1_norm": l1_norm,
    "l2_norm": l2_norm,
    "linf_norm": linf_norm,
}
