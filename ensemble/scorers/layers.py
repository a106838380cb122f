"""Layers: what every convolution and linear layer was given, and what came back to it.

A layer multiplies weights with what it is given at each position: a pixel of a
convolution's output, a token of an attention projection, one position for a plain
vector. Let a_r be what it is given at position r (for a convolution the patch under the
kernel, for a bias one more entry, always 1), and b_r the gradient by what it gives out
there. The gradient by its weights, written as a matrix outputs x inputs, is Σ_r b_r a_rᵀ.
So two small tensors say everything, and the weights' gradient of single images follows
from one batched backward pass.

A pull is a direction at the prediction: pulled back through the network it is the
gradient of <pull, prediction>. Every scalar that we differentiate has its own pull.

Before: ensemble/model.py (the network). After: curvature.py.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensemble.model import Condition, Timestep, predict
from splits.errors import BadInput

Layer = nn.Conv2d | nn.Linear
Given = Float[Tensor, "draws positions inputs"]
Returned = Float[Tensor, "draws positions outputs"]
Gradients = dict[str, Float[Tensor, "images outputs inputs"]]


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of a network that take part, and what does not.

    Attributes:
        modules: Convolutions and linear layers by name, in the network's order.
        ignored: Every other module that has trainable weights of its own, and why it
            takes no part. Its weights count as fixed.
    """

    modules: dict[str, Layer]
    ignored: dict[str, str]

    @property
    def n_weights(self) -> int:
        """Weights that take part."""
        return sum(
            weight.numel()
            for module in self.modules.values()
            for weight in module.parameters(recurse=False)
        )

    def shape(self, name: str) -> tuple[int, int]:
        """(outputs, inputs) of a layer's gradient; a bias is one more input."""
        module = self.modules[name]
        has_bias = module.bias is not None
        return len(module.weight), module.weight[0].numel() + int(has_bias)


def find(network: nn.Module, pattern: str = "") -> Layers:
    """The convolutions and linear layers whose names match a pattern.

    Attention projections are linear layers. Normalisations, embeddings, grouped
    convolutions and convolutions padded with anything but zeros are ignored by name.

    Args:
        network: Where to look.
        pattern: A regular expression, searched for in the names; "" finds all.

    Raises:
        BadInput: If no layer is left.
    """
    modules: dict[str, Layer] = {}
    ignored: dict[str, str] = {}
    for name, module in network.named_modules():
        if not any(weight.requires_grad for weight in module.parameters(recurse=False)):
            continue
        if not isinstance(module, nn.Conv2d | nn.Linear):
            ignored[name] = f"is a {type(module).__name__}"
        elif isinstance(module, nn.Conv2d) and module.groups != 1:
            ignored[name] = "is a grouped convolution"
        elif isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            ignored[name] = f"is padded by {module.padding_mode}"
        elif not re.search(pattern, name):
            ignored[name] = f"does not match {pattern!r}"
        else:
            modules[name] = module
    if not modules:
        raise BadInput(
            f"No convolution or linear layer matches {pattern!r}. There are: "
            f"{', '.join(ignored)}. Choose a pattern that finds some of them."
        )
    return Layers(modules, ignored)


@dataclass(frozen=True, eq=False)
class Call:
    """One use of a layer in a forward pass."""

    name: str
    module: Layer
    given: Tensor
    given_out: Tensor


@dataclass(frozen=True, eq=False)
class Passage:
    """A forward pass from which any number of backward passes may start.

    Attributes:
        prediction: What the network predicted at each draw.
        calls: Every use of a layer, in order.
    """

    prediction: Float[Tensor, "draws channels height width"]
    calls: list[Call]

    def back(
        self, pull: Float[Tensor, "draws channels height width"]
    ) -> Iterator[tuple[str, Given, Returned]]:
        """Pull back to every layer: its name, what it was given, what came back.

        No gradient by weights is formed. A layer that was used twice comes twice.
        """
        came_back = torch.autograd.grad(
            self.prediction,
            [call.given_out for call in self.calls],
            grad_outputs=pull,
            retain_graph=True,
        )
        for call, gradient in zip(self.calls, came_back, strict=True):
            yield call.name, patches(call.module, call.given), rows(call, gradient)


