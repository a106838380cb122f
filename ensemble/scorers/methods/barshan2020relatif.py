"""Relative influence: influence for a given change of the weights.

    score[q, i] = g_q K_λ⁻¹ g_i / |K_λ⁻¹ g_i|

A training image that moves the weights far influences every query; dividing by how far
it moves them leaves those that influence this one. (Barshan, Brunet & Dziugaite 2020,
https://arxiv.org/abs/2003.11630, there θ-relative influence)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from ensemble.scorers.gradients import (
    features,
    kernel,
)
from ensemble.scorers.gradients.features import (
    Block,
    Feature,
    Rows,
)
from ensemble.scorers.gradients.kernel import Kernel
from ensemble.scorers.interface import Setting


@dataclass(frozen=True)
class RelativeInfluence:
    """Relative influence.

    Attributes:
        feature: Which gradient stands for an image.
        damping: λ, relative to the mean squared length of the training features.
    """

    paper: ClassVar[str] = "Barshan et al. 2020, https://arxiv.org/abs/2003.11630"
    cost: ClassVar[str] = "M·K·(N+Q) gradients, M·N³ for the kernel"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "change of the query's loss for a unit step of the weights"
    feature: Feature = Feature()
    damping: float = kernel.DAMPING

    def __post_init__(self) -> None:
        kernel.require_positive(self.damping)

    def score(self, setting: Setting) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        return self.path(setting, [self.damping])[0]

    def path(
        self, setting: Setting, dampings: Sequence[float]
    ) -> Float32[np.ndarray, "dampings queries images"]:
        """Scores at each damping."""
        rows = features.of_networks(setting, self.feature)
        return features.path(setting, rows, dampings, scored)


def scored(rows: Rows, decomposed: Kernel, damping: float) -> Block:
    """Scores by one network's kernel, over the length of an image's step."""
    solved = decomposed.solve(rows.queries, damping)
    return lambda images, _: solved @ images.T / decomposed.steps(images, damping)
