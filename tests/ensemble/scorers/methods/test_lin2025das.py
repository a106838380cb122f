"""DAS against its formula with whole gradients, and its vector form against the Jacobian."""

import dataclasses

import numpy as np
import pytest
import torch

from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.scorers.curvature import fitting, layers
from ensemble.scorers.curvature.kfac import Curvature, Sample
from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.network import scored_networks
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.methods.lin2025das import MOST_LEVERAGE, Das, VectorDas
from ensemble.system import seeding
from splits.errors import BadInput
from tests.ensemble.scorers import denoisers, references, tiny_context
from tests.ensemble.scorers.methods.test_mlodozeniec2025influence import small
from tests.ensemble.scorers.references import DAMPING, agree, expected, trak, whole
from tests.ensemble.scorers.tiny_context import DRAWS

QUICK = VectorDas(
    n_probes=100,
    query_draws=Draws(n_timesteps=2),
    curvature=Curvature(n_draws=3),
    draws=Draws(n_timesteps=3),
)


@pytest.fixture(name="context")
def small_setting(tmp_path):
    """One network so small that its Jacobian can be written out."""
    context = tiny_context.of_reference(tiny_context.context(tmp_path))
    return dataclasses.replace(
        context,
        networks=[denoisers.deep_linear()],
        train=small(context.train),
        queries=small(context.queries),
    )


def by_brute_force(context):
    """J_q (H + λI)⁻¹ ∇loss(i): (queries, draws, values, images), all written out."""
    (one,) = scored_networks(context, "")
    trained = one.gradients(one.train[:], "loss", QUICK.draws)
    moved = fitting.fitted(one, QUICK.curvature).solve(trained)
    # In the order of the network's parameters: weights, then the bias.
    steps = torch.cat(
        [
            part.flatten(1)
            for step in moved.values()
            for part in (step[..., :-1], step[..., -1])
        ],
        dim=1,
    )
    states = per_example.draw_states(
        context.objective, context.queries, QUICK.query_draws
    )
    flat = states.noisy.flatten(0, 1)
    sample = Sample(flat, states.timesteps.repeat(3), UNCONDITIONAL, flat, flat)
    derivative = denoisers.jacobian(one.network, sample)
    return torch.einsum("sdw,iw->sdi", derivative, steps).reshape(3, 2, 4, -1)


def test_the_vector_form_is_the_squared_product_of_probes_with_the_change_of_the_prediction(
    context,
):
    change = by_brute_force(context)
    found = dataclasses.replace(QUICK, n_probes=3).score(context)
    for query, key in enumerate(context.queries.keys.tolist()):
        probes = [
            torch.randn(2, 1, 2, 2, generator=seeding.generator(0, "probe", key, probe))
            for probe in range(3)
        ]
        probes = torch.stack(probes).double().flatten(2)
        products = torch.einsum("ptd,tdi->pti", probes, change[query])
        expected = products.square().mean(dim=(0, 1))
        np.testing.assert_allclose(found[query], expected, rtol=1e-5)


def test_the_vector_form_is_the_squared_change_of_the_prediction_on_average(context):
    expected = by_brute_force(context).square().sum(dim=2).mean(dim=1).numpy()
    # 100 probes of each of two draws: five standard errors are at most 0.5.
    np.testing.assert_allclose(QUICK.score(context), expected, rtol=0.5)
    assert np.log(QUICK.score(context) / expected).mean() == pytest.approx(0, abs=0.15)


def test_the_vector_form_is_never_negative(context):
    assert (dataclasses.replace(QUICK, n_probes=1).score(context) >= 0).all()


def test_a_query_does_not_depend_on_the_others(context, tmp_path):
    scorer = dataclasses.replace(QUICK, n_probes=2)
    alone = dataclasses.replace(context, queries=context.queries[1:2])
    together = scorer.score(context)
    np.testing.assert_allclose(scorer.score(alone)[0], together[1], rtol=1e-5)


def test_no_probes_are_refused():
    with pytest.raises(BadInput, match="n_probes is 0; at least 1"):
        VectorDas(n_probes=0)


def test_directions_that_are_not_finite_are_named(context):
    context.queries.images[1] = torch.inf
    with pytest.raises(BadInput, match=r"layer body\.\d at query 1001 is not finite"):
        QUICK.score(context)


def test_networks_are_found_by_their_layers(context):
    assert set(layers.find(context.networks[0]).modules) == {
        "body.1",
        "body.2",
        "body.3",
    }


def shares(context):
    """The released residual, from every error at every draw."""
    states = per_example.draw_states(context.objective, context.train, DRAWS)
    errors = per_example.values(context.networks[0], states, "loss").detach().sqrt()
    return (errors.mean(dim=1) / errors.norm(dim=1)).numpy()


@pytest.mark.parametrize(
    ("unit", "residual", "leverage", "square"),
    [
        (True, DRAWS, True, True),
        (False, DRAWS, True, True),
        (True, None, True, True),
        (True, DRAWS, False, True),
        (True, DRAWS, True, False),
        (False, None, False, False),
    ],
)
def test_das_is_its_formula_with_every_part_a_switch(
    tmp_path, unit, residual, leverage, square
):
    context = tiny_context.of_reference(tiny_context.context(tmp_path))

    def formula(train, queries):
        score = trak(train, queries)
        if residual is not None:
            score = score * shares(context)
        if leverage:
            solved = references.inverse_kernel(train, DAMPING)(train)
            explained = np.einsum("iw,iw->i", train, solved)
            score = score / (1 - explained.clip(max=MOST_LEVERAGE))
        return score**2 if square else score

    feature = whole(output="mean", unit_draws=unit)
    found = Das(feature, DAMPING, residual, leverage, square).score(context)
    agree(found, expected(context, formula, "mean", unit))


def test_every_part_of_das_matters(tmp_path):
    context = tiny_context.of_reference(tiny_context.context(tmp_path))
    feature = whole(output="mean", unit_draws=True)
    full = Das(feature, DAMPING, DRAWS)
    variants = [
        full,
        dataclasses.replace(full, feature=whole(output="mean")),
        dataclasses.replace(full, residual=None),
        dataclasses.replace(full, leverage=False),
        dataclasses.replace(full, square=False),
        dataclasses.replace(full, damping=2 * DAMPING),
    ]
    scores = [variant.score(context) for variant in variants]
    for another in scores[1:]:
        assert not np.allclose(another, scores[0], rtol=1e-3)


def test_das_squares_after_dividing_so_its_scores_are_never_negative(tmp_path):
    context = tiny_context.of_reference(tiny_context.context(tmp_path))
    full = Das(whole(output="mean", unit_draws=True), DAMPING, DRAWS)
    signed = dataclasses.replace(full, square=False).score(context)
    assert (signed < 0).any()
    agree(full.score(context), signed.astype(np.float64) ** 2)
