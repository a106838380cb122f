"""TRAK: influence in the regression that gradients make of a network.

With g_i the projected gradient of the loss at training image i, g_q that at the query,

    score[q, i] = g_q (GᵀG + λI)⁻¹ g_i

averaged over networks. The paper's diagonal Q, the loss's derivative by the output, is
1, because the output is the loss itself; its features are divided by the square root of
the number of weights, which relative damping makes superfluous. (Park et al. 2023,
https://arxiv.org/abs/2303.14186)
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
class Trak:
    """TRAK.

    Attributes:
        feature: Which gradient stands for an image.
        damping: λ, relative to the mean squared length of the training features.
    """

    paper: ClassVar[str] = "Park et al. 2023, https://arxiv.org/abs/2303.14186"
    cost: ClassVar[str] = "M·K·(N+Q) gradients, M·N³ for the kernel"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "change of the query's loss, up to a factor"
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
    """Scores by one network's kernel."""
    solved = decomposed.solve(rows.queries, damping)
    return lambda images, _: solved @ images.T
