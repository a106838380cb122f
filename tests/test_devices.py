"""The device decides nothing but the speed: a GPU does what a CPU does.

Tests marked `gpu` run on whatever accelerator torch finds, and are skipped without one.
The same bodies run on the CPU too, where they compare it with itself: so they cannot
rot where nobody has a GPU.
"""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from ensemble.ablation import adjoint, first_order
from ensemble.ablation.measurements import (
    MEASUREMENTS,
    feature_likeness,
    log_odds,
    similarity,
)
from ensemble.models.conditioning import UNCONDITIONAL, ClassLabels, Condition
from ensemble.models.denoisers import predict
from ensemble.models.objective import objective_of
from ensemble.provenance import drawing
from ensemble.run import files
from ensemble.run.folder import create
from ensemble.sampling import queries
from ensemble.sampling.trajectory import initial_noise, query_generators
from ensemble.scorers import SCORERS
from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.gradients.projection import Projection
from ensemble.scorers.interface import Examples, ScoringContext
from ensemble.training.members import train_members
from ensemble.training.optimization import denoising_loss
from ensemble.training.process import Interrupted, Stopping
from splits.codes import ablated_votes
from tests import tiny
from tests.ensemble.scorers import tiny_context
from tests.ensemble.scorers.test_all_scorers import quick

ROOT = Path(__file__).parents[1]
CODE = [ROOT / "train.py", ROOT / "attribute.py"]
CODE += [
    path for name in ("ensemble", "splits") for path in (ROOT / name).rglob("*.py")
]
# A GPU multiplies in TensorFloat-32 unless it is told not to: ten bits of a number.
FROM_GPU = 2e-2


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    """The CPU, and the accelerator if there is one."""
    if request.param == "cpu":
        return torch.device("cpu")
    found = torch.accelerator.current_accelerator()
    assert found is not None
    return found


