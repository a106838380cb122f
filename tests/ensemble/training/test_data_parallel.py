"""Processes that train one member together do what one process does."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from ensemble.cli import train
from ensemble.data import datasets
from ensemble.evaluation import retraining
from ensemble.provenance import drawing, removal
from ensemble.run import config_file
from ensemble.run.config import DataConfig
from ensemble.run.files import read_json
from ensemble.run.folder import REFERENCE, codes_of, create, open_run
from ensemble.system import locks
from ensemble.training import data_parallel
from ensemble.training.members import train_members
from ensemble.training.process import Stopping
from splits.errors import BadInput
from tests import teams, tiny
from tests.ensemble.training.test_trainer import files_of

ROOT = Path(__file__).parents[3]
WEIGHTS = "diffusion_pytorch_model.safetensors"
SETTINGS = {"batch_size": 4, "steps": 12, "flip": True}
TOGETHER = {**SETTINGS, "processes_per_member": 2}


def test_one_that_is_alone_does_everything_itself():
    alone = data_parallel.ALONE
    batch, gradient = torch.arange(6), torch.ones(2)
    assert alone.first
    assert torch.equal(alone.part(batch), batch)
    alone.average([gradient])
    assert torch.equal(gradient, torch.ones(2))
    assert alone.mean(0.1) == 0.1
    alone.require_same("split a", "the split")
    assert [alone.any(state) for state in (True, False)] == [True, False]
    assert [alone.told(state) for state in (True, False)] == [True, False]


def test_the_parts_of_a_batch_are_all_of_it_once():
    for batch in (torch.arange(12), np.arange(12)):
        parts = [
            data_parallel.Team(rank=rank, size=3).part(batch).tolist()
            for rank in range(3)
        ]
        assert [len(part) for part in parts] == [4, 4, 4]
        assert sum(parts, []) == list(range(12))


class Told(data_parallel.Team):
    """A team in which the others have these numbers."""

    others = ()

    def _sum(self, tensor):
        tensor += sum(self.others)


def of_three(*others):
    one = Told(rank=1, size=3, group="a group")
    object.__setattr__(one, "others", others)
    return one


def test_means_are_over_the_whole_team():
    assert of_three(1.0, 3.0).mean(5.0) == 3.0
    assert of_three(0.0, 1.0).any(False)
    assert not of_three(0.0, 0.0).any(False)
    # Its own word does not count, for it is not the first.
    assert not of_three(0.0, 0.0).told(True)
    gradients = [torch.ones(2, 3), torch.full((4,), 4.0)]
    of_three(1.0, 4.0).average(gradients)
    assert torch.equal(gradients[0], torch.full((2, 3), 2.0))
    assert torch.equal(gradients[1], torch.full((4,), 3.0))


def test_a_team_that_does_not_agree_is_refused():
    with pytest.raises(BadInput, match="do not agree on the split; process 1 of them"):
        of_three(1.0, 2.0).require_same("split a", "the split")


def test_one_whose_team_is_gone_says_what_to_do(monkeypatch):
    def gone(*_, **__):
        raise RuntimeError("Connection closed by peer\nmore")

    monkeypatch.setattr(data_parallel.distributed, "all_reduce", gone)
    left = data_parallel.Team(size=2, group="a group")
    with pytest.raises(
        data_parallel.Deserted, match=r"is gone \(Connection closed by peer\)"
    ):
        left.mean(1.0)


def process(index, of):
    """What Accelerate tells a process of its place."""
    place = {"process_index": index, "num_processes": of}
    return Mock(Accelerator, **place, device=torch.device("cpu"))


def test_teams_of_one_are_the_processes():
    formed = data_parallel.formed(process(2, of=4), 1)
    assert (formed.number, formed.n_teams, formed.first) == (2, 4, True)


def test_processes_that_form_no_whole_teams_are_refused():
    with pytest.raises(BadInput, match="3 processes do not form teams of 2"):
        data_parallel.formed(process(0, of=3), 2)


def test_a_batch_that_cannot_be_shared_equally_is_refused(tmp_path):
    uneven = {"batch_size": 3, "processes_per_member": 2}
    with pytest.raises(BadInput, match="3 images cannot be shared equally by 2"):
        tiny.config(tmp_path, training=uneven)


def test_slices_are_refused_for_teams(tmp_path):
    with pytest.raises(BadInput, match="slices are trained by one process each"):
        tiny.config(tmp_path, training={**TOGETHER, "slices": 2})


def test_a_run_that_extends_another_is_refused_for_teams(tmp_path):
    tree = config_file.to_dict(tiny.config(tmp_path, training=TOGETHER))
    with pytest.raises(BadInput, match="cannot have training.processes_per_member"):
        config_file.from_dict({**tree, "extends": "runs/another"})


def test_ray_is_refused_for_teams(tmp_path):
    config = written(tmp_path / "run", TOGETHER)
    with pytest.raises(BadInput, match="processes_per_member is 2, but --engine ray"):
        train.main([config, "--engine", "ray"])
    assert not (tmp_path / "run").exists()


def written(folder, settings, **changes):
    """A config file of two members; its path."""
    splits = {"n_members": 2, **changes.pop("splits", {})}
    config = tiny.config(folder, training=settings, splits=splits, **changes)
    path = folder.with_suffix(".yaml")
    path.write_text(config_file.to_yaml(config))
    return str(path)


def weights(run, member):
    return load_file(run.trained(member) / WEIGHTS)


def facts(run, member):
    return read_json(run.trained(member) / "member.json")


def same(one, other, member):
    """Whether weights and exposure of a member are the same bits in two runs."""
    files = [facts(run, member)["files"] for run in (one, other)]
    return all(files[0][name] == files[1][name] for name in (WEIGHTS, "exposure.npy"))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A run of two members and the reference, each trained by two processes."""
    folder = tmp_path_factory.mktemp("together")
    config = written(folder / "run", TOGETHER)
    for code, said in teams.train(folder, [config, "--reference"]):
        assert code == 0, said
    return open_run(folder / "run")


