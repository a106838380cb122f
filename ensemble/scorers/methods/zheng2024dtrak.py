"""D-TRAK: TRAK with another output than the loss.

Both sides are gradients of the squared norm of the prediction; where the prediction
should have been does not matter. The authors found, by experiment, that this and other
"wrong" outputs predict losses better than the loss itself. (Zheng et al. 2024,
https://arxiv.org/abs/2311.00500)
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
from ensemble.scorers.gradients.features import Feature
from ensemble.scorers.interface import Setting
from ensemble.scorers.methods.park2023trak import scored
from splits.errors import BadInput


@dataclass(frozen=True)
class DTrak:
    """D-TRAK.

    Attributes:
        feature: Which gradient stands for an image; any output but the loss.
        damping: λ, relative to the mean squared length of the training features.

    Raises:
        BadInput: If the output is the loss, or damping is not positive.
    """

    paper: ClassVar[str] = "Zheng et al. 2024, https://arxiv.org/abs/2311.00500"
    cost: ClassVar[str] = "M·K·(N+Q) gradients, M·N³ for the kernel"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "change of the output, up to a factor"
    feature: Feature = Feature(output="squared_norm")
    damping: float = kernel.DAMPING

    def __post_init__(self) -> None:
        kernel.require_positive(self.damping)
        if self.feature.output == "loss":
            raise BadInput("D-TRAK with the loss is TRAK: choose that, or an output.")

    def score(self, setting: Setting) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        return self.path(setting, [self.damping])[0]

    def path(
        self, setting: Setting, dampings: Sequence[float]
    ) -> Float32[np.ndarray, "dampings queries images"]:
        """Scores at each damping."""
        rows = features.of_networks(setting, self.feature)
        return features.path(setting, rows, dampings, scored)
