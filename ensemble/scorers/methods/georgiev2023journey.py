"""Journey-TRAK: TRAK at what the sampler saw on its way from noise to the query.

At every sampling step, noise of that step's timestep is added anew to what the sampler
then took the finished picture for, clipped to [-1, 1]; a query's feature is the mean of
the loss gradients there. Training features are TRAK's. The authors score single steps;
the mean over all steps is Zheng et al.'s form of it. (Georgiev et al. 2023,
https://arxiv.org/abs/2312.06205)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import nn

from ensemble.scorers.gradients import features, per_example
from ensemble.scorers.gradients.features import Rows
from ensemble.scorers.gradients.kernel_scorer import KernelScorer
from ensemble.scorers.interface import SamplingTrajectory, ScoringContext
from splits.errors import BadInput


@dataclass(frozen=True)
class JourneyTrak(KernelScorer):
    """Journey-TRAK.

    Attributes:
        feature: Which gradient stands for an image; its noises are drawn at every
            sampling step too.
        damping: λ, relative to the mean squared length of the training features.
    """

    paper: ClassVar[str] = "Georgiev et al. 2023, https://arxiv.org/abs/2312.06205"
    cost: ClassVar[str] = "M·(K·N + sampling steps·Q) gradients, M·N³ for the kernel"
    needs: ClassVar[str] = "queries that were generated"
    scale: ClassVar[str] = "change of the loss along the journey, up to a factor"

    def rows(self, context: ScoringContext) -> Iterator[Rows]:
        """Features of every network; the queries' are those on the sampler's way.

        Raises:
            BadInput: If it is unknown how the queries were generated.
        """
        if context.trajectory is None:
            raise BadInput(
                "These queries are pictures without a journey: nobody knows what the "
                "sampler saw. Score generated queries, or use TRAK."
            )
        trajectory = context.trajectory()
        return features.of_networks(
            context,
            self.feature,
            lambda network: self._on_the_way(context, network, trajectory),
        )

    def _on_the_way(
        self,
        context: ScoringContext,
        network: nn.Module,
        trajectory: SamplingTrajectory,
    ) -> Float[np.ndarray, "queries width"]:
        """Mean loss gradient of each query over the sampling steps."""
        n_noises = self.feature.draws.n_noises
        timesteps = trajectory.timesteps.repeat_interleave(n_noises)
        clean = trajectory.clean.clamp(-1, 1).repeat_interleave(n_noises, dim=1)
        queries = context.queries
        context.work.gradients += len(queries) * len(timesteps)
        batch = self.feature.batch(context, network, queries, len(timesteps))
        rows = []
        for part in batch.parts(len(queries)):
            asked = queries[part]
            noise = self.feature.draws.noise(asked, timesteps)
            states = per_example.add_noise(
                context.objective, clean[part], noise, timesteps, asked.condition
            )
            of_part = self.feature.rows(network, states, batch, asked.keys.tolist())
            rows.append(of_part.cpu().numpy())
        return np.concatenate(rows)
