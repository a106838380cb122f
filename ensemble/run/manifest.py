"""The manifest of a run: what it was made from, and its finished stages."""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ensemble.run import files, folder, records
from ensemble.run.folder import Run
from ensemble.system import environment, locks


def start_manifest(run: Run, facts: dict[str, Any]) -> None:
    """Write the manifest of a new run; if it exists, compare the facts with it.

    Args:
        run: The run folder.
        facts: Digests and counts that may never change, by name.

    Raises:
        BadInput: If the run was made from something else.
    """
    if run.manifest.exists():
        check_manifest(run, facts)
        return
    settings = run.config
    files.write_json(
        run.manifest,
        {
            "created": environment.now(),
            "versions": environment.versions(),
            "commit": environment.commit(),
            "machine": {
                "python": platform.python_version(),
                "processor": environment.processor(),
                "cores": os.cpu_count(),
                "system": platform.platform(),
            },
            "seeds": {
                "splits": settings.splits.seed,
                "training": settings.training.seed,
            },
            # Where relative paths in the config start from.
            "working_directory": str(Path.cwd()),
            "config_digest": files.sha256(run.path / "config.yaml"),
            **facts,
            "stages": {},
        },
    )


def check_manifest(run: Run, facts: dict[str, Any]) -> None:
    """Compare facts with the manifest.

    Raises:
        BadInput: If one differs, with its name, what was expected and what was found.
    """
    records.require_recorded(run.path, facts)


@contextlib.contextmanager
def stage(run: Run, name: str) -> Iterator[dict[str, Any]]:
    """Record a stage in the manifest when it is done, with seconds and peak memory.

    Yields:
        A dictionary for further facts about the stage.
    """
    began = time.perf_counter()
    environment.begin_peak_memory()
    facts: dict[str, Any] = {}
    yield facts
    with _stages(run) as stages:
        stages[name] = {
            "done": environment.now(),
            "seconds": round(time.perf_counter() - began, 3),
            "peak_memory_bytes": environment.recent_peak_memory_bytes(),
            "commit": environment.commit(),
            **facts,
        }


def note_stage(run: Run, name: str, **known: Any) -> None:
    """Record a finished stage whose process was killed before it could do so.

    Args:
        run: The run folder.
        name: The stage. If it is recorded already, nothing changes.
        known: Further facts about the stage.
    """
    if name in files.read_json(run.manifest)["stages"]:
        return
    with _stages(run) as stages:
        stages.setdefault(
            name, {"done": environment.now(), "commit": environment.commit(), **known}
        )


@contextlib.contextmanager
def _stages(run: Run) -> Iterator[dict[str, Any]]:
    """The stages in the manifest, which only one process can change at a time."""
    with locks.exclusive(run.manifest):
        manifest = files.read_json(run.manifest)
        yield manifest["stages"]
        files.write_json(run.manifest, manifest)


def is_complete(run: Run) -> bool:
    """Whether a run folder has all files of a pipeline, and training is recorded."""
    there = all((run.path / file).exists() for file in (*folder.PIPELINE, folder.CARD))
    return there and "train" in files.read_json(run.manifest)["stages"]
