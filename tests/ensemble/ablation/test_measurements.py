"""What is read off pictures and denoisers equals what a slow reading gives."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ensemble.ablation import influence
from ensemble.ablation.influence_request import Asked
from ensemble.ablation.measurement_names import WITH_ARGUMENT, chosen_measurements
from ensemble.ablation.measurements import (
    MEASUREMENTS,
    denoising_loss_form,
    feature_likeness,
    similarity,
    ssim,
)
from ensemble.ablation.removal_sets import each_source, votes_without
from ensemble.data.datasets import TrainingImages
from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.models.objective import objective_of
from ensemble.provenance import drawing
from ensemble.run import records
from ensemble.run.folder import create
from ensemble.run.voters import Membership
from ensemble.sampling import queries
from ensemble.sampling.trajectory import initial_noise, query_generators
from ensemble.system import seeding, text
from splits.errors import BadInput
from tests import tiny

HERE = "tests.ensemble.ablation.test_measurements"


def middle(images):
    """A user's function: one value for each image."""
    return images[:, 0, 3, 3]


def halves(images):
    """A user's features: a row for each image."""
    return images.flatten(1).unflatten(1, (2, -1)).mean(dim=2)


def total(images):
    """Not a measurement: one value for all images."""
    return images.sum()


def pictures(n=4):
    return torch.randn(n, 1, 8, 8, generator=seeding.generator(0, "pictures")).double()


