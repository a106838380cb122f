"""Gradients of single images against torch, one image and one draw at a time."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.func import functional_call, grad, vmap

from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.per_example import LAYERS, OUTPUTS, Draws, States
from ensemble.scorers.gradients.projection import Projection
from ensemble.scorers.interface import Examples
from ensemble.training.optimization import denoising_loss
from splits.errors import BadInput
from tests import tiny
from tests.ensemble.scorers import references, tiny_context
from tests.ensemble.scorers.denoisers import Denoiser

WHOLE = Projection(n_dimensions=None)
KINDS = {
    "plain": {},
    "attention": {"add_attention": True, "attention_head_dim": 4},
    "scale_shift": {"resnet_time_scale_shift": "scale_shift"},
    "conditional": {"n_classes": 3},
}


def network_of(kind="plain"):
    return tiny.ensemble(n_members=1, **KINDS[kind]).members.networks[0]


def states_of(n_images=3, n_draws=2, n_classes=None, prediction_type="epsilon"):
    return per_example.draw_states(
        tiny_context.objective(prediction_type),
        tiny_context.examples(n_images, 5, n_classes),
        Draws(n_timesteps=n_draws),
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_states_are_made_where_the_images_are(prediction_type):
    """A device without numbers refuses what is mixed with the processor's, as GPUs do."""
    meta = torch.device("meta")
    images = torch.zeros(3, 1, 8, 8, device=meta)
    examples = Examples(images, UNCONDITIONAL, torch.arange(3))
    states = per_example.draw_states(
        tiny_context.objective(prediction_type), examples, Draws(2)
    )
    assert states.noisy.device == states.target.device == states.weights.device == meta


def sums(network, states, output="loss", projection=WHOLE):
    keys = list(range(len(states.noisy)))
    return per_example.gradient_sums(network, states, output, projection, keys)


