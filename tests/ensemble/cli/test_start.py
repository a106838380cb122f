"""How commands are started as a module."""

import subprocess
import sys
from pathlib import Path

import pytest

from ensemble import cli

ROOT = Path(__file__).parents[3]


def started(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ensemble.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize("arguments", [(), ("tarin",), ("../x",)])
def test_what_is_no_command_is_refused_in_one_message(arguments):
    done = started(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {''.join(arguments)!r} is no command; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_can_be_started(command):
    done = started(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
