"""Cache keys of networks and examples: digests of what a cached result depends on."""

from typing import Any

from torch import Tensor, nn

from ensemble.run import files
from ensemble.scorers.interface import Examples, ScoringContext


def of_network(context: ScoringContext, network: nn.Module) -> dict[str, Any]:
    """Digests of a network's weights and of its training objective."""
    return {
        **{
            name: _of_tensor(fact) if isinstance(fact, Tensor) else fact
            for name, fact in context.objective.identity().items()
        },
        "weights": {
            name: (_of_tensor(weights), weights.requires_grad)
            for name, weights in network.named_parameters()
        },
    }


def of_examples(examples: Examples) -> dict[str, Any]:
    """Digests of images, labels and keys."""
    return {
        "images": _of_tensor(examples.images),
        "keys": _of_tensor(examples.keys),
        "condition": examples.condition.digest(),
    }


def _of_tensor(tensor: Tensor) -> str:
    return files.array_digest(tensor.detach().cpu().numpy())
