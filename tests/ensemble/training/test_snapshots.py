"""Weights that are kept on the way: which, the same after a stop, and who reads them."""

import numpy as np
import pytest
import torch

from ensemble.models.denoisers import load_member
from ensemble.provenance import drawing
from ensemble.run import files
from ensemble.run.folder import REFERENCE, create
from ensemble.sampling import queries
from ensemble.scorers import runner
from ensemble.scorers.methods.pruthi2020tracin import GradientDot, TracIn
from ensemble.training import snapshots
from ensemble.training.description import describe, weights_of_a_member
from ensemble.training.members import train_members
from ensemble.training.process import Interrupted, Stopping
from splits.errors import BadInput
from tests import tiny
from tests.ensemble.scorers.tiny_context import FEATURE
from tests.tiny import StopsAfter

KEPT = {"keep_every_steps": 2}


def weights_of(network):
    return torch.cat([weights.flatten() for weights in network.parameters()])


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tiny.trained(tmp_path_factory.mktemp("kept"), training=KEPT)


def test_weights_are_kept_after_so_many_steps_and_the_finished_ones_come_last(kept):
    run, _ = kept
    folder = run.member(1)
    assert sorted(path.name for path in folder.glob("step-*")) == [
        "step-00000002.safetensors",
        "step-00000004.safetensors",
    ]
    *moments, last = snapshots.load(folder)
    assert torch.equal(weights_of(last), weights_of(load_member(folder)))
    distances = [(weights_of(one) - weights_of(last)).norm() for one in moments]
    assert len(distances) == 2
    assert distances[0] > distances[1] > 0


def test_they_are_those_of_a_training_that_took_so_many_steps(kept, tmp_path):
    """A constant rate knows nothing of how many steps there will be."""
    constant = {"lr_schedule": "constant"}
    long, _ = tiny.trained(tmp_path / "long", training={**KEPT, **constant})
    short, _ = tiny.trained(tmp_path / "short", training={"steps": 4, **constant})
    moment = snapshots.load(long.member(2))[1]
    assert torch.equal(weights_of(moment), weights_of(load_member(short.member(2))))


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_interrupted_training_keeps_the_same_bits(kept, tmp_path, n_steps):
    run = create(tiny.config(tmp_path / "run", training=KEPT))
    ready = drawing.prepare(run)
    with pytest.raises(Interrupted):
        train_members(run, [0], ready, StopsAfter(n_steps))
    train_members(run, [0], ready, Stopping())
    whole, parts = (
        files.read_json(folder / "member.json")["files"]
        for folder in (kept[0].member(0), run.member(0))
    )
    assert {name: digest for name, digest in whole.items() if "step-" in name}
    assert [whole[name] for name in whole if name.endswith("safetensors")] == [
        parts[name] for name in whole if name.endswith("safetensors")
    ]


def test_they_are_the_trained_weights_not_their_average(tmp_path, kept):
    run, _ = tiny.trained(tmp_path / "run", training={**KEPT, "ema_decay": 0.9})
    plain, averaged = (snapshots.load(each.member(0)) for each in (kept[0], run))
    assert torch.equal(weights_of(plain[0]), weights_of(averaged[0]))
    assert not torch.equal(weights_of(plain[-1]), weights_of(averaged[-1]))


def test_a_damaged_one_is_refused(tmp_path):
    run, _ = tiny.trained(tmp_path / "run", training=KEPT)
    file = run.member(0) / "step-00000002.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match=r"step-00000002\.safetensors"):
        snapshots.load(run.member(0))


def test_the_plan_counts_their_disk(kept):
    run, ready = kept
    text = describe(run.config, ready)
    (line,) = [line for line in text.splitlines() if line.startswith("disk")]
    n_weights = weights_of_a_member(run.config, ready.data)
    assert f" {4 * 3 * 4 * n_weights / 2**20:.1f} MB" in line


def test_tracin_follows_the_training_of_a_run_that_kept_it(kept):
    run, ready = kept
    train_members(run, [REFERENCE], ready, Stopping())
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "demo", [3])
    for which in ("ensemble", 2, REFERENCE):
        path = runner.score(
            run, pipe, ready, "demo", "tracin", which, scorer=TracIn(FEATURE)
        )
        notes = files.read_json(path.with_suffix(".json"))["notes"]
        assert notes == [{"checkpoints": 3}] * (4 if which == "ensemble" else 1)
        last = runner.score(
            run, pipe, ready, "demo", "dot", which, scorer=GradientDot(FEATURE)
        )
        assert not np.allclose(np.load(path), np.load(last), rtol=0.01)
