"""Losses of single images at single draws."""

import dataclasses

import numpy as np

from ensemble.scorers.gradients import batch_size, per_example
from ensemble.scorers.gradients.losses import losses, query_losses
from ensemble.scorers.gradients.per_example import Draws
from tests.ensemble.scorers import tiny_context
from tests.ensemble.scorers.tiny_context import DRAWS


def test_losses_are_mean_squared_errors_whatever_is_done_at_once(tmp_path, monkeypatch):
    context = tiny_context.context(tmp_path)
    network = context.networks[0]
    states = per_example.draw_states(context.objective, context.train, DRAWS)
    wanted = per_example.values(network, states, "loss").detach().numpy()
    for at_once in (1, 4, 1000):
        monkeypatch.setattr(batch_size, "ENOUGH", at_once)
        found = losses(context, network, context.train, DRAWS)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert context.work == dataclasses.replace(context.work, forwards=3 * 12 * 3)


def test_query_losses_are_means_over_draws_for_every_network(tmp_path):
    context = tiny_context.context(tmp_path)
    found = query_losses(context, DRAWS)
    assert found.shape == (4, 3)
    for network, row in zip(context.networks, found, strict=True):
        alone = losses(context, network, context.queries, DRAWS)
        np.testing.assert_allclose(row, alone.mean(axis=1), rtol=1e-12)


def test_query_losses_are_measured_once_and_the_first_networks_alone(tmp_path):
    context = tiny_context.context(tmp_path)
    first = query_losses(tiny_context.first(context, 2), DRAWS)
    assert context.work.forwards == 2 * 3 * 3
    found = query_losses(context, DRAWS)
    assert context.work.forwards == 4 * 3 * 3
    assert np.array_equal(found[:2], first)
    assert np.array_equal(query_losses(context, DRAWS), found)
    assert context.work.forwards == 4 * 3 * 3
    # What they took counts for everybody who uses them.
    assert context.work.seconds_before > 0
    query_losses(context, Draws(n_timesteps=2))
    assert context.work.forwards == 4 * 3 * 3 + 4 * 3 * 2
