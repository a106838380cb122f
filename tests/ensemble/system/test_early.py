"""A script that is asked to stop while it imports ends as it does later: with 75."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.system import early

ROOT = Path(__file__).parents[3]


# Asks its own process to stop when a module is about to be imported.
HOOK = """
import os, sys
class Asks:
    def find_spec(name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Asks)
"""


@pytest.mark.parametrize(
    "script", ["train.py", "attribute.py", "ensemble.cli.write_shards"]
)
@pytest.mark.parametrize("name", ["ensemble.system.exits", "numpy", "yaml"])
@pytest.mark.parametrize("number", early.SIGNALS, ids=["int", "term"])
def test_whatever_a_script_is_importing_it_can_be_asked_to_stop(
    tmp_path, script, name, number
):
    hook = HOOK.format(name=name, number=int(number))
    (tmp_path / "sitecustomize.py").write_text(hook)
    where = [ROOT / script] if script.endswith(".py") else ["-m", script]
    done = subprocess.run(
        [sys.executable, *where, "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    expected = (75, "", f"{early.RESUME_MESSAGE}\n")
    assert (done.returncode, done.stdout, done.stderr) == expected


def test_the_frames_of_an_import_are_known(tmp_path, monkeypatch):
    (tmp_path / "looks_up.py").write_text(
        "import sys\nfrom ensemble.system import early\n"
        "found = early.is_importing(sys._getframe())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import looks_up  # type: ignore[import-not-found]

    assert looks_up.found
    assert not early.is_importing(None)


def test_what_installs_itself_first_imports_next_to_nothing():
    heavy = "torch", "numpy", "yaml", "diffusers", "ensemble.run.files"
    script = (
        "import sys\nfrom ensemble.system import early\nearly.install()\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (75, "[]\n")
    assert done.stderr == f"{early.RESUME_MESSAGE}\n"
    assert signal.SIGTERM in early.SIGNALS
