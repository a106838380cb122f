"""DAS in its vector form: how far a training image moves the query's prediction.

The diffusion attribution score asks how much the predicted noise at the query changes,
as a vector, if a training image is left out: ‖J_q H⁻¹ J_iᵀ r_i‖², J the derivative of
the prediction, r_i the error at the image. J_iᵀ r_i is the gradient of the loss, up to
a factor, and the length of a vector is that of its products with random probes, so

    score[q, i] = E_t,ε E_z [ (∇<z, prediction(q)>ᵀ (H + λI)⁻¹ ∇loss(i))² ],  z ~ N(0, I)

Any number of probes gives an unbiased answer; all are on the query's side, so training
images cost what they cost influence functions. Never negative: it tells how much, not
whether the image helped. (Lin et al. 2025, https://arxiv.org/abs/2410.18639, with the
curvature of arXiv 2410.13850 in place of a kernel, and without the leverage)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32

from ensemble.scorers.curvature import (
    fitting,
    layers,
)
from ensemble.scorers.curvature.kfac import (
    Curvature,
    Fitted,
)
from ensemble.scorers.curvature.layers import Gradients
from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.blocks import Against
from ensemble.scorers.gradients.network import (
    Scored,
    averaged,
    scored,
)
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import (
    Examples,
    Setting,
)
from ensemble.system import seeding
from splits.errors import BadInput


@dataclass(frozen=True)
class VectorDas:
    """Squared change of the query's prediction, estimated with random probes.

    Attributes:
        n_probes: Random directions at each draw of a query.
        query_draws: Timesteps and noise of every query; each is probed by itself.
        curvature: Of the training loss.
        draws: Timesteps and noise of every training image.
        pattern: Only layers whose names match this regular expression take part.
    """

    n_probes: int = 1
    query_draws: Draws = Draws(n_timesteps=16)
    curvature: Curvature = Curvature()
    draws: Draws = Draws()
    pattern: str = ""

    paper: ClassVar[str] = "Lin et al. 2025, https://arxiv.org/abs/2410.18639"
    cost: ClassVar[str] = (
        "M·(K·N + P·Q) gradients with P probes, 2·M·C·N at C draws for curvature"
    )
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = (
        "squared change of the predicted values, times the square of the number of "
        "images trained on, if the image is removed; never negative"
    )

    def __post_init__(self) -> None:
        if self.n_probes < 1:
            raise BadInput(f"n_probes is {self.n_probes}; at least 1 is needed.")

    def score(self, setting: Setting) -> Float32[np.ndarray, "queries images"]:
        """Mean score of every training image by the networks that saw it."""
        return averaged(
            lambda _: self,
            setting,
            scored(setting, self.pattern),
            lambda one: one.sizes(len(self.draws), self._n_directions()),
            self._prepare_by,
        )

    def _prepare_by(self, one: Scored) -> Callable[[slice], Against]:
        fitted = fitting.fitted(one, self.curvature)

        def prepare(queries: slice) -> Against:
            asked = one.setting.queries[queries]
            directions = self._directions(one, fitted, asked)

            def against(images: slice) -> Float[np.ndarray, "queries images"]:
                found = one.gradients(one.rated[images], "loss", self.draws)
                moved = layers.products(directions, found)
                squared = moved.reshape(len(asked), -1, len(moved.T)).square()
                return squared.mean(dim=1).cpu().numpy()

            return against

        return prepare

    def _directions(self, one: Scored, fitted: Fitted, asked: Examples) -> Gradients:
        """(H + λI)⁻¹ ∇<z, prediction>, for each query all draws and probes in turn."""
        n_directions = self._n_directions()
        like = one.setting.train.images
        directions = {
            name: like.new_empty(len(asked) * n_directions, *one.layers.shape(name))
            for name in one.layers.modules
        }
        first = 0
        for query in range(len(asked)):
            for solved in self._of_query(one, fitted, asked[query : query + 1]):
                for name, rows in solved.items():
                    directions[name][first : first + len(rows)] = rows
                first += len(self.query_draws)
        return directions

    def _of_query(
        self, one: Scored, fitted: Fitted, query: Examples
    ) -> Iterator[Gradients]:
        one.setting.work.gradients += self._n_directions()
        states = per_example.drawn_states(
            one.setting.objective, query, self.query_draws
        )
        passage = one.forward(states)
        (key,) = query.keys.tolist()
        for probe in range(self.n_probes):
            keyed = seeding.generator(self.query_draws.seed, "probe", key, probe)
            pull = torch.randn(passage.prediction.shape, generator=keyed)
            # Every draw counts as an image: its change is squared before it is averaged.
            found = layers.per_image(passage, pull.to(states.noisy), states.n_draws)
            layers.require_finite(found, "query", [key] * states.n_draws)
            yield fitted.solve(found)

    def _n_directions(self) -> int:
        return len(self.query_draws) * self.n_probes
