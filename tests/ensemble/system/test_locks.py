"""A lock keeps others out for as long as its holder lives, and says who that is."""

import contextlib
import errno
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest

from ensemble.system import locks
from splits.errors import BadInput

ROOT = Path(__file__).parents[3]
HOLDING = """
import sys, pathlib
from ensemble.system import locks
with locks.exclusive(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held(path):
    """A process that holds the lock, until it is killed or the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_only_one_at_a_time_and_the_other_is_told_who(tmp_path):
    path = tmp_path / "made"
    with held(path) as process:
        with locks.try_exclusive(path) as free:
            assert not free
        assert locks.holder(path) == (
            f"process {process.pid} on {platform.node()} (lock {tmp_path / '.made.lock'})"
        )
    with locks.try_exclusive(path) as free:
        assert free


def test_a_lock_ends_with_a_holder_that_was_killed(tmp_path):
    path = tmp_path / "made"
    with held(path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with locks.try_exclusive(path) as free:
            assert free


def test_who_waits_says_for_whom_and_goes_on_afterwards(tmp_path, capsys):
    path = tmp_path / "made"
    with held(path) as process:
        later = threading.Timer(2.5, process.kill)
        later.start()
        with locks.exclusive(path):
            assert not later.is_alive()
    said = capsys.readouterr().err
    assert said.startswith(f"Waiting for {path}: process {process.pid} on ")


def test_a_lock_that_nobody_signed_is_another_process(tmp_path):
    assert locks.holder(tmp_path / "made").startswith("another process (lock ")


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with (
        pytest.raises(BadInput, match="refuses locks .No locks available"),
        locks.exclusive(tmp_path / "made"),
    ):
        pass
