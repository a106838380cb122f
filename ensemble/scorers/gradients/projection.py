"""Random projection: gradients made short so that inner products stay right on average.

Every weight is added to one of k numbers, its lane, with a random sign: the projection
matrix has a single entry ±1 in each column. Lane and sign are drawn anew, from a seed
and the parameter's name, whenever they are needed, so the matrix exists nowhere, not
even in sparse form, and gradients can come parameter by parameter.

    E <Πg, Πh> = <g, h>
    variance = 1/k Σ over i ≠ j of (g_i² h_j² + g_i h_i g_j h_j)

That is never more than a dense Gaussian projection's, at the cost of one addition a
weight instead of k. (Charikar, Chen & Farach-Colton 2002; Weinberger et al. 2009,
https://arxiv.org/abs/0902.2206)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ensemble.system import seeding
from splits.errors import BadInput


@dataclass(frozen=True)
class Projection:
    """How many numbers stand for a gradient.

    Attributes:
        n_dimensions: k; None keeps gradients whole.
        seed: Draws lanes and signs.
    """

    n_dimensions: int | None = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_dimensions is not None and self.n_dimensions < 1:
            raise BadInput(
                f"n_dimensions is {self.n_dimensions}: at least 1 is needed; None keeps "
                "gradients whole."
            )
        if self.n_dimensions is None and self.seed:
            raise BadInput(
                f"seed={self.seed} has no effect on gradients that are kept whole. Leave "
                "it out, or set n_dimensions."
            )

    def width(self, n_weights: int) -> int:
        """Numbers that stand for a gradient of so many weights."""
        return n_weights if self.n_dimensions is None else self.n_dimensions

    def add(
        self,
        rows: Float[Tensor, "rows width"],
        gradient: Float[Tensor, "rows weights"],
        name: str,
        first: int,
    ) -> None:
        """Add the gradient by one parameter to rows, in place.

        Args:
            rows: Sums over parameters.
            gradient: By the weights of one parameter.
            name: The parameter's, as the network calls it.
            first: Its weights' place in the whole gradient.
        """
        if self.n_dimensions is None:
            rows[:, first : first + gradient.shape[1]] += gradient
            return
        keyed = seeding.generator(self.seed, f"projection of {name}")
        drawn = torch.randint(
            2 * self.n_dimensions, (gradient.shape[1],), generator=keyed
        ).to(gradient.device)
        signed = gradient * (drawn % 2 * 2 - 1)
        rows.scatter_add_(1, (drawn // 2).expand_as(gradient), signed)
