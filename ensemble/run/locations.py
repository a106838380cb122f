"""Which folder a command acts on, and where the paths in its config lead.

A run folder can be copied and moved. A config that lies in a run folder means that
folder, whatever its `run` says. Relative paths, to data and to an extended run, start
from the working directory; if nothing is there, from the one in which the run was made,
which its manifest names.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ensemble.run import files
from ensemble.run.config import (
    Config,
    DataConfig,
)
from ensemble.run.folder import Run
from ensemble.system import locks
from splits.errors import BadInput

# What is said of an option whose path leads nowhere.
_GONE = {"data.path": "nothing is there", "extends": "that is not a run folder"}


def of_config(path: str | Path, config: Config, overrides: Sequence[str]) -> Config:
    """The config, with the run folder that it lies in, if it lies in one, as `run`.

    Args:
        path: The file that was given.
        config: What it says.
        overrides: Options that were given beside it; a `run` among them counts.
    """
    folder = Path(path).parent
    named = any(one.partition("=")[0] == "run" for one in overrides)
    if named or Path(path).name != "config.yaml" or not _is_run(folder):
        return config
    return dataclasses.replace(config, run=str(folder))


def of_run(run: Run) -> Config:
    """The run's config, with the paths at which its data and what it extends are found.

    Raises:
        BadInput: If nothing is there any more; names every place that was tried.
    """
    return found(run.config, run.path)


def found(config: Config, folder: Path) -> Config:
    """The config, with the paths at which its data and what it extends are found.

    Args:
        config: What it says.
        folder: The run folder, which need not exist yet.

    Raises:
        BadInput: If nothing is there; names every place that was tried.
    """
    data, extends = config.data, config.extends
    if data.kind != "digits" and data.path and not _is_address(data.path):
        there = _place("data.path", data.path, folder, _has_data(data))
        data = dataclasses.replace(data, path=there)
    if extends is not None:
        extends = _place("extends", extends, folder, _has_config)
    return dataclasses.replace(config, data=data, extends=extends)


def _is_run(folder: Path) -> bool:
    """Whether `store.create` made a folder; its lock is there from the first moment."""
    kept = folder / "config.yaml"
    return (folder / "manifest.json").exists() or locks.lock_file(kept).exists()


def _place(
    option: str, path: str, folder: Path, is_there: Callable[[str], bool]
) -> str:
    """The first place that a path may mean at which something is.

    Raises:
        BadInput: If there is nothing anywhere.
    """
    tried = list(dict.fromkeys(_places(path, folder)))
    for place in tried:
        if is_there(place):
            # As it was written, as long as it leads there from here.
            return path if place == tried[0] else place
    raise BadInput(
        f"{option} is {path!r}, and {_GONE[option]}: tried {' and '.join(tried)}. A "
        "relative path starts from the working directory, or from the one in which the "
        "run was made. Start the command from the folder that the path starts from, or "
        "put what is missing, or a link to it, there."
    )


def _is_address(path: str) -> bool:
    """Whether a path is a command, or the address of something on the network."""
    return path.startswith("pipe:") or "://" in path


def _places(path: str, folder: Path) -> Iterator[str]:
    """What a path may mean, absolute: from here, and from where the run was made."""
    yield _absolute(path, "")
    # A run that evaluation made lies in another one, and has its data.
    for parent in (folder.absolute(), *folder.absolute().parents):
        manifest = parent / "manifest.json"
        if manifest.exists() and (parent / "config.yaml").exists():
            made_in = files.read_json(manifest).get("working_directory")
            if made_in is not None:
                yield _absolute(path, made_in)


def _absolute(path: str, start: str) -> str:
    """A path, or several with `::` between them, from a folder; by default from here."""
    parts = (os.path.abspath(os.path.join(start, one)) for one in path.split("::"))
    return "::".join(parts)


def _has_data(data: DataConfig) -> Callable[[str], bool]:
    return os.path.exists if data.kind == "folder" else _has_shards


def _has_shards(path: str) -> bool:
    """Whether the first of some shards is there; a bad range is left to the reader."""
    # WebDataset imports torch, which reading folders and planning can do without.
    from webdataset import shardlists

    try:
        first, *_ = shardlists.expand_urls(path)
    except (AssertionError, ValueError):
        return True
    return first.startswith("pipe:") or os.path.exists(first)


def _has_config(path: str) -> bool:
    return (Path(path) / "config.yaml").exists()
