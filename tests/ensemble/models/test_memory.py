"""What a network gives out while it is run."""

import pytest
import torch
from torch import nn

from ensemble.models.memory import activation_bytes


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)
    ).double()


def hooks_of(network):
    return [hook for module in network.modules() for hook in module._forward_hooks]


def test_activations_are_what_the_layers_give_out():
    """Two times four channels and one, of 64 pixels, at 8 bytes."""
    found, image = network(), torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    assert activation_bytes(found, lambda: found(image)) == (4 + 4 + 1) * 64 * 8
    assert hooks_of(found) == []


def test_a_network_that_fails_is_left_as_it_was():
    found, wrong = network(), torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        activation_bytes(found, lambda: found(wrong))
    assert hooks_of(found) == []
