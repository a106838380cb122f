"""The memory that a network's activations take."""

from collections.abc import Callable

import torch
from torch import nn


@torch.no_grad()
def activation_bytes(network: nn.Module, run: Callable[[], object]) -> int:
    """The bytes of the outputs of all of a network's innermost modules.

    A backward pass needs nearly all of them at once; for a forward pass alone they are
    an upper bound.

    Args:
        network: The network.
        run: Runs the network on a single image; the result is for one image.

    Examples:
        >>> network = nn.Linear(2, 3)
        >>> activation_bytes(network, lambda: network(torch.zeros(1, 2)))
        12
    """
    total = 0

    def count(_: nn.Module, __: tuple, given_out: object) -> None:
        nonlocal total
        if torch.is_tensor(given_out):
            total += given_out.numel() * given_out.element_size()

    innermost = [module for module in network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(count) for module in innermost]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return total
