"""What is read off pictures and denoisers equals what a slow reading gives."""

import pytest
import torch

from ensemble import luck
from ensemble.measurement import (
    MEASUREMENTS,
    chosen_measurements,
    denoising_loss_form,
)
from ensemble.model import noise_schedule
from splits.errors import BadInput
from tests import tiny


def pictures(n=4):
    return torch.randn(n, 1, 8, 8, generator=luck.generator(0, "pictures")).double()


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_does_not_depend_on_the_batch(name):
    measurement, images = MEASUREMENTS[name], pictures()
    if measurement.of_pictures is not None:
        together = measurement.of_pictures(images)
        alone = measurement.of_pictures(images[2:3])
    else:
        pipe = tiny.ensemble(3)
        schedule = noise_schedule(tiny.config("none").model)
        together = measurement.of_denoiser(pipe.members, schedule, images, None)
        alone = measurement.of_denoiser(pipe.members, schedule, images[2:3], None)
    torch.testing.assert_close(together[2], alone[0])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_quadratic_form_is_the_loss_of_the_averaged_prediction(prediction_type):
    pipe = tiny.ensemble(3, prediction_type=prediction_type)
    settings = tiny.config("none", model={"prediction_type": prediction_type}).model
    schedule, images = noise_schedule(settings), pictures(2)
    form = denoising_loss_form(pipe.members, schedule, images, None, n_draws=5)
    votes = torch.tensor([[0.2, 0.8, 0.0]], dtype=torch.float64)
    loss = torch.zeros(2)
    for draw, level in enumerate([100, 300, 500, 700, 900]):
        noise = torch.randn(
            1, 8, 8, generator=luck.generator(0, "denoising loss", draw)
        )
        noise = noise.double().expand_as(images)
        timestep = torch.full((2,), level)
        noisy = schedule.add_noise(images, noise, timestep)
        wanted = noise
        if prediction_type == "v_prediction":
            wanted = schedule.get_velocity(images, noise, timestep)
        averaged = pipe.members(noisy, timestep, votes.expand(2, 3))
        loss += (averaged - wanted).square().mean(dim=(1, 2, 3)).float() / 5
    found = torch.einsum("m,qmn,n->q", votes[0].float(), form, votes[0].float())
    torch.testing.assert_close(found, loss)


def test_brightness_and_contrast_of_known_pictures():
    half = torch.ones(1, 1, 2, 2)
    half[..., 0] = -1
    assert MEASUREMENTS["brightness"].of_pictures(half).tolist() == [0]
    assert MEASUREMENTS["contrast"].of_pictures(half).tolist() == [1]
    assert MEASUREMENTS["brightness"].of_pictures(half * 9).tolist() == [0]


def test_unknown_measurements_name_the_known_ones():
    with pytest.raises(BadInput, match="no measurement 'size'; known: brightness"):
        chosen_measurements(["size"])
    assert list(chosen_measurements(["contrast"])) == ["contrast"]
    assert chosen_measurements(None) == MEASUREMENTS
