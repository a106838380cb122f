"""Influence functions against closed forms, kronfluence and dattri."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.attribution import curvature as benchmark
from ensemble.scorers.curvature import fitting, layers
from ensemble.scorers.curvature.kfac import Curvature
from ensemble.scorers.gradients.network import scored_networks, states_at
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import Examples, Work
from ensemble.scorers.methods.mlodozeniec2025influence import InfluenceFunction
from splits.errors import BadInput
from tests.ensemble.scorers import denoisers, tiny_context

DRAWS = Draws(n_timesteps=3)
EXACT = Curvature("kfac", targets="exact", n_draws=3)


def small(examples):
    """Their upper left corners, 2x2 pixels."""
    return Examples(examples.images[..., :2, :2], examples.condition, examples.keys)


@pytest.fixture
def linear(tmp_path):
    """One linear network of four pixels that saw everything."""
    context = tiny_context.of_reference(tiny_context.context(tmp_path))
    return dataclasses.replace(
        context,
        networks=[denoisers.linear()],
        train=small(context.train),
        queries=small(context.queries),
    )


@pytest.fixture
def context(tmp_path):
    return tiny_context.context(tmp_path)


def in_closed_form(context, output="loss", timestep=None, damping=0.1):
    """gᵀ (H + λI)⁻¹ g of the linear network, with everything written out."""
    (one,) = scored_networks(context, "")
    (layer,) = [module for module in one.network.body if isinstance(module, nn.Linear)]
    weight = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()

    def gradients(examples, output, timestep):
        states = states_at(context, examples, DRAWS, timestep)
        given = nn.functional.pad(states.noisy.flatten(2), (0, 1), value=1.0)
        prediction = given @ weight.T
        cotangent = (
            prediction
            if output == "squared_norm"
            else prediction - states.target.flatten(2)
        )
        if output == "simplified_elbo":
            cotangent = states.weights[:, None] * cotangent
        return torch.einsum("nkd,nki->ndi", cotangent, given).flatten(1) * 2 / 4 / 3

    sample = fitting.draw_sample(context, context.train, EXACT, 0)
    given = nn.functional.pad(sample.noisy.flatten(1), (0, 1), value=1.0)
    of_inputs = given.T @ given / len(given)
    hessian = torch.kron(torch.eye(4).double(), of_inputs) * 2 / 4
    damped = hessian + damping * hessian.diagonal().mean() * torch.eye(20).double()
    asked = gradients(context.queries, output, timestep)
    found = gradients(context.train, "loss", None)
    return asked @ torch.linalg.solve(damped, found.T)


@pytest.mark.parametrize("measurement", ["loss", "simplified_elbo", "squared_norm"])
@pytest.mark.parametrize("timestep", [None, 600])
def test_for_a_linear_network_it_is_the_closed_form(linear, measurement, timestep):
    expected = in_closed_form(linear, measurement, timestep)
    found = InfluenceFunction(measurement, timestep, EXACT, DRAWS).score(linear)
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * scale)


def test_great_damping_leaves_the_inner_product_of_gradients(context):
    context = tiny_context.of_reference(context)
    curvature = Curvature(damping=1e6, n_draws=2)
    found = InfluenceFunction(curvature=curvature, draws=DRAWS).score(context)
    (one,) = scored_networks(context, "")
    asked = one.gradients(context.queries, "loss", DRAWS)
    trained = one.gradients(context.train, "loss", DRAWS)
    fitted = fitting.fitted(one, curvature)
    expected = sum(
        layers.products({name: asked[name]}, {name: trained[name]})
        / fitted.layers[name].damping
        for name in asked
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_an_images_own_query_has_positive_influence(context):
    context = dataclasses.replace(
        tiny_context.of_reference(context), queries=context.train
    )
    found = InfluenceFunction(draws=DRAWS).score(context)
    assert (found.diagonal() > 0).all()
    np.testing.assert_allclose(found, found.T, rtol=1e-4, atol=1e-4 * found.max())


def alone(context, number, seed, **changes):
    """What one network of a setting scores, with draws of a seed of their own."""
    one = dataclasses.replace(
        context,
        networks=[context.networks[number]],
        saw=context.saw[number : number + 1],
    )
    draws = dataclasses.replace(DRAWS, seed=seed)
    return InfluenceFunction(draws=draws, **changes).score(one)


@pytest.mark.parametrize("own_noise", [True, False])
def test_an_image_is_scored_by_the_mean_of_the_networks_that_saw_it(context, own_noise):
    context = tiny_context.first(context, 3)
    n_saw = context.saw.sum(axis=0)
    assert set(n_saw) == {1, 2}
    found = InfluenceFunction(draws=DRAWS, own_noise=own_noise).score(context)
    each = [alone(context, number, number * own_noise) for number in range(3)]
    assert all(
        (one[:, ~saw] == 0).all() for one, saw in zip(each, context.saw, strict=True)
    )
    np.testing.assert_allclose(found, np.sum(each, axis=0) / n_saw, rtol=1e-5)


def test_unseen_images_are_scored_by_the_curvature_at_what_was_seen(context):
    everything = dataclasses.replace(context, saw=np.ones_like(context.saw))
    (one,) = scored_networks(tiny_context.first(context, 1), "")
    inverse = fitting.fitted(one, Curvature())
    asked, trained = (
        one.gradients(examples, "loss", DRAWS)
        for examples in (context.queries, context.train)
    )
    expected = layers.products(inverse.solve(asked), trained).numpy()
    found = alone(context, 0, 0, unseen=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    seen = context.saw[0]
    np.testing.assert_array_equal(found[:, seen], alone(context, 0, 0)[:, seen])
    assert not np.allclose(found, alone(everything, 0, 0), rtol=0.01)


def test_a_network_that_saw_everything_has_nothing_unseen(context):
    reference = tiny_context.of_reference(context)
    plain, every = (
        InfluenceFunction(draws=DRAWS, unseen=unseen).score(reference)
        for unseen in (False, True)
    )
    assert np.array_equal(plain, every)


def test_with_unseen_images_all_networks_are_averaged(context):
    context = tiny_context.first(context, 3)
    found = InfluenceFunction(draws=DRAWS, unseen=True).score(context)
    each = [alone(context, number, number, unseen=True) for number in range(3)]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5)


def test_what_was_scored_without_unseen_images_is_not_scored_again(context):
    InfluenceFunction(draws=DRAWS).score(context)
    before = context.work.gradients
    context = dataclasses.replace(context, work=Work())
    InfluenceFunction(draws=DRAWS, unseen=True).score(context)
    again = dataclasses.replace(context, work=Work())
    InfluenceFunction(draws=DRAWS, unseen=True).score(again)
    assert before < context.work.gradients == again.work.gradients
    assert context.work.seconds_before > 0


def test_scores_do_not_depend_on_memory(context, tmp_path):
    scorer = InfluenceFunction(draws=DRAWS)
    expected = scorer.score(context)
    tight = dataclasses.replace(context, max_memory_mb=2, folder=tmp_path / "tight")
    np.testing.assert_allclose(scorer.score(tight), expected, rtol=1e-5)


def test_only_layers_that_match_take_part(context):
    parts = [
        InfluenceFunction(draws=DRAWS, pattern=pattern).score(context)
        for pattern in (r"body\.0", r"body\.2")
    ]
    whole = InfluenceFunction(draws=DRAWS).score(context)
    scale = np.abs(whole).max()
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-4, atol=1e-5 * scale)


def test_an_unknown_measurement_is_refused():
    with pytest.raises(BadInput, match="measurement is 'elbo'; allowed: loss, simplif"):
        InfluenceFunction("elbo")


def test_a_timestep_below_zero_is_refused():
    with pytest.raises(BadInput, match="timestep is -1; allowed: from 0 up"):
        InfluenceFunction(timestep=-1)


def test_a_timestep_beyond_the_schedule_is_refused(context):
    with pytest.raises(BadInput, match="timestep is 1000, but the noise schedule has"):
        InfluenceFunction(timestep=1000).score(context)


@pytest.mark.oracle
def test_ekfac_influence_on_a_unet_agrees_with_kronfluence():
    pytest.importorskip("kronfluence", reason="kronfluence is not installed")
    prepared = benchmark.network_and_samples(n_train=24, n_queries=2, n_draws=2)
    found, _ = benchmark.ours(*prepared, n_draws=2, batch_size=16)
    expected, _ = benchmark.kronfluence(*prepared, n_draws=2, batch_size=16)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6 * scale)


@pytest.mark.oracle
def test_exact_influence_on_a_linear_network_agrees_with_dattri():
    pytest.importorskip("dattri", reason="dattri is not installed")
    from dattri.algorithm.influence_function import IFAttributorExplicit
    from dattri.task import AttributionTask
    from torch.utils.data import DataLoader, TensorDataset

    network = denoisers.linear()
    train, asked = denoisers.sample(20, 1, 2, 2), denoisers.sample(3, 1, 2, 2, seed=1)
    found = layers.find(network)
    curvature = Curvature("kfac", targets="exact", damping=0.0)
    spectra = curvature.measure(network, found, lambda _: [train])
    fitted = curvature.damp(spectra, found, network.body[1].weight)

    def gradients(sample):
        recorded = layers.forward(network, found, sample.noisy, sample.timestep)
        error = recorded.prediction.detach() - sample.target
        return layers.per_image(recorded, 2 / 4 * error, len(error))

    ours = layers.products(fitted.solve(gradients(asked)), gradients(train))

    def loss(weights, batch):
        noisy, wanted = batch
        prediction = torch.func.functional_call(network.body, weights, noisy)
        return nn.functional.mse_loss(prediction, wanted)

    def loader(sample):
        pairs = TensorDataset(sample.noisy, sample.target.flatten(1))
        return DataLoader(pairs, batch_size=len(pairs))

    task = AttributionTask(
        loss_func=loss, model=network.body, checkpoints=network.body.state_dict()
    )
    oracle = IFAttributorExplicit(task)
    oracle.cache(loader(train))
    expected = oracle.attribute(loader(train), loader(asked)).T
    # dattri answers in float32.
    torch.testing.assert_close(ours.float(), expected, rtol=1e-5, atol=1e-6)
