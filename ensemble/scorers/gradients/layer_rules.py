"""From what a layer was given, and what came back to it, to gradients of single images.

There is a rule for every kind of layer that our networks have. It gets what the layer
was given and the gradient by what it gave out, both with all draws of an image in a row,
and yields the gradient by each of its weights, summed over the draws.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from ensemble.scorers.gradients import trainable
from splits.errors import BadInput

Named = Iterator[tuple[str, Float[Tensor, "rows weights"]]]


def supported_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Modules with trainable weights of their own, by name.

    Raises:
        BadInput: If there are none, or one cannot be differentiated image by image.
    """
    layers, unsupported = trainable.layers(network, _obstacle)
    if unsupported:
        raise BadInput(
            "These layers cannot be differentiated image by image: "
            f"{'; '.join(f'{name} {why}' for name, why in unsupported.items())}. Known: "
            f"{', '.join(kind.__name__ for kind in LAYERS)}, padded with zeros. Freeze "
            "their weights, or use other blocks."
        )
    if not layers:
        raise BadInput(
            "The network has no trainable weights to take gradients by. Score another "
            "model, or let some of its weights require gradients."
        )
    return layers


def _obstacle(_: str, module: nn.Module) -> str | None:
    """A subclass may compute something else: a layer is known by its very type."""
    padding = getattr(module, "padding_mode", "zeros")
    if type(module) in LAYERS and padding == "zeros":
        return None
    return f"({type(module).__name__}, padding {padding})"


def _convolution(
    module: nn.Conv2d, layer_input: Tensor, output_gradient: Tensor, n_images: int
) -> Named:
    layer_input = layer_input.reshape(n_images, -1, *layer_input.shape[1:])
    output_gradient = output_gradient.reshape(n_images, -1, *output_gradient.shape[1:])
    gradients = [
        conv2d_weight(
            of_image,
            module.weight.shape,
            of_output,
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            module.dilation,  # type: ignore[arg-type]
            module.groups,
        )
        for of_image, of_output in zip(layer_input, output_gradient, strict=True)
    ]
    yield "weight", torch.stack(gradients).flatten(1)
    if module.bias is not None:
        yield "bias", output_gradient.sum(dim=(1, 3, 4))


def _linear(
    module: nn.Linear, layer_input: Tensor, output_gradient: Tensor, n_images: int
) -> Named:
    layer_input = layer_input.reshape(n_images, -1, layer_input.shape[-1])
    output_gradient = output_gradient.reshape(n_images, -1, output_gradient.shape[-1])
    yield "weight", torch.bmm(output_gradient.mT, layer_input).flatten(1)
    if module.bias is not None:
        yield "bias", output_gradient.sum(dim=1)


def _group_norm(
    module: nn.GroupNorm, layer_input: Tensor, output_gradient: Tensor, n_images: int
) -> Named:
    normal = nn.functional.group_norm(layer_input, module.num_groups, eps=module.eps)
    for name, of_output in (
        ("weight", output_gradient * normal),
        ("bias", output_gradient),
    ):
        yield (
            name,
            of_output.reshape(
                n_images, -1, module.num_channels, layer_input[0, 0].numel()
            ).sum(dim=(1, 3)),
        )


def _embedding(
    module: nn.Embedding, layer_input: Tensor, output_gradient: Tensor, n_images: int
) -> Named:
    chosen = nn.functional.one_hot(layer_input, module.num_embeddings).to(
        output_gradient
    )
    chosen = chosen.reshape(n_images, -1, module.num_embeddings)
    output_gradient = output_gradient.reshape(n_images, -1, module.embedding_dim)
    yield "weight", torch.bmm(chosen.mT, output_gradient).flatten(1)


LAYERS: dict[type[nn.Module], Callable[..., Named]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
}
