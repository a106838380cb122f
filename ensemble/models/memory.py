"""How much memory a network takes when it is run."""

from collections.abc import Callable

import torch
from torch import nn


@torch.no_grad()
def activation_bytes(network: nn.Module, run: Callable[[], object]) -> int:
    """Bytes of all that a network's innermost modules give out while it is run.

    A backward pass needs nearly all of that at once; without one it is a bound.

    Args:
        network: Whose modules are watched.
        run: Runs it, on a single image, so that the answer is that of one image.
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
