"""GAS: TracIn with gradients of unit length.

    score[q, i] = 1/C Σ over checkpoints c of cosine(g_q(c), g_i(c))

With the finished network as the only checkpoint this is the cosine of gradients.
(Hammoudeh & Lowd 2022, https://arxiv.org/abs/2201.10055, "gradient aggregated
similarity")
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from ensemble.scorers.gradients import features
from ensemble.scorers.gradients.features import Feature
from ensemble.scorers.interface import Setting
from ensemble.scorers.methods.charpiat2019similarity import cosine


@dataclass(frozen=True)
class Gas:
    """Gradient aggregated similarity.

    Attributes:
        feature: Which gradient stands for an image.
    """

    paper: ClassVar[str] = "Hammoudeh & Lowd 2022, https://arxiv.org/abs/2201.10055"
    cost: ClassVar[str] = "M·C·K·(N+Q) gradients, C checkpoints"
    needs: ClassVar[str] = (
        "weights that were kept while training (training.keep_every_steps); without "
        "them, it looks at the finished ones alone"
    )
    scale: ClassVar[str] = "mean cosine, from -1 to 1"
    feature: Feature = Feature()

    def score(self, setting: Setting) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        rows = features.of_checkpoints(setting, self.feature)
        return features.averaged(setting, rows, cosine)
