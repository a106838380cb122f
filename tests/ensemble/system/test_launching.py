"""Several processes are told their places, stopped together, and end in one code."""

import os
import signal
import threading
import time

import pytest

from ensemble.run.config import TrainingConfig
from ensemble.system import launching
from splits.errors import BadInput

PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "ENSEMBLE_PARENT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("asked", "devices", "cores", "n_members", "expected"),
    [
        (3, 8, 8, 16, 3),
        (3, 8, 8, 2, 2),
        (None, 4, 8, 16, 4),
        (None, 0, 8, 16, 8),
        (None, 0, None, 16, 1),
        (None, 0, 8, 5, 5),
        (None, 0, 8, 0, 1),
    ],
)
def test_one_process_a_device_or_core_but_no_more_than_members(
    monkeypatch, asked, devices, cores, n_members, expected
):
    monkeypatch.setattr(launching, "_n_devices", lambda: devices)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert launching.n_processes(asked, n_members) == expected


@pytest.mark.parametrize(
    ("asked", "n_members", "per_member", "expected"),
    [(8, 16, 2, 8), (8, 3, 2, 6), (7, 16, 2, 6), (1, 16, 4, 4), (4, 0, 2, 2)],
)
def test_whole_teams_of_processes_and_enough_for_one(
    asked, n_members, per_member, expected
):
    assert launching.n_processes(asked, n_members, per_member) == expected


@pytest.mark.parametrize(
    ("environment", "worker", "launched", "first"),
    [
        ({}, False, False, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True, False, True),
        ({"RANK": "1", "LOCAL_RANK": "1"}, True, False, False),
        ({"RANK": "8", "LOCAL_RANK": "0"}, True, False, False),
        # A process of ours never speaks for all: the one that launched it does.
        ({"RANK": "0", "LOCAL_RANK": "0", "ENSEMBLE_PARENT": "1"}, True, True, False),
        ({"RANK": "1", "LOCAL_RANK": "1", "ENSEMBLE_PARENT": "1"}, True, True, False),
    ],
)
def test_a_process_finds_its_place_in_the_environment(
    monkeypatch, environment, worker, launched, first
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launching.is_worker() == worker
    assert launching.is_launched() == launched
    assert launching.is_first() == first


def test_a_process_is_orphaned_once_its_parent_is_another(monkeypatch):
    assert not launching.is_orphaned()
    monkeypatch.setenv("ENSEMBLE_PARENT", str(os.getppid()))
    assert not launching.is_orphaned()
    monkeypatch.setenv("ENSEMBLE_PARENT", str(os.getpid()))
    assert launching.is_orphaned()


def test_every_process_is_told_its_place_and_threads(tmp_path):
    script = (
        "import os, pathlib, sys;"
        "line = ' '.join(os.environ[name] for name in sys.argv[2:]);"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(line)"
    )
    names = (*PLACE, "ENSEMBLE_PARENT")
    assert launching.launch(["-c", script, str(tmp_path), *names], 2, threads=3) == 0
    lines = [(tmp_path / rank).read_text() for rank in ("0", "1")]
    assert lines == [f"0 0 2 2 3 {os.getpid()}", f"1 1 2 2 3 {os.getpid()}"]


def test_one_that_fails_decides_the_code_and_stops_nobody(tmp_path):
    script = (
        "import os, pathlib, sys, time;"
        "os.environ['RANK'] == '0' and sys.exit(2);"
        "time.sleep(0.2);"
        "pathlib.Path(sys.argv[1], 'done').touch()"
    )
    assert launching.launch(["-c", script, str(tmp_path)], 2, threads=1) == 2
    assert (tmp_path / "done").exists()


def test_one_that_was_killed_is_named_and_code_1(capfd):
    script = "import os; os.environ['RANK'] == '1' and os.kill(os.getpid(), 9)"
    assert launching.launch(["-c", script], 2, threads=1) == 1
    assert "Process 1 was killed by signal 9" in capfd.readouterr().err


def test_one_that_was_killed_stops_its_team_and_no_other(tmp_path, capfd):
    script = (
        "import os, pathlib, sys, time;"
        "rank = os.environ['RANK'];"
        "rank == '3' and os.kill(os.getpid(), 9);"
        "time.sleep(60 if rank == '2' else 0.5);"
        "pathlib.Path(sys.argv[1], rank).touch()"
    )
    arguments = ["-c", script, str(tmp_path)]
    assert launching.launch(arguments, 4, threads=1, per_member=2) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    assert "Process 3 was killed by signal 9" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("codes", "joint"),
    [([0, 0], 0), ([75, 2], 2), ([75, -9], 1), ([75, 75], 75), ([0, 75], 75)],
)
def test_whoever_failed_decides_the_code_before_those_that_were_stopped(codes, joint):
    assert launching._combined_exit_code(codes) == joint


WAITING = """
import os, pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1], os.environ["RANK"])
def stop(*_):
    place.with_suffix(".stopped").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
place.with_suffix(".ready").touch()
time.sleep(60)
"""


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def harmless(request):
    """A signal that does nothing to the tests themselves if it comes early or late."""
    before = signal.signal(request.param, lambda *_: None)
    yield request.param
    signal.signal(request.param, before)


def test_a_request_to_stop_reaches_every_process_and_is_code_75(tmp_path, harmless):
    before = signal.getsignal(harmless)

    def ask():
        while len(list(tmp_path.glob("*.stopped"))) < 2:
            if len(list(tmp_path.glob("*.ready"))) == 2:
                os.kill(os.getpid(), harmless)
            time.sleep(0.05)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert launching.launch(["-c", WAITING, str(tmp_path)], 2, threads=1) == 75
    asking.join()
    assert signal.getsignal(harmless) is before


@pytest.mark.parametrize(
    ("precision", "asked"), [("no", "bf16"), ("fp16", "bf16"), ("bf16", "fp8")]
)
def test_a_launcher_that_asks_for_another_precision_is_refused(precision, asked):
    settings = TrainingConfig(mixed_precision=precision)
    expected = f"asks for {asked} .* training.mixed_precision is {precision}"
    with pytest.raises(BadInput, match=expected):
        launching.require_agreement(
            settings.mixed_precision, {launching.PRECISION: asked}
        )


@pytest.mark.parametrize("asked", ["no", "bf16", "BF16", ""])
def test_a_launcher_that_asks_for_the_same_precision_or_none_is_welcome(asked):
    settings = TrainingConfig(mixed_precision="bf16")
    launching.require_agreement(settings.mixed_precision, {launching.PRECISION: asked})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_USE_FSDP", "true"),
        ("ACCELERATE_USE_MEGATRON_LM", "1"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
    ],
)
def test_what_a_launcher_asks_for_is_never_ignored(name, value):
    with pytest.raises(BadInput, match=f"{name}={value}.*Unset {name}"):
        launching.require_agreement("no", {name: value})


def test_what_accelerate_launch_says_by_default_is_welcome():
    default = {
        name: nothing for name, (_, (nothing, *_)) in launching.REFUSED_SETTINGS.items()
    }
    launching.require_agreement("no", default)


def test_a_launched_process_may_not_launch(monkeypatch):
    monkeypatch.setenv("ENSEMBLE_PARENT", "1")
    with pytest.raises(
        RuntimeError, match="A process that was launched may not launch"
    ):
        launching.launch(["-c", ""], 2, threads=1)
