"""Controls: scores that know nothing, to see what an evaluation makes of them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from ensemble.scorers.gradients import features
from ensemble.scorers.interface import ScoringContext
from ensemble.system import seeding


@dataclass(frozen=True)
class Random:
    """Standard normal scores; an image keeps its scores wherever it stands.

    Attributes:
        seed: Draws them.
    """

    paper: ClassVar[str] = "control"
    cost: ClassVar[str] = "none"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "standard normal"
    seed: int = 0

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        score = features.table(context)
        images = context.train.keys.cpu().numpy()
        for query, key in enumerate(context.queries.keys.tolist()):
            rng = seeding.rng(self.seed, "random scores", key)
            score[query] = rng.standard_normal(images.max() + 1)[images]
        return score


@dataclass(frozen=True)
class Constant:
    """One for every image: what larger sources get for their size alone."""

    paper: ClassVar[str] = "control"
    cost: ClassVar[str] = "none"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "number of images"

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        score = features.table(context)
        score += 1
        return score
