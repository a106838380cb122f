"""Locations: the run folder of a command, and the resolution of paths in its config.

A run folder can be copied and moved. A config that lies in a run folder means that
folder, whatever its `run` says. Relative paths, to data and to an extended run, are
tried from the working directory first, and then from the directory in which the run was
made, which its manifest names.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ensemble.run import files
from ensemble.run.config import Config, DataConfig
from ensemble.run.folder import Run
from ensemble.system import locks
from splits.errors import BadInput

# What an error message says about an option whose path does not exist.
_MISSING_TEXT = {"data.path": "nothing is there", "extends": "that is not a run folder"}


def of_config(path: str | Path, config: Config, overrides: Sequence[str]) -> Config:
    """Set `run` of a config that lies in a run folder to that folder.

    Args:
        path: The config file.
        config: Its content.
        overrides: Command-line overrides; if one of them sets `run`, it stays.
    """
    folder = Path(path).parent
    named = any(one.partition("=")[0] == "run" for one in overrides)
    if named or Path(path).name != "config.yaml" or not _is_run(folder):
        return config
    return dataclasses.replace(config, run=str(folder))


def of_run(run: Run) -> Config:
    """The run's config with existing paths for its data and the run that it extends.

    Raises:
        BadInput: If there is nothing at a path; it names every place that was tried.
    """
    return resolve(run.config, run.path)


def resolve(config: Config, folder: Path) -> Config:
    """A config with existing paths for its data and the run that it extends.

    Args:
        config: The config.
        folder: The run folder, which need not exist yet.

    Raises:
        BadInput: If there is nothing at a path; it names every place that was tried.
    """
    data, extends = config.data, config.extends
    if data.kind != "digits" and data.path and not _is_address(data.path):
        there = _first_existing("data.path", data.path, folder, _has_data(data))
        data = dataclasses.replace(data, path=there)
    if extends is not None:
        extends = _first_existing("extends", extends, folder, _has_config)
    return dataclasses.replace(config, data=data, extends=extends)


def _is_run(folder: Path) -> bool:
    """Whether `folder.create` made this folder, whose lock it creates first."""
    kept = folder / "config.yaml"
    return (folder / "manifest.json").exists() or locks.lock_file(kept).exists()


def _first_existing(
    option: str, path: str, folder: Path, is_there: Callable[[str], bool]
) -> str:
    """The first existing candidate for a path.

    Raises:
        BadInput: If none exists.
    """
    tried = list(dict.fromkeys(_candidates(path, folder)))
    for place in tried:
        if is_there(place):
            # The path stays relative if it is valid in the working directory.
            return path if place == tried[0] else place
    raise BadInput(
        f"{option} is {path!r}, and {_MISSING_TEXT[option]}: tried {' and '.join(tried)}. A "
        "relative path starts from the working directory, or from the one in which the "
        "run was made. Start the command from the folder that the path starts from, or "
        "put what is missing, or a link to it, there."
    )


def _is_address(path: str) -> bool:
    """Whether a path is a command, or the address of something on the network."""
    return path.startswith("pipe:") or "://" in path


def _candidates(path: str, folder: Path) -> Iterator[str]:
    """Absolute candidates for a path: from here, and from where the run was made."""
    yield _absolute(path, "")
    # A run that evaluation made lies inside another run and uses its data.
    for parent in (folder.absolute(), *folder.absolute().parents):
        manifest = parent / "manifest.json"
        if manifest.exists() and (parent / "config.yaml").exists():
            made_in = files.read_json(manifest).get("working_directory")
            if made_in is not None:
                yield _absolute(path, made_in)


def _absolute(path: str, start: str) -> str:
    """A path, or several separated by `::`, made absolute from a start folder."""
    parts = (os.path.abspath(os.path.join(start, one)) for one in path.split("::"))
    return "::".join(parts)


def _has_data(data: DataConfig) -> Callable[[str], bool]:
    return os.path.exists if data.kind == "folder" else _has_shards


def _has_shards(path: str) -> bool:
    """Whether the first of some shards exists; the reader complains of a bad range."""
    # WebDataset imports torch, which reading folders and planning can do without.
    from webdataset import shardlists

    try:
        first, *_ = shardlists.expand_urls(path)
    except (AssertionError, ValueError):
        return True
    return first.startswith("pipe:") or os.path.exists(first)


def _has_config(path: str) -> bool:
    return (Path(path) / "config.yaml").exists()
