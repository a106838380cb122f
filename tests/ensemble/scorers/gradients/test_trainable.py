"""Layers with trainable weights, and what passes through them."""

import pytest
import torch
from torch import nn

from ensemble.scorers.gradients import trainable


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.PReLU(), nn.Linear(2, 1))


def no_prelu(name, module):
    return f"{name} is one" if isinstance(module, nn.PReLU) else None


def test_layers_are_sorted_by_what_stands_against_them(network):
    supported, others = trainable.layers(network, no_prelu)
    assert list(supported) == ["0", "3"]
    assert others == {"2": "2 is one"}


def test_frozen_layers_are_neither_supported_nor_not(network):
    network[0].requires_grad_(False)
    network[2].requires_grad_(False)
    supported, others = trainable.layers(network, no_prelu)
    assert (list(supported), others) == (["3"], {})
    assert [name for name, _ in trainable.parameters(network)] == ["3.weight", "3.bias"]


def test_what_was_trainable_is_so_again_after_all(network):
    network[3].bias.requires_grad_(False)
    before = [name for name, _ in trainable.parameters(network)]
    with trainable.frozen(network):
        assert trainable.parameters(network) == []
    assert [name for name, _ in trainable.parameters(network)] == before


def test_every_use_of_a_module_is_told_with_what_went_in_and_out(network):
    told = []
    modules = {"first": network[0], "last": network[3]}
    given = torch.ones(1, 3, requires_grad=True)
    with trainable.forward_hooks(modules, lambda *use: told.append(use)):
        out = network(given)
        network[3](torch.zeros(1, 2))
    network(given)
    assert [name for name, *_ in told] == ["first", "last", "last"]
    assert all(modules[name] is module for name, module, *_ in told)
    assert torch.equal(told[0][2], given)
    assert not told[0][2].requires_grad
    assert told[1][3] is out


def test_nobody_watches_after_an_error(network):
    with (
        pytest.raises(RuntimeError),
        trainable.forward_hooks({"0": network[0]}, lambda *_: None),
    ):
        network(torch.ones(1, 4))
    assert not network[0]._forward_hooks
