"""A measured loss is the mean squared error, whatever it is measured beside."""

import numpy as np
import pytest
import torch

from ensemble.evaluation import losses
from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.models.denoisers import load_member, predict
from ensemble.models.objective import objective_of
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import Examples
from tests import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tiny.trained(
        tmp_path_factory.mktemp("losses") / "run", splits={"n_members": 2}
    )


def pictures(n):
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Examples(images, UNCONDITIONAL, torch.arange(n) + 5)


def test_the_loss_is_the_mean_squared_error_over_draws(trained):
    run, _ = trained
    objective, asked = objective_of(run.config.model), pictures(3)
    found = losses.measure([run.member(1)], objective, asked, n_draws=6)
    draws = Draws(n_timesteps=6, seed=losses.SEED)
    timesteps = draws.timesteps(objective)
    noise = draws.noise(asked, timesteps)
    network = load_member(run.member(1))
    for picture in range(3):
        errors = []
        for draw, timestep in enumerate(timesteps):
            one = noise[picture, draw][None]
            noisy = objective.perturb(asked.images[picture][None], one, timestep[None])
            with torch.no_grad():
                errors.append(
                    float((predict(network, noisy, timestep) - one).square().mean())
                )
        assert found[0, picture] == pytest.approx(np.mean(errors), rel=1e-4)


def test_a_loss_depends_neither_on_other_pictures_nor_on_other_models(
    trained, monkeypatch
):
    run, _ = trained
    objective = objective_of(run.config.model)
    both = [run.member(0), run.member(1)]
    found = losses.measure(both, objective, pictures(4), 5, side_by_side=2)
    monkeypatch.setattr(losses, "MOST_HELD", 1)
    monkeypatch.setattr(losses, "MOST_AT_ONCE", 2)
    alone = losses.measure(both[1:], objective, pictures(4)[2:], 5)
    np.testing.assert_allclose(alone[0], found[1, 2:], rtol=1e-5)
