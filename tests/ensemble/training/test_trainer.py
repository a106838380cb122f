"""Training is keyed: stopping, sharing and sources change what they should, no more."""

import json
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from ensemble.data import datasets
from ensemble.data.datasets import TrainingImages
from ensemble.data.lazy import ImagesOnDisk
from ensemble.data.loader import Split
from ensemble.provenance import coded_shards, drawing
from ensemble.provenance.plans import facts, load
from ensemble.run import config, files, records
from ensemble.run.files import check_file
from ensemble.run.folder import CHECKPOINT, REFERENCE, create
from ensemble.system import launching
from ensemble.training.description import describe
from ensemble.training.members import member_images, train_members
from ensemble.training.optimization import learning_rate
from ensemble.training.process import Interrupted, Stopping, prepared
from ensemble.training.trainer import MemberTrainer
from splits.codes import CodeBook
from splits.designs import placebos
from splits.errors import BadInput
from tests import tiny
from tests.tiny import StopsAfter

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return tiny.trained(tmp_path_factory.mktemp("whole") / "run")


def weights_of(run, member=0):
    return load_file(run.member(member) / WEIGHTS)


def path_name(path):
    return path.name


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("n_steps", range(5))
def test_interrupted_anywhere_and_continued_gives_the_same_bits(
    undisturbed, tmp_path, n_steps
):
    whole, _ = undisturbed
    run = create(tiny.config(tmp_path / "run"))
    ready = drawing.prepare(run)
    with pytest.raises(Interrupted):
        train_members(run, [0], ready, StopsAfter(n_steps))
    assert not run.member(0).exists()
    train_members(run, [0], ready, Stopping())
    assert equal(weights_of(run), weights_of(whole))
    for name in ("exposure.npy", WEIGHTS):
        one, other = (path.member(0) / name for path in (run, whole))
        assert files.sha256(one) == files.sha256(other)


def test_interrupted_with_average_flips_and_dropout_gives_the_same_bits(tmp_path):
    options = {"ema_decay": 0.9, "flip": True, "mixed_precision": "bf16"}
    model = {"dropout": 0.5}
    runs = [
        create(tiny.config(tmp_path / name, training=options, model=model))
        for name in ("whole", "parts")
    ]
    ready = [drawing.prepare(run) for run in runs]
    train_members(runs[0], [1], ready[0], Stopping())
    with pytest.raises(Interrupted):
        train_members(runs[1], [1], ready[1], StopsAfter(2))
    train_members(runs[1], [1], ready[1], Stopping())
    assert equal(weights_of(runs[0], 1), weights_of(runs[1], 1))


def test_interrupted_with_dropout_gives_the_same_bits_whatever_was_drawn_before(
    tmp_path,
):
    runs = [
        create(tiny.config(tmp_path / name, model={"dropout": 0.5}))
        for name in ("whole", "parts")
    ]
    ready = [drawing.prepare(run) for run in runs]
    train_members(runs[0], [1], ready[0], Stopping())
    with pytest.raises(Interrupted):
        train_members(runs[1], [1], ready[1], StopsAfter(2))
    torch.rand(1)
    train_members(runs[1], [1], ready[1], Stopping())
    assert equal(weights_of(runs[0], 1), weights_of(runs[1], 1))


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_images_read_from_files_train_the_same_bits(tmp_path, kind):
    digits = datasets.load(config.DataConfig(n_images=8))
    source = {"kind": kind, "path": files_of(digits, tmp_path / "out", kind)}
    changes = {"ema_decay": 0.9, "flip": True, "steps": 5, "batch_size": 5}
    runs, plans = {}, {}
    for stream in (False, True):
        settings = tiny.config(
            tmp_path / str(stream),
            data={**source, "stream": stream},
            splits=MANY_CODES,
            training=changes,
        )
        runs[stream] = create(settings)
        plans[stream] = drawing.prepare(runs[stream])
        train_members(runs[stream], [0, 3], plans[stream], Stopping())
    assert isinstance(plans[True].data.images, ImagesOnDisk)
    assert facts(plans[True]) == facts(plans[False])
    for member in (0, 3):
        held, on_disk = (run.member(member) for run in runs.values())
        for name in (WEIGHTS, "exposure.npy"):
            assert files.sha256(held / name) == files.sha256(on_disk / name)


