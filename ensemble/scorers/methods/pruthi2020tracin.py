"""Gradient similarity, at the finished network or over the course of training.

Images are alike to a network if it would learn alike from them:

    dot:    score[q, i] = <g_q, g_i>
    cosine: score[q, i] = <g_q, g_i> / (|g_q| |g_i|)

at the finished networks (Charpiat et al. 2019, https://arxiv.org/abs/2102.05262), and
with C checkpoints c of their training

    TracIn: score[q, i] = 1/C Σ_c <g_q(c), g_i(c)>
    GAS:    score[q, i] = 1/C Σ_c cosine(g_q(c), g_i(c))

TracIn's paper weighs each checkpoint with its learning rate; like those who brought the
method to diffusion, we weigh all alike. With the finished network as the only
checkpoint TracIn is the inner product, and GAS the cosine. (Pruthi et al. 2020,
https://arxiv.org/abs/2002.08484, there TracInCP; Hammoudeh & Lowd 2022,
https://arxiv.org/abs/2201.10055, "gradient aggregated similarity")
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from ensemble.scorers.gradients import features
from ensemble.scorers.gradients.features import Block, Feature, Rows
from ensemble.scorers.interface import ScoringContext


def dot(rows: Rows) -> Block:
    """Inner products of one network's features."""
    return lambda images, _: rows.queries @ images.T


def cosine(rows: Rows) -> Block:
    """Cosines of one network's features."""
    queries = features.unit(rows.queries)
    return lambda images, _: queries @ features.unit(images).T


@dataclass(frozen=True)
class GradientSimilarity:
    """How alike gradients are; a method says which networks it looks at, and how.

    Attributes:
        feature: Which gradient stands for an image.
    """

    paper: ClassVar[str]
    cost: ClassVar[str]
    needs: ClassVar[str]
    scale: ClassVar[str]
    rows: ClassVar[Callable[[ScoringContext, Feature], Iterator[Rows]]]
    compare: ClassVar[Callable[[Rows], Block]]
    feature: Feature = Feature()

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        return features.mean_over_networks(
            context, self.rows(context, self.feature), self.compare
        )


@dataclass(frozen=True)
class _AtTheEnd(GradientSimilarity):
    paper: ClassVar[str] = "Charpiat et al. 2019, https://arxiv.org/abs/2102.05262"
    cost: ClassVar[str] = "M·K·(N+Q) gradients"
    needs: ClassVar[str] = "nothing"
    rows = staticmethod(features.of_networks)


@dataclass(frozen=True)
class _OverTraining(GradientSimilarity):
    cost: ClassVar[str] = "M·C·K·(N+Q) gradients, C checkpoints"
    needs: ClassVar[str] = (
        "weights that were kept while training (training.keep_every_steps); without "
        "them, it looks at the finished ones alone"
    )
    rows = staticmethod(features.of_checkpoints)


@dataclass(frozen=True)
class GradientDot(_AtTheEnd):
    """Inner product of gradients at the finished networks.

    Attributes:
        feature: Which gradient stands for an image.
    """

    scale: ClassVar[str] = "fall of the query's loss in a gradient step of rate 1"
    compare = staticmethod(dot)


@dataclass(frozen=True)
class GradientCosine(_AtTheEnd):
    """Cosine of gradients at the finished networks.

    Attributes:
        feature: Which gradient stands for an image.
    """

    scale: ClassVar[str] = "cosine, from -1 to 1"
    compare = staticmethod(cosine)


@dataclass(frozen=True)
class TracIn(_OverTraining):
    """TracInCP.

    Attributes:
        feature: Which gradient stands for an image.
    """

    paper: ClassVar[str] = "Pruthi et al. 2020, https://arxiv.org/abs/2002.08484"
    scale: ClassVar[str] = "fall of the query's loss in gradient steps of rate 1"
    compare = staticmethod(dot)


@dataclass(frozen=True)
class Gas(_OverTraining):
    """Gradient aggregated similarity.

    Attributes:
        feature: Which gradient stands for an image.
    """

    paper: ClassVar[str] = "Hammoudeh & Lowd 2022, https://arxiv.org/abs/2201.10055"
    scale: ClassVar[str] = "mean cosine, from -1 to 1"
    compare = staticmethod(cosine)
