"""Unlearning against influence functions, its limit for short steps."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from ensemble.scorers.curvature import fitting
from ensemble.scorers.curvature.kfac import Curvature
from ensemble.scorers.gradients import network as scored_networks
from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.methods.mlodozeniec2025influence import InfluenceFunction
from ensemble.scorers.methods.wang2024unlearning import Unlearning
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_context

DRAWS = Draws(n_timesteps=3)
QUICK = Unlearning(query_draws=DRAWS, draws=DRAWS)


@pytest.fixture
def context(tmp_path):
    return tiny_context.of_reference(tiny_context.context(tmp_path))


@pytest.mark.parametrize(
    "curvature", [Curvature(), Curvature("kfac"), Curvature("diagonal", "observed")]
)
def test_for_short_steps_it_is_the_influence_function(context, curvature):
    step_size = 1e-7
    scorer = dataclasses.replace(QUICK, step_size=step_size, curvature=curvature)
    found = scorer.score(context) * len(context.train) / step_size
    expected = InfluenceFunction(curvature=curvature, draws=DRAWS).score(context)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


def test_many_short_steps_are_one_long_step_to_first_order(context):
    # Every step has draws of its own, so many steps average the gradients of theirs.
    long = dataclasses.replace(QUICK, step_size=4e-6, query_draws=DRAWS)
    alone = [
        dataclasses.replace(
            long, step_size=1e-6, query_draws=dataclasses.replace(DRAWS, seed=seed)
        ).score(context)
        for seed in range(4)
    ]
    many = dataclasses.replace(long, step_size=1e-6, n_steps=4).score(context)
    np.testing.assert_allclose(many, np.sum(alone, axis=0), rtol=1e-3)
    assert np.abs(many / long.score(context) - 1).max() > 0.01


def test_the_network_itself_stays_as_it_is(context):
    before = copy.deepcopy(context.networks[0].state_dict())
    QUICK.score(context)
    for name, weights in context.networks[0].state_dict().items():
        assert torch.equal(weights, before[name])


def test_the_query_is_unlearned(context):
    (one,) = scored_networks.scored_networks(context, "")

    query = context.queries[:1]
    fitted = fitting.fitted(one, QUICK.curvature)
    states = per_example.draw_states(context.objective, query, DRAWS)
    losses = [
        float(per_example.values(network, states, "loss").detach().mean())
        for network in (
            one.network,
            QUICK._unlearned(one, fitted, query),
            dataclasses.replace(QUICK, n_steps=5)._unlearned(one, fitted, query),
        )
    ]
    assert losses[0] < losses[1] < losses[2]


def of_network(context, number):
    """One network of a setting, with the noise that is its own there."""
    alone = dataclasses.replace(
        context,
        networks=[context.networks[number]],
        saw=context.saw[number : number + 1],
        codes=None,
    )
    draws = dataclasses.replace(DRAWS, seed=DRAWS.seed + number)
    return alone, dataclasses.replace(QUICK, query_draws=draws, draws=draws)


@pytest.mark.parametrize("unseen", [False, True])
def test_an_ensemble_is_the_mean_over_those_that_score_an_image(tmp_path, unseen):
    context = tiny_context.context(tmp_path)
    total = np.zeros((len(context.queries), len(context.train)))
    n_scored = np.zeros(len(context.train))
    for number in range(len(context.networks)):
        alone, scorer = of_network(context, number)
        total += dataclasses.replace(scorer, unseen=unseen).score(alone)
        n_scored += 1 if unseen else context.saw[number]
    found = dataclasses.replace(QUICK, unseen=unseen).score(context)
    np.testing.assert_allclose(found, total / n_scored, rtol=1e-5, atol=1e-12)


def test_what_a_network_did_not_see_suffers_too(tmp_path):
    context = tiny_context.context(tmp_path)
    alone, scorer = of_network(context, 1)
    seen = scorer.score(alone)
    both = dataclasses.replace(scorer, unseen=True).score(alone)
    saw = alone.saw[0]
    np.testing.assert_allclose(both[:, saw], seen[:, saw], rtol=1e-5)
    assert (seen[:, ~saw] == 0).all()
    assert (both[:, ~saw] != 0).all()


def test_for_short_steps_unseen_images_have_the_influence_function_too(tmp_path):
    alone, scorer = of_network(tiny_context.context(tmp_path), 1)
    step_size = 1e-7
    short = dataclasses.replace(
        scorer, step_size=step_size, curvature=Curvature(), unseen=True
    )
    found = short.score(alone) * alone.saw.sum() / step_size
    expected = InfluenceFunction(draws=scorer.draws, unseen=True).score(alone)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


def test_only_layers_that_match_are_changed(context):

    scorer = dataclasses.replace(QUICK, pattern=r"body\.2")
    (one,) = scored_networks.scored_networks(context, scorer.pattern)
    fitted = fitting.fitted(one, scorer.curvature)
    moved = scorer._unlearned(one, fitted, context.queries[:1]).state_dict()
    for name, weights in context.networks[0].state_dict().items():
        assert torch.equal(weights, moved[name]) == name.startswith("body.0")


def test_an_images_score_does_not_depend_on_the_other_images(context, monkeypatch):
    expected = QUICK.score(context)
    monkeypatch.setattr("ensemble.scorers.methods.wang2024unlearning.IMAGES_AT_ONCE", 5)
    monkeypatch.setattr("ensemble.scorers.gradients.batch_size.ENOUGH", 4)
    elsewhere = dataclasses.replace(context, folder=context.folder / "again")
    np.testing.assert_allclose(QUICK.score(elsewhere), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps is 0; at least 1"),
        ({"step_size": 0.0}, "step_size is 0.0; allowed: above 0"),
        ({"step_size": float("inf")}, "step_size is inf; allowed: above 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        Unlearning(**options)


def test_steps_that_lead_nowhere_are_refused(context):
    with pytest.raises(BadInput, match="step_size=1e[+]200 is too long"):
        dataclasses.replace(QUICK, step_size=1e200).score(context)