MANY_CODES = {"design": "balanced", "weight": 2, "n_members": 5}


def files_of(digits, folder, kind):
    """Digits as PNG files, or as coded shards of them; where data.path finds them."""
    folder.mkdir()
    for name, image in zip(digits.names, digits.images, strict=True):
        grey = np.rint((image[0] + 1) * 127.5).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{name}.png")
    if kind == "folder":
        return str(folder)
    pictures = datasets.load(config.DataConfig(kind="folder", path=str(folder)))
    settings = tiny.config(folder, splits=MANY_CODES)
    coded = coded_shards.laid_out(settings, pictures, per_shard=3)
    coded_shards.write(coded, folder / "shards")
    last = len(coded.per_shard) - 1
    return str(folder / "shards" / f"images-{{000000..{last:06d}}}.tar")


def test_a_run_goes_on_in_memory_where_it_stopped_reading_from_files(tmp_path):
    digits = datasets.load(config.DataConfig(n_images=8))
    source = {"kind": "shards", "path": files_of(digits, tmp_path / "out", "shards")}
    whole = create(tiny.config(tmp_path / "whole", data=source))
    train_members(whole, [0], drawing.prepare(whole), Stopping())
    changed = {**source, "stream": True}
    run = create(tiny.config(tmp_path / "run", data=changed))
    with pytest.raises(Interrupted):
        train_members(run, [0], drawing.prepare(run), StopsAfter(2))
    run = create(tiny.config(tmp_path / "run", data=source))
    train_members(run, [0], load(run), Stopping())
    assert equal(weights_of(run), weights_of(whole))


def test_a_member_does_not_depend_on_who_is_trained_beside_it(undisturbed, tmp_path):
    whole, _ = undisturbed
    run = create(tiny.config(tmp_path / "run"))
    train_members(run, [2], drawing.prepare(run), Stopping())
    assert equal(weights_of(run, 2), weights_of(whole, 2))


def test_exposure_counts_the_split_and_nothing_else(undisturbed):
    run, ready = undisturbed
    for member in range(4):
        exposure = np.load(run.member(member) / "exposure.npy")
        split = member_images(ready.codes, ready.source_of, member)
        assert set(np.flatnonzero(exposure)) == set(split)
        assert exposure.sum() == 6 * 3
        assert exposure[split].max() - exposure[split].min() <= 1


@pytest.fixture(scope="module")
def reference(undisturbed):
    run, ready = undisturbed
    train_members(run, [REFERENCE], ready, Stopping())
    return run


def test_the_reference_trains_on_everything_and_is_no_member(reference, undisturbed):
    _, ready = undisturbed
    assert set(map(path_name, reference.members.glob("[0-9]*"))) == {
        *("000", "001", "002", "003")
    }
    assert set(map(path_name, reference.reference.iterdir())) == set(
        map(path_name, reference.member(0).iterdir())
    )
    exposure = np.load(reference.reference / "exposure.npy")
    assert (exposure > 0).all()
    assert exposure.max() - exposure.min() <= 1
    assert exposure.sum() == 6 * 3
    record = files.read_json(reference.reference / "member.json")
    assert record["member"] == "reference"
    assert record["n_sources"] == ready.codes.n_sources
    everything = CodeBook(np.ones((ready.codes.n_sources, 1), dtype=bool))
    assert record["split_digest"] == everything.split_digest(0)
    for name, digest in record["files"].items():
        check_file(reference.reference / name, digest)


