"""Empirical influence: members that did not see a source against members that did.

    score[q, s] = mean loss of members without s - mean loss of members with s

The ensemble's members are the retrained models that the method asks for. A source that
all of them saw, or none, scores 0. (Feldman & Zhang 2020,
https://arxiv.org/abs/2008.03703)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from ensemble.scorers.gradients.losses import query_losses
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import (
    Setting,
    over_images,
)
from splits.errors import BadInput


@dataclass(frozen=True)
class EmpiricalInfluence:
    """Difference of mean losses.

    Attributes:
        draws: Noise draws at which losses are measured.
    """

    paper: ClassVar[str] = "Feldman & Zhang 2020, https://arxiv.org/abs/2008.03703"
    cost: ClassVar[str] = "M·K·Q forwards"
    needs: ClassVar[str] = "an ensemble"
    scale: ClassVar[str] = "change of the query's loss"
    draws: Draws = Draws()

    def score(self, setting: Setting) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query.

        Raises:
            BadInput: If there is only one network.
        """
        if len(setting.networks) < 2:
            raise BadInput(
                "Empirical influence compares members, and there is one network. Score "
                "the ensemble instead."
            )
        losses = query_losses(setting, self.draws).T
        included = setting.included()
        n_with, n_without = included.sum(axis=0), (~included).sum(axis=0)
        without = losses @ ~included / n_without.clip(min=1)
        difference = without - losses @ included / n_with.clip(min=1)
        known = (n_with > 0) & (n_without > 0)
        return over_images(np.where(known, difference, 0), setting.source_of)