@pytest.mark.parametrize(
    "path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_no_kind_of_device_is_named(path):
    """Accelerate and torch choose; only that it is the processor may matter."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for kind in ("cuda", "mps", "xpu", "npu", "hpu"):
        assert kind not in names
        for text in texts:
            assert text != kind
            assert not str(text).startswith(f"{kind}:")


# On the device `meta` tensors have shapes and no numbers, and whatever mixes them with
# a tensor that was made elsewhere by mistake is refused, as on a GPU.
META = torch.device("meta")


def pictures(n_images=3):
    return torch.zeros(n_images, 1, 8, 8, device=META)


@pytest.mark.parametrize("n_classes", [None, 3])
def test_a_member_makes_no_tensor_elsewhere_than_where_it_is(n_classes):
    pipe = tiny.ensemble(2, n_classes)
    model = pipe.members.float().to(META)
    model.forward_batch = 2
    labels: Condition = UNCONDITIONAL
    if n_classes is not None:
        zeros = torch.zeros(3, dtype=torch.int64, device=META)
        labels = ClassLabels(zeros, n_classes)
    for timestep in (
        torch.zeros((), device=META),
        torch.zeros(3, dtype=torch.int64, device=META),
    ):
        assert model.predict_by(1, pictures(), timestep, labels).device == META
        assert predict(model.networks[0], pictures(), timestep, labels).device == META


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_makes_no_tensor_elsewhere(prediction_type):
    settings = tiny.config("none", model={"prediction_type": prediction_type})
    network = tiny.ensemble(1).members.networks[0].float().to(META)
    loss = denoising_loss(
        network,
        objective_of(settings.model),
        pictures(),
        torch.zeros(3, dtype=torch.int64, device=META),
        pictures(),
        UNCONDITIONAL,
        Accelerator(cpu=True),
    )
    assert loss.device == META


def test_measurements_of_pictures_make_no_tensor_elsewhere():
    readings = [one.reading for one in MEASUREMENTS.values() if one.reading is not None]
    readings.append(similarity(torch.zeros(2, 1, 8, 8), "two").reading)
    readings.append(feature_likeness(lambda images: images.mean(dim=3)).reading)
    odds = log_odds(torch.zeros(3, 64), torch.zeros(3), 1)
    assert len(readings) > 3
    for reading in readings:
        assert reading(pictures(), pictures()).device == META
    assert odds(pictures()).device == META


def test_projections_make_no_tensor_elsewhere():
    rows = torch.zeros(2, 8, device=META)
    Projection(n_dimensions=8).add(rows, torch.zeros(2, 30, device=META), "weight", 0)
    assert rows.device == META


def test_noise_of_scorers_is_drawn_by_the_processor_and_moved():
    examples = Examples(pictures(), UNCONDITIONAL, torch.arange(3))
    states = per_example.draw_states(tiny_context.objective(), examples, Draws(2))
    assert states.noisy.device == states.target.device == META


def trained(folder, monkeypatch, device):
    """A run that was trained on a device, and its plan."""
    AcceleratorState._reset_state(True)
    with monkeypatch.context() as patched:
        if device.type == "cpu":
            patched.setattr(torch.accelerator, "is_available", lambda: False)
        return tiny.trained(folder, training={"steps": 12})


def ensemble_on(device, run):
    pipe = tiny.pipeline_of(run)
    return pipe.to(device)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A tiny run that was trained on the CPU, and queries of it."""
    with pytest.MonkeyPatch.context() as patched:
        cpu = torch.device("cpu")
        run, ready = trained(tmp_path_factory.mktemp("digits") / "run", patched, cpu)
    return run, ready, queries.generate(run, ensemble_on("cpu", run), "two", [0, 1])


def test_training_on_a_device_is_training(device, digits, tmp_path, monkeypatch):
    """Losses within 2 % of those of the CPU, over twelve steps."""
    run, _ = trained(tmp_path / "run", monkeypatch, device)
    for member in range(4):
        there, here = (
            files.read_json(one.member(member) / "member.json")
            for one in (run, digits[0])
        )
        assert torch.device(there["device"]).type == device.type
        assert there["split_digest"] == here["split_digest"]
        curves = [record["loss_curve"]["loss"] for record in (there, here)]
        np.testing.assert_allclose(*curves, rtol=FROM_GPU)


def test_a_member_goes_on_from_a_checkpoint_on_a_device(device, tmp_path, monkeypatch):
    del device
    settings = {"ema_decay": 0.9, "steps": 12, "checkpoint_every_steps": 5}
    run = create(tiny.config(tmp_path / "run", training=settings))
    ready = drawing.prepare(run)
    stopping = Stopping()
    stopping.asked = True
    with pytest.raises(Interrupted):
        train_members(run, [0], ready, stopping)
    assert not train_members(run, [0], ready, Stopping())
    assert run.member(0).exists()


def test_queries_start_from_the_same_noise_on_every_device(device, digits):
    run, _, asked = digits
    noises = [asked.noise(ensemble_on(one, run)) for one in ("cpu", device)]
    assert noises[1].device.type == device.type
    assert torch.equal(noises[0], noises[1].cpu())


def test_ablations_on_a_device_are_those_of_the_cpu(device, digits):
    run, ready, asked = digits
    votes = np.stack([ablated_votes(ready.codes, [source]) for source in (0, 5)])
    made = [
        queries.ablated_pictures(ensemble_on(one, run), asked, np.array([1, 0]), votes)
        for one in ("cpu", device)
    ]
    assert made[1].device.type == device.type
    torch.testing.assert_close(made[1].cpu(), made[0], atol=FROM_GPU, rtol=0)


def test_both_derivatives_on_a_device_are_those_of_the_cpu(device, digits):
    run, _, asked = digits

    def brightness(images):
        return images.mean(dim=(1, 2, 3))

    found = []
    for one in ("cpu", device):
        pipe = ensemble_on(one, run)
        by_vote = adjoint.adjoint(pipe, asked, brightness).by_vote
        found.append((by_vote, first_order.designed(pipe, asked).jacobian))
    for here, there in zip(*found, strict=True):
        assert np.abs(there - here).max() <= FROM_GPU * np.abs(here).max()


@pytest.mark.parametrize("side_by_side", [1, 4])
def test_members_side_by_side_on_a_device_are_those_of_the_cpu(
    device, digits, side_by_side
):
    run, _, asked = digits
    pipe = ensemble_on(device, run)
    pipe.members.side_by_side = side_by_side
    images = pipe.pictures(asked.seeds).cpu().numpy()
    np.testing.assert_allclose(images, asked.images, atol=FROM_GPU, rtol=0)


def test_half_precision_starts_from_the_same_noise_and_makes_nearly_the_same(
    device, digits
):
    """bfloat16 has eight bits, so each of four steps rounds by up to 1/256."""
    run, _, asked = digits
    half = ensemble_on(device, run).to(torch.bfloat16)
    noise = initial_noise(half.members, query_generators(asked.seeds), len(asked.seeds))
    assert torch.equal(noise.cpu(), asked.noise(ensemble_on("cpu", run)).bfloat16())
    images = half.pictures(asked.seeds)
    assert images.dtype == torch.bfloat16
    apart = np.abs(images.float().cpu().numpy() - asked.images).max()
    assert apart < 0.05 * np.abs(asked.images).max()


def moved(context: ScoringContext, device: torch.device) -> ScoringContext:
    """A setting whose networks and pictures are on a device, in float32."""

    def examples(ones: Examples) -> Examples:
        return Examples(
            ones.images.float().to(device), UNCONDITIONAL, ones.keys.to(device)
        )

    def trajectory():
        found = context.trajectory()
        return dataclasses.replace(found, clean=found.clean.float().to(device))

    return dataclasses.replace(
        context,
        networks=[nn.Module.to(one, device).float() for one in context.networks],
        train=examples(context.train),
        queries=examples(context.queries),
        trajectory=trajectory,
    )


@pytest.mark.parametrize("method", sorted(SCORERS))
def test_every_scorer_runs_where_its_networks_are(method, device, tmp_path):
    scores = []
    for number, one in enumerate((torch.device("cpu"), device)):
        (tmp_path / str(number)).mkdir()
        context = moved(tiny_context.context(tmp_path / str(number)), one)
        scores.append(quick(method).score(context))
    assert np.isfinite(scores[1]).all()
    # What divides by small curvatures magnifies what is rounded away.
    if np.ptp(scores[0]) > 0:
        assert np.corrcoef(scores[0].ravel(), scores[1].ravel())[0, 1] > 0.98