def test_an_interrupted_reference_continues_to_the_same_bits(reference, tmp_path):
    run = create(tiny.config(tmp_path / "run"))
    ready = drawing.prepare(run)
    with pytest.raises(Interrupted):
        train_members(run, [REFERENCE], ready, StopsAfter(3))
    assert not run.reference.exists()
    train_members(run, [REFERENCE], ready, Stopping())
    for name in ("exposure.npy", WEIGHTS):
        one, other = (path.reference / name for path in (run, reference))
        assert files.sha256(one) == files.sha256(other)


def test_the_reference_shares_weights_and_noise_where_members_do(tmp_path):
    for shared in (True, False):
        changes = {"shared_noise": shared}
        run = create(tiny.config(tmp_path / str(shared), training=changes))
        data = drawing.prepare(run).data
        accelerator = Accelerator(cpu=True)
        first, reference = (
            MemberTrainer(run, which, data, np.arange(2), accelerator)
            for which in (0, REFERENCE)
        )
        assert (first.seed == reference.seed) is shared
        noises = [trainer._noise(3, 0)[1] for trainer in (first, reference)]
        assert torch.equal(*noises) is shared
        # Its order is its own.
        orders = [trainer.split.batch(0, 50) for trainer in (first, reference)]
        assert not np.array_equal(*orders)


@pytest.mark.parametrize("damaged", ["weights", "step"])
def test_a_damaged_checkpoint_is_dropped_and_the_result_is_the_same(
    undisturbed, tmp_path, damaged
):
    whole, _ = undisturbed
    run = create(tiny.config(tmp_path / "run"))
    ready = drawing.prepare(run)
    with pytest.raises(Interrupted):
        train_members(run, [0], ready, StopsAfter(3))
    path = run.member(0).with_suffix(".part") / CHECKPOINT
    content = bytearray(path.read_bytes())
    at = -5 if damaged == "weights" else content.index(b'step\\": ') + 8
    content[at] ^= 1
    path.write_bytes(bytes(content))
    train_members(run, [0], ready, Stopping())
    assert equal(weights_of(run), weights_of(whole))


