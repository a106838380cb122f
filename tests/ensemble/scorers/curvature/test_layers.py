"""Gradients by layer against torch's own, image by image."""

import pytest
import torch
from torch import nn

from ensemble.models.conditioning import UNCONDITIONAL, ClassLabels
from ensemble.models.denoisers import predict
from ensemble.scorers.curvature import layers
from splits.errors import BadInput
from tests import tiny
from tests.ensemble.scorers import denoisers
from tests.ensemble.scorers.denoisers import Denoiser


def unet(n_classes=None):
    """A network with every kind of layer that UNet2DModel has."""
    pipe = tiny.ensemble(
        n_members=1,
        n_classes=n_classes,
        add_attention=True,
        resnet_time_scale_shift="scale_shift",
    )
    return pipe.members.networks[0]


def inputs(n_draws):
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(n_draws, 1, 8, 8, generator=generator, dtype=torch.float64)
    cotangent = torch.randn(n_draws, 1, 8, 8, generator=generator, dtype=torch.float64)
    return noisy, torch.arange(n_draws) * 100, cotangent


def naive(network, found, noisy, timestep, cotangent, condition=UNCONDITIONAL):
    """Torch's gradient of <pull, prediction>, as matrices with the bias beside."""
    prediction = predict(network, noisy, timestep, condition)
    expected = {}
    for name, module in found.modules.items():
        weights = list(module.parameters(recurse=False))
        gradient = torch.autograd.grad(
            (cotangent * prediction).sum(), weights, retain_graph=True
        )
        expected[name] = as_matrix(gradient[0], *gradient[1:])
    return expected


def as_matrix(weight, bias=None):
    """Weights, or a gradient by them, with patches in order of row, column, channel."""
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1)
    columns = [weight.flatten(1)] + ([] if bias is None else [bias[:, None]])
    return torch.cat(columns, dim=1)


def test_a_layers_gradient_at_one_image_is_torchs_own():
    network = unet()
    found = layers.find(network)
    noisy, timestep, cotangent = inputs(3)
    recorded = layers.forward(network, found, noisy, timestep)
    gradients = layers.per_image(recorded, cotangent, n_images=3)
    assert gradients.keys() == found.modules.keys()
    for image in range(3):
        at = slice(image, image + 1)
        expected = naive(network, found, noisy[at], timestep[at], cotangent[at])
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient[image], expected[name])


def test_an_images_gradient_is_the_sum_over_its_draws():
    network = unet(n_classes=3)
    found = layers.find(network)
    noisy, timestep, cotangent = inputs(4)
    labels = ClassLabels(torch.tensor([0, 0, 2, 2]), 2)
    recorded = layers.forward(network, found, noisy, timestep, labels)
    gradients = layers.per_image(recorded, cotangent, n_images=2)
    expected = naive(network, found, noisy[2:], timestep[2:], cotangent[2:], labels[2:])
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient[1], expected[name])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, padding="same", dilation=2),
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
        nn.Linear(5, 4),
    ],
)
def test_patches_times_weights_are_what_the_layer_gives_out(layer):
    layer_input = torch.randn(3, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    weights = as_matrix(layer.weight, layer.bias)
    call = layers.LayerCall("layer", layer, layer_input, layer(layer_input))
    product = layers.patches(call, torch.empty(10_000)) @ weights.T
    torch.testing.assert_close(product, layers.rows(call, layer(layer_input)))


def test_a_layer_that_is_used_twice_has_the_gradient_of_both_uses():
    shared = nn.Linear(4, 4)
    network = Denoiser(nn.Flatten(), shared, nn.Tanh(), shared)
    found = layers.find(network)
    sample = denoisers.sample(2, 1, 2, 2)
    recorded = layers.forward(network, found, sample.noisy, sample.timestep)
    gradients = layers.per_image(recorded, sample.pseudo_target_noise, n_images=1)
    expected = naive(
        network, found, sample.noisy, sample.timestep, sample.pseudo_target_noise
    )
    (name,) = expected
    torch.testing.assert_close(gradients[name][0], expected[name])


def test_ignored_modules_are_listed_by_name_with_the_reason():
    network = Denoiser(
        nn.Conv2d(1, 2, 3),
        nn.GroupNorm(1, 2),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3, padding_mode="circular"),
    )
    found = layers.find(network)
    assert list(found.modules) == ["body.0"]
    assert found.ignored == {
        "body.1": "is a GroupNorm",
        "body.2": "is a grouped convolution",
        "body.3": "is padded by circular",
    }


def test_a_pattern_chooses_layers_by_name():
    found = layers.find(unet(), "to_[kv]$")
    assert [name.split(".")[-1] for name in found.modules] == ["to_k", "to_v"]
    assert found.ignored["conv_in"] == "does not match 'to_[kv]$'"


def test_frozen_layers_take_no_part():
    network = denoisers.deep_linear()
    network.body[1].requires_grad_(False)
    assert list(layers.find(network).modules) == ["body.2", "body.3"]


def test_a_pattern_that_finds_nothing_is_refused():
    with pytest.raises(BadInput, match=r"No convolution .*'attn2'.*body\.1"):
        layers.find(denoisers.linear(), "attn2")


def test_weights_that_take_part_are_counted():
    network = denoisers.convolutional()
    n_weights = sum(weight.numel() for weight in network.parameters())
    assert layers.find(network).n_weights == n_weights


def test_a_gradient_that_is_not_finite_is_named_by_layer_and_image():
    gradients = {"body.1": torch.zeros(3, 2, 2), "body.2": torch.zeros(3, 2, 2)}
    layers.require_finite(gradients, "training image", [7, 8, 9])
    gradients["body.2"][1, 0, 0] = torch.nan
    with pytest.raises(BadInput, match=r"layer body\.2 at training image 8"):
        layers.require_finite(gradients, "training image", [7, 8, 9])


def test_moving_by_a_gradient_moves_the_prediction_along_it():
    network = unet()
    found = layers.find(network)
    noisy, timestep, cotangent = inputs(1)
    recorded = layers.forward(network, found, noisy, timestep)
    gradients = layers.per_image(recorded, cotangent, n_images=1)
    before = (cotangent * recorded.prediction).sum().detach()
    step = 1e-8
    layers.move(found, {name: step * value[0] for name, value in gradients.items()})
    after = (cotangent * predict(network, noisy, timestep)).sum().detach()
    slope = layers.products(gradients, gradients)[0, 0]
    torch.testing.assert_close((after - before) / step, slope, rtol=1e-3, atol=0.0)
