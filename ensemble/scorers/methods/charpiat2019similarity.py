"""Gradient similarity: images are alike to a network if it would learn alike from them.

    dot:    score[q, i] = <g_q, g_i>
    cosine: score[q, i] = <g_q, g_i> / (|g_q| |g_i|)

(Charpiat et al. 2019, https://arxiv.org/abs/2102.05262)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from ensemble.scorers.gradients import features
from ensemble.scorers.gradients.features import (
    Block,
    Feature,
    Rows,
)
from ensemble.scorers.interface import Setting


@dataclass(frozen=True)
class GradientDot:
    """Inner product of gradients at the finished networks.

    Attributes:
        feature: Which gradient stands for an image.
    """

    paper: ClassVar[str] = "Charpiat et al. 2019, https://arxiv.org/abs/2102.05262"
    cost: ClassVar[str] = "M·K·(N+Q) gradients"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "fall of the query's loss in a gradient step of rate 1"
    feature: Feature = Feature()

    def score(self, setting: Setting) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        rows = features.of_networks(setting, self.feature)
        return features.averaged(setting, rows, dot)


@dataclass(frozen=True)
class GradientCosine:
    """Cosine of gradients at the finished networks.

    Attributes:
        feature: Which gradient stands for an image.
    """

    paper: ClassVar[str] = "Charpiat et al. 2019, https://arxiv.org/abs/2102.05262"
    cost: ClassVar[str] = "M·K·(N+Q) gradients"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "cosine, from -1 to 1"
    feature: Feature = Feature()

    def score(self, setting: Setting) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        rows = features.of_networks(setting, self.feature)
        return features.averaged(setting, rows, cosine)


def dot(rows: Rows) -> Block:
    """Inner products of one network's features."""
    return lambda images, _: rows.queries @ images.T


def cosine(rows: Rows) -> Block:
    """Cosines of one network's features."""
    queries = features.unit(rows.queries)
    return lambda images, _: queries @ features.unit(images).T
