"""DAS: how much a training image changes what is predicted at the query.

    score[q, i] = (g_q K_λ⁻¹ g_i · r_i / (1 - h_i))²

where g is the gradient of the prediction's mean, scaled to length one at every draw
before it is averaged; r_i the residual of training image i, and h_i = g_i K_λ⁻¹ g_i its
leverage. The paper starts from the squared change of the whole predicted image; this is
its released form, in which one number stands for the image, with every part a switch.
Squared scores say how much, not in which direction. (Lin et al. 2025,
https://arxiv.org/abs/2410.18639)

Released code and paper disagree on the leverage: the paper's, a training image's own,
is used here.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import nn

from ensemble.scorers.gradients.features import (
    Feature,
    Rows,
)
from ensemble.scorers.gradients.kernel_scorer import (
    KernelScorer,
    Solved,
)
from ensemble.scorers.gradients.losses import losses
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import Setting

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

    def measured(
        self, setting: Setting, rows: Rows
    ) -> Float64[np.ndarray, " images"] | None:
        """The residual of each training image that the network saw; 1 of the others."""
        if self.residual is None:
            return None
        found = np.ones(len(setting.train))
        found[rows.seen] = residual_shares(
            setting, rows.network, rows.seen, self.residual
        )
        return found

    def formula(
        self,
        solved: Solved,
        images: Float[np.ndarray, "images width"],
        numbers: Int64[np.ndarray, " images"],
    ) -> Float[np.ndarray, "queries images"]:
        """Scores with those parts that are switched on."""
        score = solved.queries @ images.T
        if solved.measured is not None:
            score = score * solved.measured[numbers]
        if self.leverage:
            explained = solved.kernel.leverage(images, solved.damping)
            score = score / (1 - explained.clip(max=MOST_LEVERAGE))
        return np.square(score) if self.square else score


def residual_shares(
    setting: Setting,
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
        chosen = setting.train[numbers.to(setting.train.images.device)]
        squares = losses(setting, network, chosen, draws).astype(np.float64)
        shares.append(np.sqrt(squares).mean(axis=1) / np.sqrt(squares.sum(axis=1)))
    return np.concatenate(shares)
