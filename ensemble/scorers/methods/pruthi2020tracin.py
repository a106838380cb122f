"""TracIn: gradient similarity, summed over the course of training.

    score[q, i] = 1/C Σ over checkpoints c of <g_q(c), g_i(c)>

The paper weighs each checkpoint with its learning rate; like those who brought the
method to diffusion, we weigh all alike. With the finished network as the only
checkpoint this is the inner product of gradients. (Pruthi et al. 2020,
https://arxiv.org/abs/2002.08484, there TracInCP)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from ensemble.scorers.gradients import features
from ensemble.scorers.gradients.features import Feature
from ensemble.scorers.interface import Setting
from ensemble.scorers.methods.charpiat2019similarity import dot


@dataclass(frozen=True)
class TracIn:
    """TracInCP.

    Attributes:
        feature: Which gradient stands for an image.
    """

    paper: ClassVar[str] = "Pruthi et al. 2020, https://arxiv.org/abs/2002.08484"
    cost: ClassVar[str] = "M·C·K·(N+Q) gradients, C checkpoints"
    needs: ClassVar[str] = (
        "weights that were kept while training (training.keep_every_steps); without "
        "them, it looks at the finished ones alone"
    )
    scale: ClassVar[str] = "fall of the query's loss in gradient steps of rate 1"
    feature: Feature = Feature()

    def score(self, setting: Setting) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        rows = features.of_checkpoints(setting, self.feature)
        return features.averaged(setting, rows, dot)
