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
"""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensemble.models.conditioning import UNCONDITIONAL, Condition
from ensemble.models.denoisers import Timestep, predict
from ensemble.scorers.gradients import trainable
from splits.errors import BadInput

Layer = nn.Conv2d | nn.Linear
LayerInputs = Float[Tensor, "draws positions inputs"]
OutputGradients = Float[Tensor, "draws positions outputs"]
# One batch of images for all layers; every layer has sizes of its own.
Gradients = dict[str, Float[Tensor, "_images _outputs _inputs"]]


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
    found, ignored = trainable.layers(network, functools.partial(_obstacle, pattern))
    if not found:
        raise BadInput(
            f"No convolution or linear layer matches {pattern!r}. There are: "
            f"{', '.join(ignored)}. Choose a pattern that finds some of them."
        )
    return Layers(cast("dict[str, Layer]", found), ignored)


def _obstacle(pattern: str, name: str, module: nn.Module) -> str | None:
    """Why a module takes no part; None if it does."""
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return f"is a {type(module).__name__}"
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        return "is a grouped convolution"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"is padded by {module.padding_mode}"
    return None if re.search(pattern, name) else f"does not match {pattern!r}"


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One use of a layer in a forward pass."""

    name: str
    module: Layer
    layer_input: Tensor
    layer_output: Tensor


@dataclass(frozen=True, eq=False)
class RecordedForward:
    """A forward pass from which any number of backward passes may start.

    Attributes:
        prediction: What the network predicted at each draw.
        calls: Every use of a layer, in order.
    """

    prediction: Float[Tensor, "draws channels height width"]
    calls: list[LayerCall]

    @property
    def workspace_size(self) -> int:
        """Numbers that what a layer was given takes at most, patch by patch."""
        return max(_workspace_size(call) for call in self.calls)

    def pull_back(
        self, cotangent: Float[Tensor, "draws channels height width"]
    ) -> Iterator[tuple[str, LayerInputs, OutputGradients]]:
        """Pull back to every layer: its name, what it was given, what came back.

        No gradient by weights is formed. A layer that was used twice comes twice. What a
        layer was given is overwritten once the next is asked for.
        """
        output_gradients = torch.autograd.grad(
            self.prediction,
            [call.layer_output for call in self.calls],
            grad_outputs=cotangent,
            retain_graph=True,
        )
        # All layers share one workspace: to allocate one for each would dominate.
        workspace = cotangent.new_empty(self.workspace_size)
        for call, gradient in zip(self.calls, output_gradients, strict=True):
            yield call.name, patches(call, workspace), rows(call, gradient)


def forward(
    network: nn.Module,
    layers: Layers,
    noisy: Float[Tensor, "draws channels height width"],
    timestep: Timestep,
    condition: Condition = UNCONDITIONAL,
) -> RecordedForward:
    """Run the network and keep what its layers were given."""
    calls: list[LayerCall] = []

    def keep(
        name: str, module: Layer, layer_input: Tensor, layer_output: Tensor
    ) -> None:
        calls.append(LayerCall(name, module, layer_input, layer_output))

    with trainable.forward_hooks(layers.modules, keep), torch.enable_grad():
        prediction = predict(network, noisy, timestep, condition)
    return RecordedForward(prediction, calls)


def patches(call: LayerCall, workspace: Float[Tensor, " numbers"]) -> LayerInputs:
    """What a layer multiplied its weights with, at each position.

    Args:
        call: The layer's use. A convolution's patch is in order of row, column, channel.
        workspace: Where they are written to.
    """
    module, layer_input = call.module, call.layer_input
    n_draws, n_positions, n_inputs = _patch_shape(call)
    found = workspace[: n_draws * n_positions * n_inputs].view(
        n_draws, n_positions, n_inputs
    )
    n_weighed = module.weight[0].numel()
    found[..., n_weighed:] = 1
    weighed = found[..., :n_weighed]
    if isinstance(module, nn.Conv2d):
        windows = _windows(module, layer_input)
        weighed.unflatten(2, windows.shape[3:]).unflatten(1, windows.shape[1:3]).copy_(
            windows
        )
    else:
        weighed.copy_(layer_input.reshape(n_draws, n_positions, n_weighed))
    return found


