"""Runs are stopped, starved and shared by real processes; nothing is lost or done twice."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from ensemble.cli import train
from ensemble.provenance import drawing
from ensemble.run import files, manifest
from ensemble.run.files import check_file
from ensemble.run.folder import CHECKPOINT, create, open_run
from ensemble.system import exits
from tests import tiny

ROOT = Path(__file__).parent.parent
N_MEMBERS = 6


def begun(name, *arguments, **options):
    """A script that has been started."""
    return subprocess.Popen(
        [sys.executable, ROOT / name, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,
    )


def ended(process):
    """Exit code, output and errors."""
    out, err = process.communicate(timeout=1000)
    return process.returncode, out, err


def config_file(folder, **training):
    """A config of six tiny members."""
    tree = {"run": str(folder / "run"), **tiny.SETTINGS}
    tree["splits"] = {"n_members": N_MEMBERS, "weight": 3}
    tree["training"] = {**tree["training"], **training}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run that two trainers made at once, and what they said."""
    folder = tmp_path_factory.mktemp("shared")
    config = config_file(folder, steps=60, checkpoint_every_steps=20)
    trainers = [begun("train.py", config) for _ in range(2)]
    return open_run(_existing(folder / "run")), [ended(one) for one in trainers]


def _existing(run):
    while not (run / "manifest.json").exists():
        time.sleep(0.05)
    return run


@pytest.mark.slow
def test_two_trainers_share_the_members_and_train_none_twice(shared):
    run, trainers = shared
    assert [code for code, _, _ in trainers] == [0, 0], trainers
    said = "".join(out + err for _, out, err in trainers)
    for member in range(N_MEMBERS):
        assert said.count(f"member {member:03d}: trained") == 1
        record = files.read_json(run.member(member) / "member.json")
        for name, digest in record["files"].items():
            check_file(run.member(member) / name, digest)
    assert said.count("Next: python attribute.py") >= 1
    assert manifest.is_complete(run)


@pytest.mark.slow
def test_two_attributors_measure_once_and_a_trainer_beside_them_harms_nothing(shared):
    run, _ = shared
    everything = [
        *(begun("attribute.py", run.path) for _ in range(2)),
        begun("train.py", run.path / "config.yaml", "--reference"),
    ]
    outcomes = [ended(one) for one in everything]
    assert [code for code, _, _ in outcomes] == [0, 0, 0], outcomes
    info = files.read_json(run.influence("demo") / "exact" / "info.json")
    for name, digest in info["files"].items():
        check_file(run.influence("demo") / "exact" / name, digest)
    assert not list(run.path.rglob("*.part"))
    assert not list(run.path.rglob("*.work"))
    assert run.reference.exists()
    stages = files.read_json(run.manifest)["stages"]
    assert {"train", "generate demo", "ablate demo exact"} <= set(stages)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_two_processes_leave_checkpoints_and_an_attributor_is_refused(
    tmp_path, number
):
    config = config_file(tmp_path, steps=1_000_000, checkpoint_every_steps=1_000_000)
    trainer = begun("train.py", config, "training.processes=2")
    members = tmp_path / "run" / "members"
    while len(list(members.glob("*.part/log.jsonl"))) < 2:
        assert trainer.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    trainer.send_signal(number)
    began = time.monotonic()
    code, _, err = ended(trainer)
    assert time.monotonic() - began < 10
    assert code == 75
    assert "the same command goes on from here" in err
    assert len(list(members.glob(f"*.part/{CHECKPOINT}"))) == 2
    code, _, err = ended(begun("attribute.py", tmp_path / "run", "generate"))
    assert code == 2
    assert "is not trained yet: 0 of 6 members are there" in err


@pytest.mark.slow
def test_a_full_disk_is_said_and_what_is_done_stays_and_goes_on(tmp_path):
    config = config_file(tmp_path)
    code, _, err = ended(begun("train.py", config, "--members", "0"))
    assert code == 0, err
    run = open_run(tmp_path / "run")
    before = files.sha256(run.member(0) / "member.json")

    def starve():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    code, _, err = ended(begun("train.py", config, preexec_fn=starve))
    assert code == 2
    assert "File too large. Make room" in err
    assert "Traceback" not in err
    assert [path.name for path in run.members.glob("[0-9][0-9][0-9]")] == ["000"]
    assert files.sha256(run.member(0) / "member.json") == before
    code, out, err = ended(begun("train.py", config))
    assert code == 0, err
    assert "6 members in" in out
    assert not list(run.path.rglob("*.part"))


@pytest.fixture
def open_to_all():
    """A folder that any user may look into, as those of the tests' own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def nobody():
    """Without the rights of a user who may do everything; others have none to lose."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_run_folder_is_said_and_stays_as_it_was(open_to_all, capsys):
    run = create(tiny.config(open_to_all / "run"))
    drawing.prepare(run)
    for path in (*run.path.rglob("*"), run.path):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    with nobody():
        code = exits.run_guarded(train.main, [str(run.path / "config.yaml")])
    assert code == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"error: cannot read or write {run.members}: Permission denied"
    )
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    run.path.chmod(0o755)
