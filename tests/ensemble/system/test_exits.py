"""Scripts end with the right code and one clear line, soon after they are asked to."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from ensemble.system import exits
from splits.errors import BadInput

ROOT = Path(__file__).parents[3]


def raising(error):
    def main(_):
        raise error

    return main


@pytest.mark.parametrize("code", [0, 1, 75])
def test_main_decides_the_exit_code_and_gets_its_arguments(code, capsys):
    assert exits.run_guarded(lambda arguments: int(arguments[0]), [str(code)]) == code
    assert capsys.readouterr().err == ""


def test_what_a_terminal_has_no_letter_for_is_spelled_out(monkeypatch):
    """Names of files that are no Unicode, and any others where only ASCII is shown."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))
    assert exits.run_guarded(lambda _: print("é 003\udcff.png") or 0, []) == 0
    sys.stdout.flush()
    assert shown.getvalue() == b"\\xe9 003\\udcff.png\n"


def test_bad_input_is_one_message_and_code_2(capsys):
    assert exits.run_guarded(raising(BadInput("Use less.")), []) == 2
    assert capsys.readouterr() == ("", "error: Use less.\n")


@pytest.mark.parametrize("number", exits.DISK)
def test_a_disk_that_takes_nothing_is_named_and_code_2(number, capsys):
    error = OSError(number, os.strerror(number), "runs/a/codes.npy")
    assert exits.run_guarded(raising(error), []) == 2
    assert capsys.readouterr().err == (
        f"error: cannot read or write runs/a/codes.npy: {os.strerror(number)}. Make room "
        "or permit access, or choose another folder; what is done is kept.\n"
    )


def test_a_full_disk_needs_no_file_name(capsys):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert exits.run_guarded(raising(error), []) == 2
    assert "cannot read or write: No space left" in capsys.readouterr().err


def test_an_interruption_is_code_75_and_says_how_to_go_on(capsys):
    assert exits.run_guarded(raising(KeyboardInterrupt()), []) == 75
    assert "the same command goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [ValueError("a defect"), OSError(errno.EIO, "a defect"), OSError("a defect")],
    ids=["ValueError", "EIO", "without a number"],
)
def test_anything_else_keeps_its_traceback(error):
    with pytest.raises(type(error), match="a defect") as caught:
        exits.run_guarded(raising(error), [])
    assert caught.value is error


def ended(body, number=None):
    """Run a main in a process of its own, perhaps signalled; code, errors, seconds."""
    script = "import sys\nfrom ensemble.system import exits\ndef main(_):\n"
    script += "".join(f"    {line}\n" for line in body.splitlines())
    script += "sys.exit(exits.run_guarded(main, []))"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    began = time.monotonic()
    if number is not None:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.send_signal(number)
    _, errors = process.communicate(timeout=200)
    return process.returncode, errors, time.monotonic() - began


SLEEPING = "import time\nprint('ready', flush=True)\ntime.sleep(200)"
# Holds no lock of Python's, and no signal gets through to it.
COMPUTING = """exits.MOST_SECONDS = 0.5
import hashlib
print('ready', flush=True)
hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("body", [SLEEPING, COMPUTING], ids=["sleeping", "computing"])
def test_asked_to_stop_it_ends_within_ten_seconds_with_code_75(body, number):
    code, errors, seconds = ended(body, number)
    assert code == 75
    assert errors.endswith("Interrupted; the same command goes on from here.\n")
    assert seconds < 10


def test_what_safetensors_says_of_a_disk_is_bad_input(tmp_path):
    code, errors, _ = ended(
        "import resource, numpy, safetensors.numpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "table = {'a': numpy.zeros(1000)}\n"
        f"safetensors.numpy.save_file(table, '{tmp_path}/a')"
    )
    assert code == 2
    assert f"{os.strerror(errno.EFBIG)}. Make room" in errors


def test_what_safetensors_says_of_anything_else_keeps_its_traceback():
    with pytest.raises(SafetensorError, match="a defect"):
        exits.run_guarded(raising(SafetensorError("a defect")), [])


def test_handlers_are_as_they_were_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    exits.run_guarded(lambda _: 0, [])
    assert before == [
        signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    ]
    assert signal.set_wakeup_fd(-1) == -1


def test_a_message_never_steers_the_terminal(capsys):
    def main(_):
        raise BadInput("a\x1b[2Jb\nc")

    assert exits.run_guarded(main, []) == 2
    assert capsys.readouterr().err == "error: a\\x1b[2Jb\nc\n"


def test_what_numpy_says_of_a_full_disk_is_bad_input(capsys):
    """numpy's own error has no number; the device takes nothing, as a full disk does."""
    with (
        open("/dev/full", "wb", buffering=0) as file,
        pytest.raises(OSError, match="requested and .* written") as caught,
    ):
        np.zeros(10**5).tofile(file)
    assert caught.value.errno is None
    assert exits.run_guarded(raising(caught.value), []) == 2
    assert "No space left on device. Make room" in capsys.readouterr().err


