"""TRAK, and what others made of it by another output or another length.

TRAK is influence in the regression that gradients make of a network. With g_i the
projected gradient of the loss at training image i, g_q that at the query, and
K_λ = GᵀG + λI,

    TRAK:         score[q, i] = g_q K_λ⁻¹ g_i
    D-TRAK:       the same, with the gradients of another output than the loss
    RelatIF:      score[q, i] = g_q K_λ⁻¹ g_i / |K_λ⁻¹ g_i|
    renormalised: score[q, i] = g_q K_λ⁻¹ g_i / |g_i|

averaged over networks. The paper's diagonal Q, the loss's derivative by the output, is
1, because the output is the loss itself; its features are divided by the square root of
the number of weights, which relative damping makes superfluous. (Park et al. 2023,
https://arxiv.org/abs/2303.14186)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int64

from ensemble.scorers.gradients import features
from ensemble.scorers.gradients.features import Feature
from ensemble.scorers.gradients.kernel_scorer import KernelScorer, SolvedQueries
from splits.errors import BadInput


@dataclass(frozen=True)
class Trak(KernelScorer):
    """TRAK.

    Attributes:
        feature: Which gradient stands for an image.
        damping: λ, relative to the mean squared length of the training features.
    """

    paper: ClassVar[str] = "Park et al. 2023, https://arxiv.org/abs/2303.14186"
    scale: ClassVar[str] = "change of the query's loss, up to a factor"


@dataclass(frozen=True)
class DTrak(KernelScorer):
    """D-TRAK.

    Both sides are gradients of the squared norm of the prediction; where the prediction
    should have been does not matter. The authors found, by experiment, that this and
    other "wrong" outputs predict losses better than the loss itself.

    Attributes:
        feature: Which gradient stands for an image; any output but the loss.
        damping: λ, relative to the mean squared length of the training features.

    Raises:
        BadInput: If the output is the loss, or damping is not positive.
    """

    paper: ClassVar[str] = "Zheng et al. 2024, https://arxiv.org/abs/2311.00500"
    scale: ClassVar[str] = "change of the output, up to a factor"
    feature: Feature = Feature(output="squared_norm")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature.output == "loss":
            raise BadInput("D-TRAK with the loss is TRAK: choose that, or an output.")


@dataclass(frozen=True)
class RelativeInfluence(KernelScorer):
    """Relative influence.

    A training image that moves the weights far influences every query; dividing by how
    far it moves them leaves those that influence this one. The authors call this
    θ-relative influence.

    Attributes:
        feature: Which gradient stands for an image.
        damping: λ, relative to the mean squared length of the training features.
    """

    paper: ClassVar[str] = "Barshan et al. 2020, https://arxiv.org/abs/2003.11630"
    scale: ClassVar[str] = "change of the query's loss for a unit step of the weights"

    def formula(
        self,
        solved: SolvedQueries,
        images: Float[np.ndarray, "images width"],
        numbers: Int64[np.ndarray, " images"],
    ) -> Float[np.ndarray, "queries images"]:
        """TRAK's scores, over the length of each image's step: |K_λ⁻¹ g_i|."""
        steps = solved.kernel.steps(images, solved.damping)
        return solved.queries @ images.T / steps


@dataclass(frozen=True)
class RenormalisedInfluence(KernelScorer):
    """Renormalised influence.

    Attributes:
        feature: Which gradient stands for an image.
        damping: λ, relative to the mean squared length of the training features.
    """

    paper: ClassVar[str] = "Hammoudeh & Lowd 2022, https://arxiv.org/abs/2201.10055"
    scale: ClassVar[str] = "change of the query's loss for a unit training gradient"

    def formula(
        self,
        solved: SolvedQueries,
        images: Float[np.ndarray, "images width"],
        numbers: Int64[np.ndarray, " images"],
    ) -> Float[np.ndarray, "queries images"]:
        """TRAK's scores, over the length of each image's gradient: |g_i|."""
        return solved.queries @ features.unit(images).T