def mild(n=4):
    """Pictures that clipping leaves as they are."""
    return pictures(n).tanh() * 0.9


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A plan of eight digits, two to a source, and an image file."""
    folder = tmp_path_factory.mktemp("digits")
    drawn = drawing.draw(tiny.config(folder / "run"))
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(
        folder / "ramp.png"
    )
    names = [
        *MEASUREMENTS,
        "similarity:1",
        f"similarity:{folder / 'ramp.png'}",
        "logit:3",
    ] + [f"features:{HERE}:halves", f"{HERE}:middle"]
    kinds = {name.partition(":")[0] for name in names}
    assert kinds == {*MEASUREMENTS, *WITH_ARGUMENT, HERE}  # the tests miss none
    return drawn, chosen_measurements(names, drawn)


def values_of(measurement, images, full=None):
    if measurement.reading is not None:
        return measurement.reading(mild(len(images)) if full is None else full, images)
    pipe = tiny.ensemble(3)
    objective = objective_of(tiny.config("none").model)
    return measurement.of_denoiser(pipe.members, objective, images, UNCONDITIONAL)


def test_a_measurement_does_not_depend_on_the_batch(digits):
    for measurement in digits[1].values():
        together = values_of(measurement, pictures(), mild())
        alone = values_of(measurement, pictures()[2:3], mild()[2:3])
        torch.testing.assert_close(together[2], alone[0])


def test_a_measurement_is_one_finite_number_that_changes_with_the_picture(digits):
    for name, measurement in digits[1].items():
        images = mild().flip(0)
        found = values_of(measurement, images)
        assert found.isfinite().all()
        if measurement.reading is not None:
            assert found.shape == (4,)
        others = images.clone()
        others[:, 0, 3, 3] *= -0.5
        assert not torch.isclose(found, values_of(measurement, others)).all(), name
        assert measurement.sentence


def test_a_measurement_of_pictures_has_the_derivative_that_differences_show(digits):
    keyed = seeding.generator(0, "direction")
    direction = torch.randn(4, 1, 8, 8, generator=keyed).double()
    for measurement in digits[1].values():
        if measurement.of_pictures is None:
            continue
        at = mild().requires_grad_()
        (slope,) = torch.autograd.grad(measurement.of_pictures(at).sum(), at)
        ends = [
            measurement.of_pictures(mild() + sign * 1e-6 * direction)
            for sign in (1, -1)
        ]
        found = (slope * direction).sum(dim=(1, 2, 3))
        torch.testing.assert_close(
            found, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-7
        )
        assert (found != 0).any()


def test_a_pair_is_most_alike_when_it_is_one_picture(digits):
    pairs = [one.of_pair for one in digits[1].values() if one.of_pair is not None]
    assert len(pairs) == 2
    for alike in pairs:
        itself = alike(mild(), mild())
        assert (alike(mild(), mild().flip(0)) < itself).all()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_quadratic_form_is_the_loss_of_the_averaged_prediction(prediction_type):
    pipe = tiny.ensemble(3, prediction_type=prediction_type)
    settings = tiny.config("none", model={"prediction_type": prediction_type}).model
    objective, images = objective_of(settings), pictures(2)
    form = denoising_loss_form(
        pipe.members, objective, images, UNCONDITIONAL, n_draws=5
    )
    votes = torch.tensor([[0.2, 0.8, 0.0]], dtype=torch.float64)
    loss = torch.zeros(2)
    for draw, level in enumerate([100, 300, 500, 700, 900]):
        noise = torch.randn(
            1, 8, 8, generator=seeding.generator(0, "denoising loss", draw)
        )
        noise = noise.double().expand_as(images)
        timestep = torch.full((2,), level)
        noisy = objective.schedule.add_noise(images, noise, timestep)
        wanted = noise
        if prediction_type == "v_prediction":
            wanted = objective.schedule.get_velocity(images, noise, timestep)
        averaged = pipe.members(noisy, timestep, votes.expand(2, 3))
        loss += (averaged - wanted).square().mean(dim=(1, 2, 3)).float() / 5
    found = torch.einsum("m,qmn,n->q", votes[0].float(), form, votes[0].float())
    torch.testing.assert_close(found, loss)


def test_draws_side_by_side_make_the_same_bits():
    pipe = tiny.ensemble(3)
    objective, images = objective_of(tiny.config("none").model), pictures(2)
    found = []
    for side_by_side in (1, 3):
        pipe.members.side_by_side = side_by_side
        found.append(
            denoising_loss_form(pipe.members, objective, images, UNCONDITIONAL, 7)
        )
    assert torch.equal(*found)


def test_brightness_and_contrast_of_known_pictures():
    half = torch.ones(1, 1, 2, 2)
    half[..., 0] = -1
    assert MEASUREMENTS["brightness"].of_pictures(half).tolist() == [0]
    assert MEASUREMENTS["contrast"].of_pictures(half).tolist() == [1]
    assert MEASUREMENTS["brightness"].of_pictures(half * 9).tolist() == [0]


def naive_ssim(first, second):
    """The naive twin: position by position, pixel by pixel."""
    side = min(11, first.shape[0] if first.shape[0] % 2 else first.shape[0] - 1)
    spread = 1.5 * side / 11
    window = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            distance = (row - side // 2) ** 2 + (column - side // 2) ** 2
            window[row, column] = math.exp(-distance / (2 * spread**2))
    window /= window.sum()
    found = []
    for top in range(first.shape[0] - side + 1):
        for left in range(first.shape[1] - side + 1):
            one = first[top : top + side, left : left + side]
            two = second[top : top + side, left : left + side]
            means = (window * one).sum(), (window * two).sum()
            spreads = [
                (window * (part - mean) ** 2).sum()
                for part, mean in zip((one, two), means, strict=True)
            ]
            together = (window * (one - means[0]) * (two - means[1])).sum()
            found.append(
                (2 * means[0] * means[1] + 0.0004)
                * (2 * together + 0.0036)
                / (means[0] ** 2 + means[1] ** 2 + 0.0004)
                / (sum(spreads) + 0.0036)
            )
    return np.mean(found)


@pytest.mark.parametrize("side", [1, 4, 8, 11, 14])
def test_ssim_is_that_of_the_naive_twin(side):
    rng = np.random.default_rng(side)
    first, second = rng.uniform(-1, 1, (2, 2, 3, side, side))
    found = ssim(torch.from_numpy(first), torch.from_numpy(second))
    for image in range(2):
        expected = np.mean(
            [
                naive_ssim(*pair)
                for pair in zip(first[image], second[image], strict=True)
            ]
        )
        assert float(found[image]) == pytest.approx(expected, rel=1e-9)


def test_ssim_is_one_for_equals_symmetric_and_falls_with_noise():
    keyed = seeding.generator(1, "noise")
    images, noise = torch.randn(2, 4, 1, 32, 32, generator=keyed).double()
    images = images.tanh()
    torch.testing.assert_close(ssim(images, images), torch.ones(4).double())
    other = images + 0.3 * noise
    torch.testing.assert_close(ssim(images, other), ssim(other, images))
    falling = [ssim(images, images + size * noise) for size in (0, 0.1, 0.3, 1)]
    assert (torch.stack(falling).diff(dim=0) < -0.01).all()


def test_similarity_is_the_correlation_with_the_nearest_image(digits):
    drawn, chosen = digits
    targets = drawn.data.images[drawn.source_of == 1]
    images = mild()
    found = chosen["similarity:1"].of_pictures(images)
    for image, value in zip(images.numpy(), found, strict=True):
        expected = max(
            np.corrcoef(image.ravel(), target.ravel())[0, 1] for target in targets
        )
        assert float(value) == pytest.approx(expected, rel=1e-6)
    same = torch.from_numpy(targets[:1].copy())
    assert float(similarity(same, "it").of_pictures(0.5 * same + 0.1)) == pytest.approx(
        1
    )


def test_similarity_goes_by_number_or_name_and_says_both(digits):
    drawn, chosen = digits
    images = mild()
    expected = chosen["similarity:1"].of_pictures(images)
    for name in (
        "similarity:digit 0001",
        "similarity:number:1",
        "similarity:name:digit 0001",
    ):
        found = chosen_measurements([name], drawn)[name]
        assert torch.equal(found.of_pictures(images), expected)
        assert "source 1 (digit 0001)" in found.sentence


def test_a_source_that_is_called_like_a_file_is_refused(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8), 200).save("digit 0001", format="png")
    with pytest.raises(
        BadInput, match=r"also a file.*similarity:\./digit 0001 for the"
    ):
        chosen_measurements(["similarity:digit 0001"], digits[0])
    assert chosen_measurements(["similarity:./digit 0001"], digits[0])


def test_a_given_image_is_scaled_to_the_size_of_the_runs(digits):
    ramp = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    (name,) = [name for name in digits[1] if name.endswith(".png")]
    found = digits[1][name].of_pictures(torch.cat([ramp, -ramp]))
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0]), atol=0.02, rtol=0)


@pytest.mark.parametrize("n_labels", [2, 5])
def test_log_odds_are_those_of_the_classifier(digits, n_labels):
    from sklearn.linear_model import LogisticRegression

    drawn, _ = digits
    data = dataclasses.replace(
        drawn.data,
        labels=np.arange(8) % n_labels,
        label_names=tuple("abcde"[:n_labels]),
    )
    drawn = dataclasses.replace(drawn, data=data)
    flat = data.images.reshape(8, -1)
    fitted = LogisticRegression(max_iter=1000).fit(flat, data.labels)
    chance = fitted.predict_proba(mild().flatten(1).numpy())
    for label, name in enumerate(data.label_names):
        (measurement,) = chosen_measurements([f"logit:{name}"], drawn).values()
        expected = np.log(chance[:, label] / (1 - chance[:, label]))
        np.testing.assert_allclose(measurement.of_pictures(mild()), expected, rtol=1e-5)
        (again,) = chosen_measurements([f"logit:{name}"], drawn).values()
        assert torch.equal(again.of_pictures(mild()), measurement.of_pictures(mild()))


def test_log_odds_know_nothing_of_classes_without_images_and_of_removed_images(digits):
    """Blank images of removed sources stand under the first label."""
    drawn, _ = digits
    labels = np.array([1, 2, 1, 2, 1, 2, 1, 0])
    whole = with_labels(drawn, labels, ("a", "b", "c", "d"))
    removed = dataclasses.replace(whole, removed=[7])
    rest = with_labels(
        dataclasses.replace(
            drawn,
            source_of=drawn.source_of[:7],
            data=TrainingImages(drawn.data.images[:7], None, (), {}, ("",) * 7),
        ),
        labels[:7] - 1,
        ("b", "c"),
    )
    for name in ("logit:b", "logit:c"):
        found, expected = (
            chosen_measurements([name], one)[name].of_pictures(mild())
            for one in (removed, rest)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for one, name in ((whole, "logit:d"), (removed, "logit:a")):
        with pytest.raises(BadInput, match="need an image of it and one of another"):
            chosen_measurements([name], one)


def test_pixels_as_features_give_the_displacement():
    likeness = feature_likeness(lambda images: images).of_pair
    first, second = pictures(), pictures().flip(0)
    expected = -(first - second).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(likeness(first, second), expected)


def with_labels(drawn, labels, label_names):
    data = dataclasses.replace(drawn.data, labels=labels, label_names=label_names)
    return dataclasses.replace(drawn, data=data)


def test_a_wrong_argument_is_refused(digits):
    drawn, _ = digits
    one_class = with_labels(drawn, np.zeros(8, dtype=np.int64), ("cat",))
    cases = {
        "size": "no measurement 'size'; known: brightness",
        "similarity": "no measurement 'similarity'; known: brightness",
        "similarity:": "no measurement 'similarity:'",
        "similarity:8": "Source 8 does not exist: .* numbers from 0 to 7, or their names",
        "similarity:none.png": "no such file, and no source is called so",
        "similarity:digit 99": "names 'digit 99', but no source is called so",
        "logit:x": "no label 'x'; this run has 0, 1, 2",
        "nowhere.at_all:f": "cannot be imported .No module named 'nowhere'",
        f"{HERE}:nothing": "has no function 'nothing'",
        f"features:{HERE}": "has no function ''",
    }
    for name, message in cases.items():
        with pytest.raises(BadInput, match=message):
            chosen_measurements([name], drawn)
    for few in (one_class, with_labels(drawn, None, ())):
        with pytest.raises(BadInput, match="labels: log-odds need two"):
            chosen_measurements(["logit:cat"], few)


def test_a_function_of_another_shape_is_refused(digits):
    for name in (f"{HERE}:total", f"{HERE}:halves"):
        (measurement,) = chosen_measurements([name], digits[0]).values()
        with pytest.raises(BadInput, match="a tensor with one value for each image"):
            measurement.of_pictures(pictures())
    (features,) = chosen_measurements([f"features:{HERE}:middle"], digits[0]).values()
    with pytest.raises(BadInput, match="a tensor with a row of features"):
        features.of_pair(pictures(), pictures())


def test_measurements_are_chosen_by_name(digits):
    assert list(chosen_measurements(["contrast"], digits[0])) == ["contrast"]
    assert chosen_measurements(None, digits[0]) == MEASUREMENTS


class Constant(nn.Module):
    """A member that predicts one picture, whatever it sees."""

    def __init__(self, picture):
        super().__init__()
        self.picture = nn.Parameter(picture)
        self.last = nn.Identity()

    def forward(self, noisy, timestep, class_labels=None):
        return SimpleNamespace(sample=self.last(self.picture.expand_as(noisy)))


# In closed form: members that predict one picture each make a DDIM picture linear in
# the votes v, brightness included, so every method must find the same influence.
SHADES = torch.tensor([3.0, -2.0, 1.0, -2.5, 0.5, 2.0]).double() * 1e-3


@pytest.fixture(scope="module")
def shaded(tmp_path_factory):
    """Member m predicts the query's noise and a shade of its own."""
    run = create(
        tiny.config(
            tmp_path_factory.mktemp("shaded") / "run",
            data={"n_images": 6},
            splits={"design": "balanced", "n_members": 6, "weight": 3},
        )
    )
    ready = drawing.prepare(run)
    pipe = tiny.ensemble(6, codes=ready.codes)
    noise = initial_noise(pipe.members, query_generators([0]), 1)[0]
    for member, shade in enumerate(SHADES):
        pipe.members.networks[member] = Constant(noise.double() + shade)
    pipe.membership = Membership.read(run.path)
    queries.generate(run, pipe, "one", [0])
    assert np.abs(queries.load(run, "one").images).max() < 1  # nothing is clipped
    chosen = chosen_measurements(["brightness", f"{HERE}:middle"], ready)
    return Asked(run, pipe, ready, "one", each_source(ready), chosen)


