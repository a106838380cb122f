"""Gradients by layer, averaged over draws, against the loss differentiated whole."""

import dataclasses

import pytest
import torch

from ensemble.models.conditioning import ClassLabels
from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.network import scored_networks, states_at
from ensemble.scorers.gradients.per_example import Draws
from splits.errors import BadInput
from tests import tiny
from tests.ensemble.scorers import tiny_context

DRAWS = Draws(n_timesteps=3, n_noises=2)


@pytest.fixture
def context(tmp_path):
    return tiny_context.of_reference(tiny_context.context(tmp_path))


@pytest.mark.parametrize("output", ["loss", "weighted_loss", "squared_norm"])
@pytest.mark.parametrize("timestep", [None, 300])
def test_a_gradient_is_that_of_the_mean_over_draws(context, output, timestep):
    (one,) = scored_networks(context, "")
    image = context.train[2:3]
    found = one.gradients(image, output, DRAWS, timestep)
    states = states_at(context, image, DRAWS, timestep)
    mean = per_example.values(one.network, states, output).mean()
    weights = list(one.network.parameters())
    for gradient, name in zip(
        torch.autograd.grad(mean, weights),
        [name for name, _ in one.network.named_parameters()],
        strict=True,
    ):
        layer, _, kind = name.rpartition(".")
        of_layer = found[layer][0]
        if kind == "bias":
            torch.testing.assert_close(of_layer[:, -1], gradient)
        else:
            as_patches = gradient.permute(0, 2, 3, 1).flatten(1)
            torch.testing.assert_close(of_layer[:, :-1], as_patches)


def test_a_gradient_does_not_depend_on_the_batch_that_it_is_taken_in(context):
    (one,) = scored_networks(context, "")
    together = one.gradients(context.train, "loss", DRAWS)
    alone = one.gradients(context.train[5:6], "loss", DRAWS)
    for name, gradient in together.items():
        torch.testing.assert_close(gradient[5:6], alone[name], rtol=1e-10, atol=1e-14)


def test_a_gradient_does_not_depend_on_how_much_fits_into_memory(context, monkeypatch):
    (one,) = scored_networks(context, "")
    expected = one.gradients(context.train, "loss", DRAWS)
    small = type(one.batch(1, 1))(n_images=5, n_draws=4)
    monkeypatch.setattr(type(one), "batch", lambda *_: small)
    for name, gradient in one.gradients(context.train, "loss", DRAWS).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-14)


def test_all_draws_stand_at_the_timestep_that_was_asked_for(context):
    states = states_at(context, context.queries, DRAWS, 300)
    assert states.timesteps.tolist() == [300] * 6
    flat = states.target[0].flatten(1)
    assert len(torch.unique(flat, dim=0)) == 6


def test_conditional_networks_are_told_each_images_label(tmp_path):
    network = tiny.ensemble(n_members=1, n_classes=2).members.networks[0]
    plain = tiny_context.of_reference(tiny_context.context(tmp_path))
    labelled = tiny_context.examples(12, 0, n_classes=2)
    context = dataclasses.replace(plain, networks=[network], train=labelled)
    (one,) = scored_networks(context, "conv_in")
    found = one.gradients(labelled, "loss", DRAWS)["conv_in"]
    all_alike = dataclasses.replace(
        labelled, condition=ClassLabels(torch.zeros(12).long(), 3)
    )
    other = one.gradients(all_alike, "loss", DRAWS)["conv_in"]
    same = [torch.equal(*pair) for pair in zip(found, other, strict=True)]
    assert same == [True, False] * 6


def test_a_gradient_that_is_not_finite_is_named(context):
    (one,) = scored_networks(context, "")
    context.train.images[4] = torch.inf
    with pytest.raises(BadInput, match=r"layer body\.\d at image 4 is not finite"):
        one.gradients(context.train, "loss", DRAWS)


def test_every_network_is_scored_at_what_it_saw(tmp_path):
    context = tiny_context.context(tmp_path)
    for number, one in enumerate(scored_networks(context, "")):
        assert one.network is context.networks[number]
        assert one.train[:].keys.tolist() == one.seen.tolist()
        assert context.saw[number, one.seen].all()
        assert len(one.seen) == context.saw[number].sum()


def test_blocks_of_queries_shrink_with_the_memory_and_the_directions(context):
    (one,) = scored_networks(dataclasses.replace(context, max_memory_mb=8), "")
    few = one.sizes(n_draws=4, n_held=100).n_queries
    assert 1 < few < one.sizes(n_draws=4, n_held=1).n_queries
    of_query = 100 * one.layers.n_weights * 8
    assert few * of_query <= 4 * 2**20