def naive(network, states, output="loss"):
    """One ordinary gradient at a time."""
    return torch.stack(
        [
            sum(
                references.gradient_of(network, states, image, draw, output)
                for draw in range(states.n_draws)
            )
            for image in range(len(states.noisy))
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_images_gradient_is_torchs_own(kind):
    n_classes = KINDS[kind].get("n_classes")
    network, states = network_of(kind), states_of(n_classes=n_classes)
    torch.testing.assert_close(
        sums(network, states), naive(network, states), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    ("output", "prediction_type"),
    [*((output, "epsilon") for output in OUTPUTS), ("weighted_loss", "v_prediction")],
)
def test_every_output_is_differentiated_as_torch_does(output, prediction_type):
    network = network_of()
    states = states_of(n_images=2, prediction_type=prediction_type)
    torch.testing.assert_close(
        sums(network, states, output),
        naive(network, states, output),
        rtol=1e-9,
        atol=1e-12,
    )


def test_gradients_are_those_of_torch_func():
    network, states = network_of(), states_of()
    weights = dict(network.named_parameters())

    def loss(weights, noisy, wanted):
        found = functional_call(network, weights, (noisy, states.timesteps))
        return (found.sample - wanted).square().mean(dim=(1, 2, 3)).sum()

    by_name = vmap(grad(loss), in_dims=(None, 0, 0))(
        weights, states.noisy, states.target
    )
    expected = torch.cat([part.flatten(1) for part in by_name.values()], dim=1)
    torch.testing.assert_close(sums(network, states), expected, rtol=1e-9, atol=1e-12)


def test_every_kind_of_layer_is_covered():
    """Strides, dilation, groups, missing biases and repeated calls."""
    repeated = nn.Conv2d(2, 2, 3, padding=1)
    network = Denoiser(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 2, 1),
        repeated,
        nn.Tanh(),
        repeated,
        nn.Flatten(),
        nn.Linear(32, 64, bias=False),
    )
    states = states_of()
    torch.testing.assert_close(
        sums(network, states), naive(network, states), rtol=1e-9, atol=1e-12
    )


def test_the_projected_gradient_is_the_gradient_projected():
    network, states = network_of(), states_of()
    whole, projection = sums(network, states), Projection(32)
    expected, first = whole.new_zeros(3, 32), 0
    for name, weights in network.named_parameters():
        part = whole[:, first : first + weights.numel()]
        projection.add(expected, part, name, first)
        first += weights.numel()
    found = sums(network, states, projection=projection)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_gradient_does_not_depend_on_its_batch():
    network, states = network_of(), states_of(n_images=4, n_draws=3)
    together = sums(network, states)
    examples = tiny_context.examples(4, 5)
    for image in range(4):
        alone = per_example.draw_states(
            tiny_context.objective(), examples[image : image + 1], Draws(n_timesteps=3)
        )
        row = sum(sums(network, alone.at(slice(d, d + 1))) for d in range(3))[0]
        torch.testing.assert_close(row, together[image], rtol=1e-10, atol=1e-13)


def test_float32_is_close_to_float64():
    network, states = network_of("attention"), states_of()
    expected = sums(network, states)
    single = States(
        states.noisy.float(),
        states.target.float(),
        states.timesteps,
        states.weights.float(),
        UNCONDITIONAL,
    )
    found = sums(network.float(), single)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_only_trainable_weights_count_and_all_is_put_back():
    network, states = network_of(), states_of()
    for name, weights in network.named_parameters():
        weights.requires_grad_(name.startswith("conv_out"))
    before = [weights.requires_grad for weights in network.parameters()]
    whole = sums(network_of(), states)
    n_weights = sum(weights.numel() for weights in network.conv_out.parameters())
    torch.testing.assert_close(sums(network, states), whole[:, -n_weights:])
    assert [weights.requires_grad for weights in network.parameters()] == before
    assert all(weights.grad is None for weights in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_the_noise_of_a_draw_is_its_keys_alone():
    draws, levels = Draws(n_timesteps=2, n_noises=2), torch.tensor([10, 10, 500, 500])
    examples = tiny_context.examples(4, 5)
    noise = draws.noise(examples, levels)
    order = torch.tensor([2, 0])
    assert torch.equal(draws.noise(examples[order], levels), noise[order])
    assert torch.equal(draws.noise(examples, levels[:2]), noise[:, :2])
    distinct = noise.flatten(0, 1).flatten(1)
    assert (torch.cdist(distinct, distinct) + torch.eye(16) * 9 > 1).all()
    assert abs(distinct.mean()) < 4 / 1024**0.5
    another = dataclasses.replace(draws, seed=1)
    assert not torch.equal(another.noise(examples, levels), noise)


def test_shared_noise_is_the_same_for_all_images():
    draws, levels = Draws(n_timesteps=2, shared_noise=True), torch.tensor([10, 500])
    noise = draws.noise(tiny_context.examples(4, 5), levels)
    assert (noise == noise[:1]).all()
    assert not torch.equal(noise[0, 0], noise[0, 1])


def test_timesteps_are_spread_evenly():
    levels = Draws(n_timesteps=4, n_noises=2).timesteps(tiny_context.objective())
    assert levels.tolist() == [125, 125, 375, 375, 625, 625, 875, 875]


def test_networks_are_told_the_noise_or_the_velocity():
    states = states_of(prediction_type="v_prediction")
    kept = (
        tiny_context.objective("v_prediction")
        .schedule.alphas_cumprod[states.timesteps]
        .sqrt()[None, :, None, None, None]
    )
    clean = tiny_context.examples(3, 5).images[:, None]
    # Noise and picture turned by an angle: undoing the turn gives the picture back.
    back = kept * states.noisy - (1 - kept**2).sqrt() * states.target
    torch.testing.assert_close(back, clean.expand_as(back), rtol=1e-5, atol=1e-5)


def test_the_weighted_loss_says_the_same_of_noise_and_velocity():
    """A prediction that is a given noise off costs the same, however it is put."""
    noise, velocity = states_of(), states_of(prediction_type="v_prediction")
    kept = tiny_context.objective().schedule.alphas_cumprod[noise.timesteps].double()
    error = torch.ones_like(noise.target)
    of_noise = per_example.weighted_loss(
        (noise.target + error)[0], noise.target[0], noise.weights
    )
    as_velocity = error / kept.sqrt()[None, :, None, None, None]
    of_velocity = per_example.weighted_loss(
        (velocity.target + as_velocity)[0], velocity.target[0], velocity.weights
    )
    torch.testing.assert_close(of_noise, of_velocity)


def test_outputs_are_what_their_names_say():
    prediction = torch.tensor([[3.0, -4.0], [0.5, 0.0]]).reshape(2, 1, 1, 2)
    wanted, weights = torch.ones_like(prediction), torch.tensor([2.0, 3.0])
    expected = {
        "loss": [14.5, 0.625],
        "weighted_loss": [29.0, 1.875],
        "squared_norm": [12.5, 0.125],
        "mean": [-0.5, 0.25],
        "l1_norm": [3.5, 0.25],
        "l2_norm": [12.5**0.5, 0.125**0.5],
        "linf_norm": [4.0, 0.5],
    }
    for name, output in OUTPUTS.items():
        found = output(prediction, wanted, weights)
        np.testing.assert_allclose(found, expected[name], rtol=1e-6)


def test_the_loss_is_the_one_that_members_are_trained_on():
    network, objective = network_of().float(), tiny_context.objective()
    clean = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    level = torch.tensor([300])
    states = per_example.add_noise(
        objective, clean[:, None], noise[:, None], level, UNCONDITIONAL
    )
    expected = denoising_loss(
        network, objective, clean, level, noise, UNCONDITIONAL, Accelerator()
    )
    assert per_example.values(network, states, "loss").item() == expected.item()


def test_a_gradient_that_is_not_finite_is_named():
    network, states = network_of(), states_of()
    states.noisy[1, 0, 0, 0, 0] = float("nan")
    with pytest.raises(BadInput, match=r"by conv_out\.\w+ at image 1 is not finite"):
        sums(network, states)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(weights.requires_grad for weights in network.parameters())


def test_unsupported_layers_are_listed():
    network = Denoiser(
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), nn.PReLU()
    )
    with pytest.raises(BadInput, match=r"body.0 \(Conv2d, padding circular\).*PReLU"):
        sums(network, states_of())


def test_weights_that_are_used_without_their_layer_are_named():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(64, 64)

        def forward(self, given):
            return nn.functional.linear(given, self.inner.weight)

    network = Denoiser(nn.Flatten(), nn.Linear(64, 64), Around())
    with pytest.raises(BadInput, match=r"No gradient came back to body\.2\.inner"):
        sums(network, states_of())


def test_a_network_without_trainable_weights_is_refused():
    with pytest.raises(BadInput, match="no trainable weights"):
        sums(network_of().requires_grad_(False), states_of())


def test_more_timesteps_than_there_are_is_refused():
    with pytest.raises(
        BadInput, match="only 1000. Train with model.n_timesteps of at least 1001"
    ):
        Draws(n_timesteps=1001).timesteps(tiny_context.objective())


@pytest.mark.parametrize("name", ["n_timesteps", "n_noises"])
def test_no_draws_are_refused(name):
    with pytest.raises(BadInput, match=f"{name} is 0"):
        Draws(**{name: 0})


def test_all_layers_of_our_members_are_known():
    for kind in KINDS:
        kinds = set(map(type, per_example.supported_layers(network_of(kind)).values()))
        assert kinds <= set(LAYERS)
