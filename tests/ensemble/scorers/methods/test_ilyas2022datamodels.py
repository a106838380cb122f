"""Empirical influence and datamodels, where members' losses are known."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from ensemble.scorers import by_source
from ensemble.scorers.gradients.losses import query_losses
from ensemble.scorers.methods import ilyas2022datamodels
from ensemble.scorers.methods.ilyas2022datamodels import Datamodel, EmpiricalInfluence
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_context
from tests.ensemble.scorers.tiny_context import DRAWS

EFFECTS = np.array([0.3, 0.0, -0.2, 0.05])


class Offset(nn.Module):
    """Predicts the noise but for a constant: its loss is the constant squared."""

    def __init__(self, loss: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(loss, dtype=torch.float64).sqrt())

    def forward(self, noisy, timestep, class_labels=None):
        kept = tiny_context.objective().schedule.alphas_cumprod[timestep][
            :, None, None, None
        ]
        noise = noisy / (1 - kept).sqrt()
        return SimpleNamespace(sample=noise + self.offset)


def linear_setting(folder, n_members=12):
    """Every source lowers the loss by its effect; pictures are black (zero)."""
    plain = tiny_context.context(folder)
    bits = np.random.default_rng(1).random((4, n_members)) < 0.5
    source_of = np.array([0, 0, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3])
    losses = 2 - EFFECTS @ bits
    queries = dataclasses.replace(
        plain.queries, images=torch.zeros_like(plain.queries.images)
    )
    return dataclasses.replace(
        plain,
        networks=[Offset(loss) for loss in losses],
        saw=bits[source_of].T.copy(),
        source_of=source_of,
        n_sources=4,
        codes=None,
        queries=queries,
    )


def of_sources(scorer, context):
    return by_source(scorer.score(context), context.source_of, context.n_sources)


def test_the_losses_are_those_that_the_setting_says(tmp_path):
    context = linear_setting(tmp_path)
    wanted = 2 - EFFECTS @ context.included().T
    found = query_losses(context, DRAWS)
    np.testing.assert_allclose(found, wanted[:, None].repeat(3, 1), rtol=1e-5)


def test_empirical_influence_is_the_difference_of_means(tmp_path):
    context = linear_setting(tmp_path)
    found = of_sources(EmpiricalInfluence(DRAWS), context)
    losses = 2 - EFFECTS @ context.included().T
    for source, bits in enumerate(context.included().T):
        wanted = losses[~bits].mean() - losses[bits].mean()
        np.testing.assert_allclose(found[:, source], wanted, rtol=1e-4, atol=1e-5)


def test_under_an_orthogonal_design_empirical_influence_is_the_effect(tmp_path):
    context = linear_setting(tmp_path)
    grid = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, 16).astype(bool)
    grid = grid[:, grid.any(axis=0)]
    full = dataclasses.replace(
        context,
        networks=[Offset(loss) for loss in (2 - EFFECTS @ grid)] + [Offset(2.0)],
        saw=np.concatenate([grid[context.source_of].T, np.zeros((1, 12), bool)]),
    )
    found = of_sources(EmpiricalInfluence(DRAWS), full)
    np.testing.assert_allclose(found, [EFFECTS] * 3, rtol=1e-4, atol=1e-5)


def test_a_source_that_all_members_saw_scores_nothing(tmp_path):
    context = linear_setting(tmp_path)
    saw = context.saw.copy()
    saw[:, context.source_of == 1] = True
    saw[:, context.source_of == 3] = False
    found = of_sources(EmpiricalInfluence(DRAWS), dataclasses.replace(context, saw=saw))
    assert (found[:, [1, 3]] == 0).all()
    assert (found[:, [0, 2]] != 0).all()


@pytest.mark.parametrize("penalty", ["ridge", "lasso"])
def test_datamodels_find_linear_effects_with_their_sign(tmp_path, penalty):
    context = linear_setting(tmp_path, n_members=40)
    found = of_sources(Datamodel(penalty, DRAWS), context)
    np.testing.assert_allclose(found, [EFFECTS] * 3, atol=0.04)
    assert np.array_equal(found.argmax(axis=1), [0, 0, 0])


def test_ridge_is_scikit_learns_with_the_best_penalty(tmp_path):
    context = tiny_context.context(tmp_path)
    found = of_sources(Datamodel("ridge", DRAWS), context)
    losses, included = query_losses(context, DRAWS), context.included().astype(float)
    for query in range(3):
        candidates = [
            -Ridge(penalty).fit(included, losses[:, query]).coef_
            for penalty in ilyas2022datamodels.RIDGE_PENALTIES
        ]
        assert any(
            np.allclose(found[query], candidate, rtol=1e-4) for candidate in candidates
        )


def test_the_lasso_leaves_something_but_not_everything(tmp_path):
    context = linear_setting(tmp_path, n_members=40)
    found = of_sources(Datamodel("lasso", DRAWS), context)
    assert (found[:, 1] == 0).all()
    assert (found[:, 0] > 0).all()


def test_an_unknown_penalty_is_refused():
    with pytest.raises(BadInput, match="penalty is 'none'; allowed: ridge, lasso"):
        Datamodel("none")


def test_a_single_network_is_refused(tmp_path):
    context = tiny_context.of_reference(tiny_context.context(tmp_path))
    with pytest.raises(BadInput, match="there is one network"):
        EmpiricalInfluence().score(context)
    with pytest.raises(BadInput, match="there are 1: at least 4"):
        Datamodel().score(context)
