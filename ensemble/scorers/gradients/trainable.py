"""The layers of a network that have trainable weights, and what passes through them.

Gradients by weights are taken in two ways: whole ones, projected (per_example.py), and
layer by layer, as matrices (curvature/layers.py). Each knows layers of some kinds only,
and says what stands against another; what it does with that layer is its policy. Whole
gradients refuse the network, because they would silently be something else; a curvature
ignores the layer, and puts on record that its weights count as fixed.

They stay two. Whole gradients forget what came back to a layer before the next has its
own; matrices need all of it at once, because several pulls start from one pass. And one
cannot stand in for the other: sums over positions run in another order, so that 48 of
the 78 parameters of the demo's network differ in their last bits, by up to 2.5e-7 of the
largest entry, and features that are on disk already would not be those of new ones.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def parameters(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trainable weights of a network by name, in its order."""
    return [
        (name, weights)
        for name, weights in network.named_parameters()
        if weights.requires_grad
    ]


def layers(
    network: nn.Module, obstacle: Callable[[str, nn.Module], str | None]
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Modules with trainable weights of their own, by name, in the network's order.

    Args:
        network: Where to look.
        obstacle: Says of a module, by its name, what stands against it; None: nothing.

    Returns:
        The modules that nothing stands against; and of each other one what does.
    """
    supported: dict[str, nn.Module] = {}
    others: dict[str, str] = {}
    for name, module in network.named_modules():
        if not any(weight.requires_grad for weight in module.parameters(recurse=False)):
            continue
        against = obstacle(name, module)
        if against is None:
            supported[name] = module
        else:
            others[name] = against
    return supported, others


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Without gradients by weights, which nobody reads; all is put back at the end."""
    trainable = [weights for _, weights in parameters(network)]
    try:
        for weights in trainable:
            weights.requires_grad_(False)
        yield
    finally:
        for weights in trainable:
            weights.requires_grad_(True)


@contextlib.contextmanager
def forward_hooks(
    modules: Mapping[str, Module], see: Callable[[str, Module, Tensor, Tensor], None]
) -> Iterator[None]:
    """Be told of every use of some modules until the block ends.

    Args:
        modules: By name.
        see: Is called with a module's name, the module, what it was given, and what it
            gives out; a module that is used twice is told of twice.
    """

    def hook(name: str) -> Callable[[Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, layer_input, layer_output: see(
            name, module, layer_input[0].detach(), layer_output
        )

    hooks = [
        module.register_forward_hook(hook(name)) for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