@pytest.mark.slow
def test_a_team_trains_as_one_process_does(together, tmp_path):
    """Equal up to the order of sums: 1e-5 of each loss, 1e-4 of a typical weight."""
    few = {"n_members": 2}
    one, ready = tiny.trained(tmp_path / "one", training=SETTINGS, splits=few)
    train_members(one, [REFERENCE], ready, Stopping())
    for member in (0, 1, REFERENCE):
        alone, shared = facts(one, member), facts(together, member)
        assert alone["loss_curve"]["steps"] == shared["loss_curve"]["steps"]
        curves = [fact["loss_curve"]["loss"] for fact in (shared, alone)]
        np.testing.assert_allclose(*curves, rtol=1e-5)
        assert shared["files"]["exposure.npy"] == alone["files"]["exposure.npy"]
        whole, parts = weights(one, member), weights(together, member)
        for name, weight in whole.items():
            scale = weight.square().mean().sqrt()
            assert (parts[name] - weight).abs().max() < 1e-4 * scale, name
    log = (together.member(0) / "log.jsonl").read_text().splitlines()
    assert len(log) == 6


@pytest.mark.slow
def test_all_stop_at_the_step_at_which_one_is_asked_to_and_go_on_to_the_same_bits(
    together, tmp_path
):
    config = written(tmp_path / "run", TOGETHER)
    outcomes = teams.train(tmp_path, [config], tamper=teams.stopped)
    assert [code for code, _ in outcomes] == [75, 75], outcomes
    assert "the same command goes on from here" in outcomes[0][1]
    part = tmp_path / "run" / "members" / "000.part"
    assert len((part / "log.jsonl").read_text().splitlines()) == 3
    outcomes = teams.train(tmp_path, [config])
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    run = open_run(tmp_path / "run")
    assert same(run, together, 0)
    assert same(run, together, 1)


@pytest.mark.slow
def test_of_three_one_is_killed_the_others_end_and_the_same_command_gives_the_same_bits(
    tmp_path,
):
    three = {**SETTINGS, "batch_size": 6, "processes_per_member": 3}
    runs = {}
    for name, tamper in (("whole", teams.undisturbed), ("parts", teams.killed)):
        config = written(tmp_path / name, three)
        outcomes = teams.train(tmp_path, [config], size=3, tamper=tamper)
        if tamper is teams.killed:
            codes = [code for code, _ in outcomes]
            assert codes == [1, -signal.SIGKILL, 1], outcomes
            for _, said in (outcomes[0], outcomes[2]):
                assert "Member 000: another process that trains it is gone" in said
                assert "Traceback" not in said
            outcomes = teams.train(tmp_path, [config], size=3)
        assert [code for code, _ in outcomes] == [0, 0, 0], outcomes
        runs[name] = open_run(tmp_path / name)
    for member in (0, 1):
        assert same(runs["whole"], runs["parts"], member)


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_stops_only_that_member(
    together, tmp_path
):
    config = written(tmp_path / "run", TOGETHER)
    outcomes = teams.train(tmp_path, [config], tamper=teams.spoilt)
    assert [code for code, _ in outcomes] == [1, 0], outcomes
    assert "Member 000: the loss is nan at step 3." in outcomes[0][1]
    assert "Member 000" not in outcomes[1][1]
    run = open_run(tmp_path / "run")
    assert not run.member(0).exists()
    assert same(run, together, 1)


@pytest.mark.slow
def test_processes_that_mean_different_splits_are_refused_before_a_step(tmp_path):
    config = written(tmp_path / "run", TOGETHER)
    outcomes = teams.train(tmp_path, [config], tamper=teams.otherwise)
    for code, said in outcomes:
        assert code == 2
        assert "not agree on the sources that member 000 trains on" in said
    assert not list((tmp_path / "run" / "members").glob("*/*"))


