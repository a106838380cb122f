"""DAS, in its released form and in its vector form: how far an image moves a prediction.

Released:

    score[q, i] = (g_q K_λ⁻¹ g_i · r_i / (1 - h_i))²

where g is the gradient of the prediction's mean, scaled to length one at every draw
before it is averaged; r_i the residual of training image i, and h_i = g_i K_λ⁻¹ g_i its
leverage. The paper starts from the squared change of the whole predicted image; this is
its released form, in which one number stands for the image, with every part a switch.
Squared scores say how much, not in which direction. (Lin et al. 2025,
https://arxiv.org/abs/2410.18639)

Released code and paper disagree on the leverage: the paper's, a training image's own,
is used here.

Vector: the diffusion attribution score asks how much the predicted noise at the query
changes, as a vector, if a training image is left out: ‖J_q H⁻¹ J_iᵀ r_i‖², J the
derivative of the prediction, r_i the error at the image. J_iᵀ r_i is the gradient of the
loss, up to a factor, and the length of a vector is that of its products with random
probes, so

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
from jaxtyping import Float, Float32, Float64, Int64
from torch import nn

from ensemble.scorers.curvature import fitting, layers
from ensemble.scorers.curvature.kfac import Curvature, DampedCurvature
from ensemble.scorers.curvature.layers import Gradients
from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.blocks import ScoreBlock
from ensemble.scorers.gradients.features import Feature, Rows
from ensemble.scorers.gradients.kernel_scorer import KernelScorer, SolvedQueries
from ensemble.scorers.gradients.losses import losses
from ensemble.scorers.gradients.network import (
    ScoredNetwork,
    mean_over_networks,
    scored_networks,
)
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import Examples, ScoringContext
from ensemble.system import seeding
from splits.errors import BadInput

# Leverages are cut off here: those that explain themselves entirely would be infinite.
MOST_LEVERAGE = 0.99
# Images whose losses are held at once.
AT_ONCE = 4096


@dataclass(frozen=True)
class Das(KernelScorer):
    """Diffusion attribution score, as released.

    Attributes:
        feature: Which gradient stands for an image; `unit_draws` is the scaling to
            length one.
        damping: λ, relative to the mean squared length of the training features.
        residual: Draws at which training images' residuals are measured; None leaves
            residuals out.
        leverage: Divide by one minus the leverage.
        square: Square the score; otherwise it keeps its sign.
    """

    paper: ClassVar[str] = "Lin et al. 2025, https://arxiv.org/abs/2410.18639"
    cost: ClassVar[str] = "M·K·(N+Q) gradients, M·R·N forwards, M·N³ for the kernel"
    scale: ClassVar[str] = "squared change of the mean prediction, up to a factor"
    feature: Feature = Feature(output="mean", unit_draws=True)
    residual: Draws | None = Draws(n_timesteps=100)
    leverage: bool = True
    square: bool = True

    def image_factors(
        self, context: ScoringContext, rows: Rows
    ) -> Float64[np.ndarray, " images"] | None:
        """The residual of each training image that the network saw; 1 of the others."""
        if self.residual is None:
            return None
        found = np.ones(len(context.train))
        found[rows.seen] = residual_shares(
            context, rows.network, rows.seen, self.residual
        )
        return found

    def formula(
        self,
        solved: SolvedQueries,
        images: Float[np.ndarray, "images width"],
        numbers: Int64[np.ndarray, " images"],
    ) -> Float[np.ndarray, "queries images"]:
        """Scores with those parts that are switched on."""
        score = solved.queries @ images.T
        if solved.image_factors is not None:
            score = score * solved.image_factors[numbers]
        if self.leverage:
            explained = solved.kernel.leverage(images, solved.damping)
            score = score / (1 - explained.clip(max=MOST_LEVERAGE))
        return np.square(score) if self.square else score


def residual_shares(
    context: ScoringContext,
    network: nn.Module,
    seen: Int64[np.ndarray, " seen"],
    draws: Draws,
) -> Float64[np.ndarray, " seen"]:
    """The released residual r_i.

    With e_it the root mean squared error at image i and draw t of T,

        r_i = 1/T Σ_t e_it / sqrt(Σ_t e_it²)
    """
    shares = []
    for first in range(0, len(seen), AT_ONCE):
        numbers = torch.from_numpy(seen[first : first + AT_ONCE])
        chosen = context.train[numbers.to(context.train.images.device)]
        squares = losses(context, network, chosen, draws).astype(np.float64)
        shares.append(np.sqrt(squares).mean(axis=1) / np.sqrt(squares.sum(axis=1)))
    return np.concatenate(shares)


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

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Mean score of every training image by the networks that saw it."""
        return mean_over_networks(
            lambda _: self,
            context,
            scored_networks(context, self.pattern),
            lambda one: one.sizes(len(self.draws), self._n_directions()),
            self._prepare_by,
        )

    def _prepare_by(self, one: ScoredNetwork) -> Callable[[slice], ScoreBlock]:
        fitted = fitting.fitted(one, self.curvature)

        def prepare(queries: slice) -> ScoreBlock:
            asked = one.context.queries[queries]
            directions = self._directions(one, fitted, asked)

            def score_block(images: slice) -> Float[np.ndarray, "queries images"]:
                found = one.gradients(one.scored_images[images], "loss", self.draws)
                moved = layers.products(directions, found)
                squared = moved.reshape(len(asked), -1, len(moved.T)).square()
                return squared.mean(dim=1).cpu().numpy()

            return score_block

        return prepare

    def _directions(
        self, one: ScoredNetwork, fitted: DampedCurvature, asked: Examples
    ) -> Gradients:
        """(H + λI)⁻¹ ∇<z, prediction>, for each query all draws and probes in turn."""
        n_directions = self._n_directions()
        like = one.context.train.images
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
        self, one: ScoredNetwork, fitted: DampedCurvature, query: Examples
    ) -> Iterator[Gradients]:
        one.context.work.gradients += self._n_directions()
        states = per_example.draw_states(one.context.objective, query, self.query_draws)
        recorded = one.forward(states)
        (key,) = query.keys.tolist()
        for probe in range(self.n_probes):
            keyed = seeding.generator(self.query_draws.seed, "probe", key, probe)
            cotangent = torch.randn(recorded.prediction.shape, generator=keyed)
            # Every draw counts as an image: its change is squared before it is averaged.
            found = layers.per_image(
                recorded, cotangent.to(states.noisy), states.n_draws
            )
            layers.require_finite(found, "query", [key] * states.n_draws)
            yield fitted.solve(found)

    def _n_directions(self) -> int:
        return len(self.query_draws) * self.n_probes