def test_too_little_memory_is_one_line(capsys):
    assert exits.run_guarded(raising(MemoryError()), []) == 2
    assert "error: there is not enough memory. End" in capsys.readouterr().err


@pytest.mark.parametrize(
    "act",
    [
        lambda path: path.read_bytes(),
        lambda path: (path / "inside").write_bytes(b""),
        lambda path: path.mkdir(),
        lambda path: path.rmdir(),
        lambda path: (path.parent / "file").rename(path),
    ],
    ids=["read", "inside", "made", "not empty", "renamed"],
)
def test_a_folder_and_a_file_in_each_others_place_are_named(tmp_path, capsys, act):
    (tmp_path / "file").write_bytes(b"")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inside").mkdir()

    def main(_):
        act(folder)

    assert exits.run_guarded(main, []) == 2
    assert re.search(
        rf"read or write {folder}\S*: .*\. A folder stands", capsys.readouterr().err
    )


def read_some(body, n_lines, *, errors_too=False):
    """Run a main whose reader goes away after some lines; exit code and errors."""
    script = "import sys\nfrom ensemble.system import exits\ndef main(_):\n"
    script += "".join(f"    {line}\n" for line in body.splitlines())
    script += "sys.exit(exits.run_guarded(main, []))"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if errors_too else subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert process.stdout is not None
    for _ in range(n_lines):
        process.stdout.readline()
    process.stdout.close()
    errors = "" if process.stderr is None else process.stderr.read()
    return process.wait(timeout=200), errors


MANY = "for _ in range(10**5): print('a line')\nreturn 0"
LAST = "import time\nprint('a', flush=True)\ntime.sleep(1)\nprint('b')\nreturn 3"
WRONG = (
    "import time\nprint('a', flush=True)\ntime.sleep(1)\n"
    "from splits.errors import BadInput\nraise BadInput('Use less.')"
)


def test_a_reader_that_goes_away_is_no_error():
    assert read_some(MANY, 5) == (75, "")
    assert read_some(MANY, 5, errors_too=True) == (75, "")


def test_what_was_done_before_the_reader_went_keeps_its_code():
    assert read_some(LAST, 1) == (3, "")
    assert read_some(WRONG, 1, errors_too=True) == (2, "")


def test_a_pipe_that_is_not_the_output_is_a_defect():
    with pytest.raises(BrokenPipeError):
        exits.run_guarded(raising(BrokenPipeError(errno.EPIPE, "a defect")), [])


IMPORTING = """import importlib, pathlib, sys
sys.path.insert(0, {folder!r})
import slow_to_import"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_during_an_import_it_stops_without_an_exception(tmp_path, number):
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nprint('ready', flush=True)\n"
        "try:\n    time.sleep(200)\nfinally:\n    print('raised', flush=True)\n"
    )
    body = IMPORTING.format(folder=str(tmp_path))
    code, errors, seconds = ended(body, number)
    assert (code, errors) == (75, "Interrupted; the same command goes on from here.\n")
    assert seconds < 5
