"""Attribution by unlearning: forget the query, and see which training images suffer.

The network takes steps that raise its loss at the query, measured by the curvature of
the training loss, so that it changes where training images care least:

    weights += (step_size / N) F⁻¹ ∇loss(query)
    score[query, i] = loss(i) after - loss(i) before

Both losses are taken with the same timesteps and noise, keyed to the image. For tiny
steps the score tends to step_size / N times that of an influence function; a finite
step is followed instead of extrapolated. (Wang et al. 2024,
https://arxiv.org/abs/2406.09408)
"""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32, Float64
from torch import nn

from ensemble.scorers.curvature import fitting, layers
from ensemble.scorers.curvature.kfac import Curvature, DampedCurvature
from ensemble.scorers.gradients.blocks import ScoreBlock, Sizes
from ensemble.scorers.gradients.losses import losses
from ensemble.scorers.gradients.network import (
    ScoredNetwork,
    mean_over_networks,
    scored_networks,
    scoring_all,
)
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import Examples, ScoringContext
from splits.errors import BadInput

# Training images whose losses are taken before they are written down.
IMAGES_AT_ONCE = 1024


@dataclass(frozen=True)
class Unlearning:
    """Change of the training images' losses after the query is unlearned.

    Attributes:
        n_steps: Ascent steps.
        step_size: Length of a step; the paper's α. It should leave losses below twice
            what they were: on 8x8 digits 0.001 does with the diagonal of the empirical
            Fisher matrix, which is far smaller than the curvature, and 0.1 with EK-FAC.
        curvature: What the steps are measured by. The paper takes the diagonal of the
            empirical Fisher matrix, and EK-FAC in its sequel.
        pattern: Only layers whose names match this regular expression are changed; the
            paper takes keys and values of cross-attention, `attn2.*to_[kv]`.
        query_draws: Timesteps and noise of the query, drawn afresh for every step.
        draws: Timesteps and noise of the training images. Each further network has
            noise of its own, so that the mean over networks is one over more draws.
        unseen: A network also scores what it did not see, after the same steps.
    """

    n_steps: int = 1
    step_size: float = 0.001
    curvature: Curvature = Curvature("diagonal", targets="observed")
    pattern: str = ""
    query_draws: Draws = Draws(n_timesteps=100)
    draws: Draws = Draws(n_timesteps=20)
    unseen: bool = False

    paper: ClassVar[str] = "Wang et al. 2024, https://arxiv.org/abs/2406.09408"
    cost: ClassVar[str] = (
        "M·K·N·(Q+1) forwards, M·S·Q gradients in S steps, M·C·N at C draws for curvature"
    )
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "rise of the image's loss after the query was unlearned"

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise BadInput(f"n_steps is {self.n_steps}; at least 1 is needed.")
        if not 0 < self.step_size < float("inf"):
            raise BadInput(
                f"step_size is {self.step_size}; allowed: above 0. 0.001 is the default."
            )

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Mean score of every training image by the networks that saw it, or by all.

        Raises:
            BadInput: If the steps lead to losses that are not finite.
        """
        sizes = Sizes(n_queries=1, n_images=IMAGES_AT_ONCE)
        networks = scored_networks(context, self.pattern)
        return mean_over_networks(
            self._of,
            context,
            scoring_all(networks) if self.unseen else networks,
            lambda _: sizes,
            lambda one: self._of(one)._prepare_by(one),
        )

    def _of(self, one: ScoredNetwork) -> "Unlearning":
        """What one network does: which images it scores is not its concern."""
        return dataclasses.replace(
            self,
            query_draws=one.own(self.query_draws),
            draws=one.own(self.draws),
            unseen=False,
        )

    def _prepare_by(self, one: ScoredNetwork) -> Callable[[slice], ScoreBlock]:
        fitted = fitting.fitted(one, self.curvature)
        before: dict[int, Float64[np.ndarray, " images"]] = {}

        def prepare(queries: slice) -> ScoreBlock:
            query = one.context.queries[queries]
            network = self._unlearned(one, fitted, query)

            def score_block(images: slice) -> Float[np.ndarray, "queries images"]:
                chosen = one.scored_images[images]
                if images.start not in before:
                    before[images.start] = self._losses(one, one.network, chosen)
                after = self._losses(one, network, chosen)
                if not np.isfinite(after).all():
                    raise BadInput(
                        f"After unlearning query {query.keys.tolist()[0]} losses are "
                        f"not finite. step_size={self.step_size} is too long: take a "
                        "shorter one, or raise the damping."
                    )
                return (after - before[images.start])[None]

            return score_block

        return prepare

    def _unlearned(
        self, one: ScoredNetwork, fitted: DampedCurvature, query: Examples
    ) -> nn.Module:
        """A copy of the network, some steps away from the query."""
        network = copy.deepcopy(one.network)
        found = layers.find(network, self.pattern)
        moving = dataclasses.replace(one, network=network, layers=found)
        for step in range(self.n_steps):
            draws = dataclasses.replace(
                self.query_draws, seed=self.query_draws.seed + step
            )
            gradient = fitted.solve(moving.gradients(query, "loss", draws))
            length = self.step_size / len(one.seen)
            layers.move(
                found, {name: length * value[0] for name, value in gradient.items()}
            )
        return network

    def _losses(
        self, one: ScoredNetwork, network: nn.Module, images: Examples
    ) -> Float64[np.ndarray, " images"]:
        found = losses(one.context, network, images, self.draws)
        # Changes are small against losses: float32 ends where their mean begins.
        return found.astype(np.float64).mean(axis=1)