def forward(
    network: nn.Module,
    layers: Layers,
    noisy: Float[Tensor, "draws channels height width"],
    timestep: Timestep,
    condition: Condition = None,
) -> Passage:
    """Run the network and keep what its layers were given."""
    calls: list[Call] = []
    names: dict[nn.Module, str] = {
        module: name for name, module in layers.modules.items()
    }

    def keep(module: nn.Module, given: tuple[Tensor, ...], given_out: Tensor) -> None:
        name = names[module]
        calls.append(Call(name, layers.modules[name], given[0].detach(), given_out))

    hooks = [module.register_forward_hook(keep) for module in names]
    try:
        with torch.enable_grad():
            prediction = predict(network, noisy, timestep, condition)
    finally:
        for hook in hooks:
            hook.remove()
    return Passage(prediction, calls)


def patches(module: Layer, given: Tensor) -> Given:
    """What a layer multiplies its weights with, at each position."""
    if isinstance(module, nn.Conv2d):
        padded = nn.functional.pad(given, _padding(module))
        columns = nn.functional.unfold(
            padded, module.kernel_size, dilation=module.dilation, stride=module.stride
        )
        given = columns.transpose(1, 2)
    given = given.reshape(len(given), -1, given.shape[-1])
    if module.bias is None:
        return given
    return torch.cat([given, given.new_ones(*given.shape[:2], 1)], dim=-1)


def rows(call: Call, gradient: Tensor) -> Returned:
    """The gradient by what a layer gave out, at each position."""
    if isinstance(call.module, nn.Conv2d):
        return gradient.flatten(2).transpose(1, 2)
    return gradient.reshape(len(gradient), -1, gradient.shape[-1])


def per_image(
    passage: Passage,
    pull: Float[Tensor, "draws channels height width"],
    n_images: int,
) -> Gradients:
    """Gradients of single images, summed over the draws of each.

    Args:
        passage: Its draws are in order of their images, equally many for each.
        pull: The direction at the prediction.
        n_images: How many images the draws belong to.
    """
    gradients: Gradients = {}
    for name, given, returned in passage.back(pull):
        of_call = torch.bmm(
            returned.reshape(n_images, -1, returned.shape[-1]).transpose(1, 2),
            given.reshape(n_images, -1, given.shape[-1]),
        )
        gradients[name] = gradients[name] + of_call if name in gradients else of_call
    return gradients


def require_finite(gradients: Gradients, what: str, keys: Sequence[int]) -> None:
    """Refuse gradients that are not finite.

    Args:
        gradients: To be checked.
        what: What the images are, such as "training image".
        keys: Number of each image.

    Raises:
        BadInput: If one is infinite or not a number; names layer and image.
    """
    for name, gradient in gradients.items():
        finite = gradient.flatten(1).isfinite().all(dim=1)
        if not finite.all():
            image = keys[int(torch.nonzero(~finite)[0])]
            raise BadInput(
                f"The gradient of layer {name} at {what} {image} is not finite. Look "
                "at that image and at the network's weights, or score in float64."
            )


def flatten(gradients: Gradients) -> Float[Tensor, "images weights"]:
    """All layers' gradients side by side, in the layers' order."""
    return torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)


@torch.no_grad()
def move(layers: Layers, step: dict[str, Float[Tensor, "outputs inputs"]]) -> None:
    """Add a step to the layers' weights, in place."""
    for name, change in step.items():
        module = layers.modules[name]
        n_inputs = module.weight[0].numel()
        module.weight.add_(change[:, :n_inputs].reshape(module.weight.shape))
        if module.bias is not None:
            module.bias.add_(change[:, n_inputs])


def _padding(module: nn.Conv2d) -> tuple[int, int, int, int]:
    """Left, right, top, bottom, as `torch.nn.functional.pad` wants them."""
    if isinstance(module.padding, str):
        left, right, top, bottom = module._reversed_padding_repeated_twice
        return left, right, top, bottom
    high, wide = module.padding
    return wide, wide, high, high