def expected_influence(asked):
    """Steps telescope: picture = a (noise / a_T + predicted (s - s_T)), a² + a² s² = 1.

    Pixel by pixel, a brighter prediction makes a darker picture.
    """
    scheduler = asked.pipe.scheduler
    scheduler.set_timesteps(4)
    first = scheduler.alphas_cumprod[scheduler.timesteps[0]].double()
    last = scheduler.final_alpha_cumprod.double()
    slope = last.sqrt() * ((1 / last - 1).sqrt() - (1 / first - 1).sqrt())
    change = torch.from_numpy(votes_without(asked.units.silenced)) - 1 / 6
    return -(slope * change @ SHADES).numpy()


def test_every_method_finds_the_signed_influence_of_a_closed_form(shaded):
    expected = expected_influence(shaded)
    assert (expected > 0.01).any()
    assert (expected < -0.01).any()
    exact = influence.measure_exactly(shaded, n_placebos=2)
    differential = influence.measure_differentially(shaded, n_placebos=2)
    for name in shaded.measurements:
        alone = dataclasses.replace(
            shaded, measurements={name: shaded.measurements[name]}
        )
        adjoint = influence.measure_adjointly(alone)
        for folder in (exact, differential, adjoint):
            table = f"influence_{text.file_name(name)}.npy"
            found = records.checked_array(folder, "info.json", table)[0]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_what_was_not_measured_is_not_passed_over_in_silence(shaded):
    influence.measure_exactly(shaded, n_placebos=2)
    more = dataclasses.replace(shaded, measurements={"ssim": MEASUREMENTS["ssim"]})
    with pytest.raises(BadInput, match="made without ssim, with brightness"):
        influence.measure_exactly(more)


def test_the_influence_on_a_pair_is_the_likeness_lost(shaded):
    measured = {
        "ssim": MEASUREMENTS["ssim"],
        "pixels": feature_likeness(lambda images: images),
    }
    pairs = dataclasses.replace(shaded, measurements=measured, name="pairs")
    queries.generate(shaded.run, shaded.pipe, "pairs", [0])
    for measure in (influence.measure_exactly, influence.measure_differentially):
        folder = measure(pairs, n_placebos=2)
        lost = records.checked_array(folder, "info.json", "influence_ssim.npy")
        assert (lost >= 0).all()
        assert (lost > 0.1).any()
        moved = records.checked_array(folder, "info.json", "influence_pixels.npy")
        displacement = records.checked_array(folder, "info.json", "displacement.npy")
        np.testing.assert_allclose(moved, displacement, rtol=1e-4, atol=1e-8)
    with pytest.raises(BadInput, match="no slope where both are the same"):
        influence.measure_adjointly(pairs)