def _patch_shape(call: LayerCall) -> tuple[int, int, int]:
    """(draws, positions, inputs) of what a layer was given."""
    n_draws, n_outputs = len(call.layer_output), len(call.module.weight)
    n_inputs = call.module.weight[0].numel() + int(call.module.bias is not None)
    return n_draws, call.layer_output[0].numel() // n_outputs, n_inputs


def _workspace_size(call: LayerCall) -> int:
    return math.prod(_patch_shape(call))


def _windows(
    module: nn.Conv2d, layer_input: Float[Tensor, "draws channels height width"]
) -> Float[Tensor, "draws rows columns high wide channels"]:
    """What stands under the kernel, as a view: `unfold` copies five times as slowly."""
    channels_last = layer_input.permute(0, 2, 3, 1)
    padded = nn.functional.pad(channels_last, (0, 0, *_padding(module))).contiguous()
    n_draws, height, width, n_channels = padded.shape
    of_draw, down, right, _ = padded.stride()
    high, wide = module.kernel_size
    n_rows = (height - module.dilation[0] * (high - 1) - 1) // module.stride[0] + 1
    n_columns = (width - module.dilation[1] * (wide - 1) - 1) // module.stride[1] + 1
    return padded.as_strided(
        (n_draws, n_rows, n_columns, high, wide, n_channels),
        (
            of_draw,
            down * module.stride[0],
            right * module.stride[1],
            down * module.dilation[0],
            right * module.dilation[1],
            1,
        ),
    )


def rows(call: LayerCall, gradient: Tensor) -> OutputGradients:
    """The gradient by what a layer gave out, at each position."""
    if isinstance(call.module, nn.Conv2d):
        return gradient.flatten(2).transpose(1, 2)
    return gradient.reshape(len(gradient), -1, gradient.shape[-1])


def per_image(
    recorded: RecordedForward,
    cotangent: Float[Tensor, "draws channels height width"],
    n_images: int,
) -> Gradients:
    """Gradients of single images, summed over the draws of each.

    Args:
        recorded: Its draws are in order of their images, equally many for each.
        cotangent: The direction at the prediction.
        n_images: How many images the draws belong to.
    """
    gradients: Gradients = {}
    for name, layer_input, output_gradient in recorded.pull_back(cotangent):
        of_call = torch.bmm(
            output_gradient.reshape(n_images, -1, output_gradient.shape[-1]).transpose(
                1, 2
            ),
            layer_input.reshape(n_images, -1, layer_input.shape[-1]),
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


def products(
    directions: Gradients, gradients: Gradients
) -> Float[Tensor, "directions images"]:
    """Inner products of all directions with all gradients, summed over layers."""
    of_layers = [
        directions[name].flatten(1) @ gradient.flatten(1).T
        for name, gradient in gradients.items()
    ]
    return torch.stack(of_layers).sum(dim=0)


@torch.no_grad()
def move(layers: Layers, step: dict[str, Float[Tensor, "_outputs _inputs"]]) -> None:
    """Add a step to the layers' weights, in place."""
    for name, change in step.items():
        module = layers.modules[name]
        n_inputs = module.weight[0].numel()
        by_weight = change[:, :n_inputs]
        if isinstance(module, nn.Conv2d):
            of_patch = (*module.kernel_size, module.in_channels)
            by_weight = by_weight.unflatten(1, of_patch).permute(0, 3, 1, 2)
        module.weight.add_(by_weight)
        if module.bias is not None:
            module.bias.add_(change[:, n_inputs])


def _padding(module: nn.Conv2d) -> tuple[int, int, int, int]:
    """Left, right, top, bottom, as `torch.nn.functional.pad` wants them."""
    if isinstance(module.padding, str):
        left, right, top, bottom = module._reversed_padding_repeated_twice
        return left, right, top, bottom
    high, wide = module.padding
    return wide, wide, high, high
