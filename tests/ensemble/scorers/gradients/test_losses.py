"""Losses of single images at single draws."""

import dataclasses

import numpy as np

from ensemble.scorers.gradients import (
    batch_size,
    per_example,
)
from ensemble.scorers.gradients.losses import (
    losses,
    query_losses,
)
from ensemble.scorers.gradients.per_example import Draws
from tests.ensemble.scorers import tiny_setting
from tests.ensemble.scorers.tiny_setting import DRAWS


def test_losses_are_mean_squared_errors_whatever_is_done_at_once(tmp_path, monkeypatch):
    setting = tiny_setting.setting(tmp_path)
    network = setting.networks[0]
    states = per_example.drawn_states(setting.objective, setting.train, DRAWS)
    wanted = per_example.values(network, states, "loss").detach().numpy()
    for at_once in (1, 4, 1000):
        monkeypatch.setattr(batch_size, "ENOUGH", at_once)
        found = losses(setting, network, setting.train, DRAWS)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert setting.work == dataclasses.replace(setting.work, forwards=3 * 12 * 3)


def test_query_losses_are_means_over_draws_for_every_network(tmp_path):
    setting = tiny_setting.setting(tmp_path)
    found = query_losses(setting, DRAWS)
    assert found.shape == (4, 3)
    for network, row in zip(setting.networks, found, strict=True):
        alone = losses(setting, network, setting.queries, DRAWS)
        np.testing.assert_allclose(row, alone.mean(axis=1), rtol=1e-12)


def test_query_losses_are_measured_once_and_the_first_networks_alone(tmp_path):
    setting = tiny_setting.setting(tmp_path)
    first = query_losses(tiny_setting.first(setting, 2), DRAWS)
    assert setting.work.forwards == 2 * 3 * 3
    found = query_losses(setting, DRAWS)
    assert setting.work.forwards == 4 * 3 * 3
    assert np.array_equal(found[:2], first)
    assert np.array_equal(query_losses(setting, DRAWS), found)
    assert setting.work.forwards == 4 * 3 * 3
    # What they took counts for everybody who uses them.
    assert setting.work.seconds_before > 0
    query_losses(setting, Draws(n_timesteps=2))
    assert setting.work.forwards == 4 * 3 * 3 + 4 * 3 * 2
