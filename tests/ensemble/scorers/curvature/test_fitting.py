"""Curvature is measured once, at draws that belong to the images."""

import dataclasses

import pytest
import torch

from ensemble.scorers.curvature import fitting
from ensemble.scorers.curvature.kfac import Curvature
from ensemble.scorers.gradients.network import scored_networks
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_context

CURVATURE = Curvature(n_draws=3)


@pytest.fixture
def one(tmp_path):
    (one,) = scored_networks(
        tiny_context.of_reference(tiny_context.context(tmp_path)), ""
    )
    return one


def measured(*_):
    raise AssertionError("The curvature was measured again.")


def test_a_curvature_on_disk_is_read_back_as_it_was(one, monkeypatch):
    first = fitting.fitted(one, CURVATURE)
    monkeypatch.setattr(Curvature, "measure", measured)
    second = fitting.fitted(one, CURVATURE)
    for name, layer in first.layers.items():
        assert torch.equal(
            layer.spectrum.eigenvalues, second.layers[name].spectrum.eigenvalues
        )
        assert layer.damping == second.layers[name].damping


def test_another_damping_needs_no_other_measurement(one, monkeypatch):
    first = fitting.fitted(one, CURVATURE)
    monkeypatch.setattr(Curvature, "measure", measured)
    second = fitting.fitted(one, dataclasses.replace(CURVATURE, damping=0.2))
    for name, layer in first.layers.items():
        assert second.layers[name].damping == pytest.approx(2 * layer.damping)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"n_draws": 4}, {"targets": "observed"}]
)
def test_other_options_need_another_measurement(one, change):
    first = fitting.fitted(one, CURVATURE)
    second = fitting.fitted(one, dataclasses.replace(CURVATURE, **change))
    for name, layer in first.layers.items():
        assert layer.damping != second.layers[name].damping


def test_what_damping_is_relative_to_is_noted_once(one):
    path = fitting.path(one, CURVATURE, [0.1, 0.2])
    fitting.fitted(one, CURVATURE)
    (note,) = one.context.notes
    assert note["ignored"] == path[0].ignored
    for name, mean in note["mean_eigenvalue"].items():
        assert path[1].layers[name].damping == pytest.approx(0.2 * mean)
    assert note["mean_eigenvalue"].keys() == path[0].layers.keys()


def test_dampings_share_what_they_divide_by(one):
    path = fitting.path(one, CURVATURE, [0.1, 0.2])
    for name, layer in path[0].layers.items():
        assert path[1].layers[name].spectrum is layer.spectrum


# Two passes over 12 images at 3 draws; one backward pass for each of 64 pixels.
@pytest.mark.parametrize(("targets", "n_gradients"), [("sampled", 72), ("exact", 4608)])
def test_work_of_an_earlier_measurement_is_counted(one, targets, n_gradients):
    curvature = dataclasses.replace(CURVATURE, targets=targets)
    fitting.fitted(one, curvature)
    assert one.context.work.gradients == n_gradients
    fitting.fitted(one, curvature)
    assert one.context.work.gradients == 2 * n_gradients
    assert one.context.work.seconds_before > 0


def test_a_damaged_curvature_is_refused(one):
    fitting.fitted(one, CURVATURE)
    (path,) = one.context.folder.glob("curvature-*/spectra.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match=r"spectra\.safetensors is damaged"):
        fitting.fitted(one, CURVATURE)


def test_draws_belong_to_an_image_not_to_its_batch(one):
    context = one.context
    together = fitting.draw_sample(context, one.train[:], CURVATURE, 0)
    alone = fitting.draw_sample(context, one.train[4:5], CURVATURE, 0)
    its_own = together.at(slice(12, 15))
    assert torch.equal(its_own.noisy, alone.noisy)
    assert torch.equal(its_own.pseudo_target_noise, alone.pseudo_target_noise)
    assert torch.equal(its_own.timestep, alone.timestep)


def test_both_passes_have_draws_of_their_own(one):
    first, second = (
        fitting.draw_sample(one.context, one.train[:], CURVATURE, number)
        for number in (0, 1)
    )
    assert not torch.equal(first.noisy, second.noisy)
    assert not torch.equal(first.pseudo_target_noise, second.pseudo_target_noise)


def test_an_images_timesteps_are_spread_over_the_whole_schedule(one):
    sample = fitting.draw_sample(one.context, one.train[:], Curvature(n_draws=10), 0)
    timesteps = sample.timestep.reshape(12, 10)
    assert torch.equal(timesteps // 100, torch.arange(10).expand(12, 10))
    assert len(torch.unique(timesteps[:, 0])) > 6


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_network_would_predict_what_is_wanted(one, prediction_type):
    objective = tiny_context.objective(prediction_type)
    context = dataclasses.replace(one.context, objective=objective)
    sample = fitting.draw_sample(context, one.train[:], CURVATURE, 0)
    clean = one.train[:].images.repeat_interleave(3, dim=0)
    kept = objective.schedule.alphas_cumprod[sample.timestep].double()[
        :, None, None, None
    ]
    if prediction_type == "epsilon":
        recovered = (sample.noisy - (1 - kept).sqrt() * sample.target) / kept.sqrt()
    else:
        recovered = kept.sqrt() * sample.noisy - (1 - kept).sqrt() * sample.target
    torch.testing.assert_close(recovered, clean, rtol=1e-3, atol=1e-3)


def test_every_draw_is_measured_once_however_many_fit_into_memory(one, monkeypatch):
    whole = list(fitting.samples(one, CURVATURE, 0))
    small = type(one.batch(1, 1))(n_images=2, n_draws=1)
    monkeypatch.setattr(type(one), "batch", lambda *_: small)
    parts = list(fitting.samples(one, CURVATURE, 0))
    assert max(len(part.noisy) for part in parts) == 2
    assert torch.equal(
        torch.cat([part.noisy for part in parts]),
        torch.cat([part.noisy for part in whole]),
    )