@pytest.mark.slow
def test_processes_that_would_begin_at_different_steps_are_refused(tmp_path):
    config = written(tmp_path / "run", TOGETHER)
    teams.train(tmp_path, [config], tamper=teams.stopped)
    outcomes = teams.train(tmp_path, [config], tamper=teams.forgetful)
    for code, said in outcomes:
        assert code == 2
        assert "do not agree on how far member 000 is" in said
    assert "has 6 steps" in outcomes[0][1]
    assert "has 0 steps" in outcomes[1][1]


@pytest.mark.slow
def test_a_member_that_another_command_trains_is_left_to_it(together, tmp_path):
    config = written(tmp_path / "run", TOGETHER)
    run = create(config_file.load(config))
    drawing.prepare(run)
    with locks.exclusive(run.member(0)):
        outcomes = teams.train(tmp_path, [config])
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert "member 000: left to process" in outcomes[0][1]
    assert not run.member(0).exists()
    assert same(run, together, 1)


@pytest.mark.slow
def test_a_team_repairs_what_a_team_trained(tmp_path):
    changes = {"splits": {"n_members": 4}}
    config = written(tmp_path / "run", TOGETHER, **changes)
    outcomes = teams.train(tmp_path, [config])
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    run = open_run(tmp_path / "run")
    before = [facts(run, member)["files"][WEIGHTS] for member in range(4)]
    removal.request(run, [0], "asked to")
    outcomes = teams.train(tmp_path, [config, "--repair"])
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    saw = codes_of(run.path).bits[0]
    for member in range(4):
        exposure = np.load(run.member(member) / "exposure.npy")
        assert exposure[drawing.prepare(run).source_of == 0].sum() == 0
        after = facts(run, member)["files"][WEIGHTS]
        assert (after == before[member]) is not saw[member]


@pytest.mark.slow
def test_a_team_that_reads_images_from_files_trains_the_same_bits(tmp_path):
    digits = datasets.load(DataConfig(n_images=8))
    pictures = files_of(digits, tmp_path / "pictures", "folder")
    runs = []
    for stream in (False, True):
        source = {"kind": "folder", "path": pictures, "stream": stream}
        config = written(tmp_path / str(stream), TOGETHER, data=source)
        outcomes = teams.train(tmp_path, [config])
        assert [code for code, _ in outcomes] == [0, 0], outcomes
        runs.append(open_run(tmp_path / str(stream)))
    assert same(*runs, 0)
    assert same(*runs, 1)


def test_after_a_removal_models_are_trained_again_by_one_process(tmp_path):
    changes = {"splits": {"n_members": 4}, "training": TOGETHER}
    run = create(tiny.config(tmp_path / "run", **changes))
    ready = dataclasses.replace(drawing.prepare(run), removed=[0])
    splits = dataclasses.replace(run.config.splits, design="given", n_members=1)
    wanted = retraining.config(run, tmp_path / "again", splits, seed=1, steps=2)
    everything = np.ones((ready.codes.n_sources, 1), dtype=bool)
    again = retraining.train(ready, everything, wanted)
    exposure = np.load(again.member(0) / "exposure.npy")
    assert exposure.sum() == 2 * SETTINGS["batch_size"]
    assert exposure[ready.source_of == 0].sum() == 0


@pytest.mark.slow
def test_the_command_ends_soon_after_one_of_a_team_is_killed_and_goes_on(tmp_path):
    """As `python train.py` starts them; the bits are those of a run left in peace."""
    longer = {**TOGETHER, "steps": 40, "checkpoint_every_steps": 8}
    outcomes = teams.train(tmp_path, [written(tmp_path / "whole", longer)])
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    config = written(tmp_path / "run", longer)
    command = begun(config)
    log = tmp_path / "run" / "members" / "000.part" / "log.jsonl"
    while not log.exists() or log.read_text().count("\n") < 6:
        assert command.poll() is None
        time.sleep(0.02)
    _, second = children(command.pid)
    os.kill(second, signal.SIGKILL)
    killed = time.monotonic()
    _, said = command.communicate(timeout=200)
    assert time.monotonic() - killed < 10
    assert command.returncode == 1
    assert "Process 1 was killed by signal 9" in said
    assert "Member 000: another process that trains it is gone" in said
    _, said = (again := begun(config)).communicate(timeout=200)
    assert again.returncode == 0, said
    for member in (0, 1):
        runs = [open_run(tmp_path / name) for name in ("whole", "run")]
        assert same(*runs, member)
        curves = [facts(run, member)["loss_curve"] for run in runs]
        assert curves[0] == curves[1]


def begun(*arguments):
    """The command, started."""
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(parent):
    """The processes that a process has started, in order."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return sorted(map(int, found.split()))