@pytest.mark.parametrize("stage", ["write_done_mark", "commit_folder"])
def test_killed_while_it_is_published_a_member_goes_on_from_its_checkpoint(
    undisturbed, tmp_path, monkeypatch, stage
):
    whole, _ = undisturbed
    run = create(tiny.config(tmp_path / "run"))
    ready = drawing.prepare(run)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        places = {"write_done_mark": records, "commit_folder": files}
        patched.setattr(places[stage], stage, killed)
        with pytest.raises(KeyboardInterrupt):
            train_members(run, [0], ready, Stopping())
    part = run.member(0).with_suffix(".part")
    assert (part / CHECKPOINT).exists()
    train_members(run, [0], ready, Stopping())
    assert equal(weights_of(run), weights_of(whole))
    # Nothing is said twice, though two steps were done twice.
    lines = (run.member(0) / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    assert not list(run.member(0).glob(".*"))


def test_a_log_line_that_was_cut_short_is_written_again(undisturbed, tmp_path):
    run = create(tiny.config(tmp_path / "run"))
    ready = drawing.prepare(run)
    with pytest.raises(Interrupted):
        train_members(run, [0], ready, StopsAfter(2))
    log = run.member(0).with_suffix(".part") / "log.jsonl"
    with log.open("a") as file:
        file.write('{"step": 4, "lo')
    train_members(run, [0], ready, Stopping())
    lines = (run.member(0) / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]


def test_finished_members_are_left_alone(undisturbed):
    run, ready = undisturbed
    before = (run.member(0) / WEIGHTS).stat().st_mtime_ns
    train_members(run, range(4), ready, Stopping())
    assert (run.member(0) / WEIGHTS).stat().st_mtime_ns == before


OPTIONS = {
    "steps": 5,
    "batch_size": 4,
    "learning_rate": 1.0e-3,
    "warmup_steps": 0,
    "lr_schedule": "constant",
    "weight_decay": 0.5,
    "max_grad_norm": 0.01,
    "ema_decay": 0.5,
    "mixed_precision": "bf16",
    "shared_noise": False,
    "flip": True,
    "seed": 1,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_weights(undisturbed, tmp_path, option):
    whole, _ = undisturbed
    change = {option: OPTIONS[option]}
    run = create(tiny.config(tmp_path / "run", training=change))
    train_members(run, [0], drawing.prepare(run), Stopping())
    assert not equal(weights_of(run), weights_of(whole))


@pytest.mark.parametrize(
    "change",
    [{"prediction_type": "v_prediction"}, {"schedule": "cosine"}, {"dropout": 0.5}],
)
def test_every_option_of_the_model_changes_the_weights(undisturbed, tmp_path, change):
    whole, _ = undisturbed
    run = create(tiny.config(tmp_path / "run", model=change))
    train_members(run, [0], drawing.prepare(run), Stopping())
    assert not equal(weights_of(run), weights_of(whole))


def test_label_dropout_hides_labels(tmp_path):
    finished = []
    for number, dropout in enumerate((0.0, 0.5)):
        changes = {
            "model": {"class_conditional": True},
            "training": {"label_dropout": dropout},
        }
        run = create(tiny.config(tmp_path / str(number), **changes))
        train_members(run, [0], drawing.prepare(run), Stopping())
        finished.append(weights_of(run))
    assert "class_embedding.weight" in finished[0]
    assert not equal(*finished)


def test_members_share_weights_and_noise_unless_told_otherwise(tmp_path):
    for shared in (True, False):
        settings = tiny.config(
            tmp_path / str(shared), training={"shared_noise": shared}
        )
        run = create(settings)
        ready = drawing.prepare(run)
        trainers = [
            MemberTrainer(run, member, ready.data, np.arange(2), Accelerator(cpu=True))
            for member in (0, 1)
        ]
        noises = [trainer._noise(3, 0) for trainer in trainers]
        assert (trainers[0].seed == trainers[1].seed) is shared
        assert torch.equal(noises[0][1], noises[1][1]) is shared


def test_half_precision_is_refused_where_no_device_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    run = create(tiny.config(tmp_path / "run", training={"mixed_precision": "fp16"}))
    with pytest.raises(BadInput, match="is fp16, but torch finds no GPU here"):
        train_members(run, [0], drawing.prepare(run), Stopping())


def test_gradients_are_accumulated_as_the_config_says_whatever_the_launcher_says(
    monkeypatch,
):
    monkeypatch.setattr(launching, "require_agreement", lambda *_: None)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = prepared(config.TrainingConfig())
    assert accelerator.gradient_accumulation_steps == 1


def test_a_launcher_that_asks_for_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    run = create(tiny.config(tmp_path / "run"))
    with pytest.raises(BadInput, match="asks for gradient accumulation"):
        train_members(run, [0], drawing.prepare(run), Stopping())


def test_a_loss_that_is_not_finite_stops_only_that_member(tmp_path):
    run = create(tiny.config(tmp_path / "run", training={"learning_rate": 1e30}))
    failed = train_members(run, [0, 1], drawing.prepare(run), Stopping())
    assert set(failed) == {0, 1}
    assert "Member 000: the loss is" in failed[0]
    assert "at step" in failed[0]
    assert not run.member(0).exists()


def test_one_member_whose_loss_is_not_a_number_is_named_and_the_others_finish(
    undisturbed, tmp_path, monkeypatch
):
    whole, _ = undisturbed
    real = MemberTrainer._noise

    def spoilt(trainer, n_images, step):
        timestep, noise = real(trainer, n_images, step)
        wrong = trainer.member == 1 and step == 3
        return timestep, noise * float("nan") if wrong else noise

    monkeypatch.setattr(MemberTrainer, "_noise", spoilt)
    run = create(tiny.config(tmp_path / "run"))
    failed = train_members(run, range(4), drawing.prepare(run), Stopping())
    assert list(failed) == [1]
    assert failed[1].startswith("Member 001: the loss is nan at step 3.")
    assert not run.member(1).exists()
    for member in (0, 2, 3):
        assert equal(weights_of(run, member), weights_of(whole, member))


def test_a_folder_deleted_while_it_is_filled_costs_no_bits(
    undisturbed, tmp_path, monkeypatch
):
    whole, _ = undisturbed
    real = MemberTrainer.step

    def losing(trainer):
        if trainer.state.step == 3:
            shutil.rmtree(trainer.folder)
        return real(trainer)

    monkeypatch.setattr(MemberTrainer, "step", losing)
    run = create(tiny.config(tmp_path / "run"))
    train_members(run, [0], drawing.prepare(run), Stopping())
    assert equal(weights_of(run), weights_of(whole))


def test_one_class_only_is_refused(tmp_path):
    run = create(
        tiny.config(
            tmp_path / "run",
            data={"n_images": 2, "label": "label"},
            splits={"n_members": 2},
            model={"class_conditional": True},
        )
    )
    ready = drawing.prepare(run)
    one = TrainingImages(
        ready.data.images, np.zeros(2, dtype=np.int64), ("0",), {}, ("a", "b")
    )
    with pytest.raises(BadInput, match="nothing to condition on"):
        MemberTrainer(run, 0, one, np.arange(2), Accelerator(cpu=True))


def test_every_epoch_shows_each_image_once():
    split = Split(np.array([2, 3, 5, 7, 11]), seed=0, member=1)
    shown = np.concatenate([split.batch(step, 3) for step in range(10)])
    for epoch in range(6):
        assert sorted(shown[5 * epoch : 5 * epoch + 5]) == [2, 3, 5, 7, 11]
    assert len({tuple(shown[5 * epoch : 5 * epoch + 5]) for epoch in range(6)}) > 1


def test_a_batch_larger_than_the_split_runs_through_it_again():
    split = Split(np.array([4, 9]), seed=0, member=0)
    assert np.bincount(split.batch(1, 7), minlength=10)[[4, 9]].tolist() in (
        [3, 4],
        [4, 3],
    )


def test_the_learning_rate_rises_then_falls_to_zero():
    settings = tiny.config(
        "none", training={"steps": 100, "warmup_steps": 10, "learning_rate": 1.0}
    ).training
    assert learning_rate(settings, 0) == pytest.approx(0.1)
    assert learning_rate(settings, 10) == pytest.approx(1.0)
    assert learning_rate(settings, 55) == pytest.approx(0.5)
    assert learning_rate(settings, 99) < 1e-3


def test_the_log_and_the_loss_curve_agree(undisturbed):
    run, _ = undisturbed
    lines = (run.member(0) / "log.jsonl").read_text().splitlines()
    record = files.read_json(run.member(0) / "member.json")
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    assert record["loss_curve"]["steps"] == [2, 4, 6]
    logged = [json.loads(line)["loss"] for line in lines]
    assert logged == pytest.approx(record["loss_curve"]["loss"], abs=1e-6)


def test_training_lowers_the_loss(tmp_path):
    run = create(
        tiny.config(tmp_path / "run", training={"steps": 60, "log_every_steps": 10})
    )
    train_members(run, [0], drawing.prepare(run), Stopping())
    losses = files.read_json(run.member(0) / "member.json")["loss_curve"]["loss"]
    assert losses[-1] < 0.6 * losses[0]


def test_tensorboard_is_written_when_asked(tmp_path):
    pytest.importorskip("tensorboard")
    run = create(tiny.config(tmp_path / "run", training={"tensorboard": True}))
    train_members(run, [0], drawing.prepare(run), Stopping())
    assert list((run.path / "tensorboard" / "000").glob("events*"))


def test_the_plan_says_what_training_costs(undisturbed):
    run, ready = undisturbed
    text = describe(run.config, ready)
    assert "4 members x 6 steps x 3 images = 72 images" in text
    assert all(line in text for line in placebos.describe(ready.codes.bits))
    assert "told apart" in text
