"""What members' losses say, given what each was trained on: the ensemble as experiment.

Empirical influence compares the members that did not see a source with those that did,

    score[q, s] = mean loss of members without s - mean loss of members with s

the ensemble's members being the retrained models that the method asks for. (Feldman &
Zhang 2020, https://arxiv.org/abs/2008.03703)

A datamodel is a linear regression from what members saw to how well they do,

    loss of member m at q = constant - Σ over sources s of included[m, s] score[q, s]

with a penalty on the squares of scores (ridge), chosen by cross-validation over
members, or on their magnitudes (lasso). The paper cross-validates the lasso over
thousands of models; over the few members of an ensemble that leaves nothing, so the
lasso's penalty is a fixed share of the least that leaves nothing. (Ilyas et al. 2022,
https://arxiv.org/abs/2202.00622)

For both, sources that all members saw, or none, score 0.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64
from sklearn.linear_model import Lasso, RidgeCV

from ensemble.scorers.gradients.losses import query_losses
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import ScoringContext, over_images
from splits.errors import BadInput

FEWEST_MEMBERS = 4
RIDGE_PENALTIES = (0.1, 1.0, 10.0, 100.0)
LASSO_SHARE = 0.1


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

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query.

        Raises:
            BadInput: If there is only one network.
        """
        if len(context.networks) < 2:
            raise BadInput(
                "Empirical influence compares members, and there is one network. Score "
                "the ensemble instead."
            )
        losses = query_losses(context, self.draws).T
        included = context.included()
        n_with, n_without = included.sum(axis=0), (~included).sum(axis=0)
        without = losses @ ~included / n_without.clip(min=1)
        difference = without - losses @ included / n_with.clip(min=1)
        known = (n_with > 0) & (n_without > 0)
        return over_images(np.where(known, difference, 0), context.source_of)


@dataclass(frozen=True)
class Datamodel:
    """Ridge or lasso regression of losses on splits.

    Attributes:
        penalty: `ridge` or `lasso`.
        draws: Noise draws at which losses are measured.
    """

    paper: ClassVar[str] = "Ilyas et al. 2022, https://arxiv.org/abs/2202.00622"
    cost: ClassVar[str] = "M·K·Q forwards"
    needs: ClassVar[str] = "an ensemble of at least 4 members"
    scale: ClassVar[str] = "change of the query's loss"
    penalty: str = "ridge"
    draws: Draws = Draws()

    def __post_init__(self) -> None:
        if self.penalty not in ("ridge", "lasso"):
            raise BadInput(f"penalty is {self.penalty!r}; allowed: ridge, lasso.")

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query.

        Raises:
            BadInput: If there are too few networks.
        """
        if len(context.networks) < FEWEST_MEMBERS:
            raise BadInput(
                f"A datamodel is a regression over members, and there are "
                f"{len(context.networks)}: at least {FEWEST_MEMBERS} are needed. Score "
                "an ensemble of that many."
            )
        included = context.included().astype(np.float64)
        losses = query_losses(context, self.draws)
        fit = _ridge if self.penalty == "ridge" else _lasso
        scores, penalties = fit(included, losses)
        context.notes.append({"penalty_of_each_query": penalties})
        return over_images(-scores, context.source_of)


def _ridge(
    included: Float64[np.ndarray, "networks sources"],
    losses: Float64[np.ndarray, "networks queries"],
) -> tuple[Float64[np.ndarray, "queries sources"], list[float]]:
    model = RidgeCV(alphas=RIDGE_PENALTIES, alpha_per_target=True)
    model.fit(included, losses)
    return np.asarray(model.coef_), np.asarray(model.alpha_).tolist()


def _lasso(
    included: Float64[np.ndarray, "networks sources"],
    losses: Float64[np.ndarray, "networks queries"],
) -> tuple[Float64[np.ndarray, "queries sources"], list[float]]:
    centred = included - included.mean(axis=0)
    scores, penalties = [], []
    for of_query in losses.T:
        pull = np.abs(centred.T @ (of_query - of_query.mean())).max() / len(losses)
        penalties.append(LASSO_SHARE * float(pull))
        model = Lasso(penalties[-1], max_iter=100_000)
        scores.append(model.fit(included, of_query).coef_)
    return np.stack(scores), penalties
