"""Influence functions with Kronecker-factored curvature.

How much would a measurement of the query rise if a training image counted less? With
the query's gradient and the image's, each averaged over noise draws, and H the
curvature of the training loss,

    score[q, i] = ∇m(q)ᵀ (H + λI)⁻¹ ∇loss(i)

Removing a set of the N training images is predicted to raise m by the sum of its scores
divided by N. (Mlodozeniec et al. 2025, https://arxiv.org/abs/2410.13850; here gradients
are taken in evaluation mode, without dropout and flips)
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32

from ensemble.scorers.curvature import fitting, layers
from ensemble.scorers.curvature.kfac import Curvature
from ensemble.scorers.gradients.blocks import ScoreBlock
from ensemble.scorers.gradients.network import (
    ScoredNetwork,
    mean_over_networks,
    scored_networks,
    with_unseen,
)
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import ScoringContext
from splits.errors import BadInput

# What is measured at a query, and which output of the network (per_example.py) it is.
MEASUREMENTS = {
    "loss": "loss",
    "simplified_elbo": "weighted_loss",
    "squared_norm": "squared_norm",
}


@dataclass(frozen=True)
class InfluenceFunction:
    """First-order influence of training images on a measurement at the query.

    Attributes:
        measurement: `loss`; `simplified_elbo`, the loss weighed as in the variational
            bound; or `squared_norm`, the mean square of the prediction.
        timestep: Measure at this one; None: over the whole schedule.
        curvature: Of the training loss.
        draws: Timesteps and noise of every image.
        own_noise: Each further network has noise of its own, so that the mean over
            networks is one over as many more draws, at no cost.
        unseen: A network also scores what it did not see: how much it would gain from
            training on it. Where the first bit of an image does more than the last,
            the mean of both is closer to what the whole image does.
        pattern: Only layers whose names match this regular expression take part.
    """

    measurement: str = "loss"
    timestep: int | None = None
    curvature: Curvature = Curvature()
    draws: Draws = Draws()
    own_noise: bool = True
    unseen: bool = False
    pattern: str = ""

    paper: ClassVar[str] = "Mlodozeniec et al. 2025, https://arxiv.org/abs/2410.13850"
    cost: ClassVar[str] = "M·K·(N+Q) gradients, 2·M·C·N at C draws for curvature"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = (
        "rise of the measurement, times the number of images trained on, if the image "
        "is removed"
    )

    def __post_init__(self) -> None:
        if self.measurement not in MEASUREMENTS:
            raise BadInput(
                f"measurement is {self.measurement!r}; allowed: "
                f"{', '.join(MEASUREMENTS)}."
            )
        if self.timestep is not None and self.timestep < 0:
            raise BadInput(f"timestep is {self.timestep}; allowed: from 0 up, or None.")

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Mean score of every training image by the networks that saw it, or by all."""
        return self.path(context, [self.curvature.damping])[0]

    def path(
        self, context: ScoringContext, dampings: Sequence[float]
    ) -> Float32[np.ndarray, "dampings queries images"]:
        """Scores at each damping, from the same curvature and gradients.

        Raises:
            BadInput: If the timestep is not one that the objective knows.
        """
        n_known = context.objective.n_times
        if self.timestep is not None and self.timestep >= n_known:
            raise BadInput(
                f"timestep is {self.timestep}, but the noise schedule has only "
                f"{n_known}. Choose a smaller one."
            )
        networks = scored_networks(context, self.pattern)
        return mean_over_networks(
            self._of,
            context,
            with_unseen(networks) if self.unseen else networks,
            # A query's gradient, and the same divided by each damped curvature.
            lambda one: one.sizes(len(self.draws), n_held=1 + len(dampings)),
            lambda one: self._of(one)._prepare_by(one, dampings),
            dampings,
        )

    def _of(self, one: ScoredNetwork) -> "InfluenceFunction":
        """What one network does: the same with or without what others score beside it."""
        draws = one.own(self.draws) if self.own_noise else self.draws
        return dataclasses.replace(self, draws=draws, unseen=False)

    def _prepare_by(
        self, one: ScoredNetwork, dampings: Sequence[float]
    ) -> Callable[[slice], ScoreBlock]:
        path = fitting.path(one, self.curvature, dampings)
        output = MEASUREMENTS[self.measurement]

        def prepare(queries: slice) -> ScoreBlock:
            asked = one.gradients(
                one.context.queries[queries], output, self.draws, self.timestep
            )
            directions = [fitted.solve(asked) for fitted in path]

            def score_block(
                images: slice,
            ) -> Float[np.ndarray, "dampings queries images"]:
                found = one.gradients(one.scored_images[images], "loss", self.draws)
                scores = [layers.products(solved, found) for solved in directions]
                return torch.stack(scores).cpu().numpy()

            return score_block

        return prepare
