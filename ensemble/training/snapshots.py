"""The trajectory of a member: its weights at some steps of its training, on request.

Methods that follow the training, such as TracIn, look at them. They are the weights that
were trained, never their average, in files of the member's own folder, sealed with it.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

from diffusers import UNet2DModel
from safetensors.torch import load_model, save_model
from torch import nn

from ensemble.models.denoisers import load_member
from ensemble.run.files import atomic_file, flush, read_json, sha256

PREFIX = "step-"


def keep(folder: Path, network: nn.Module, step: int) -> tuple[str, str]:
    """Write down the weights of a network after so many optimiser steps.

    Returns:
        The file's name and its sha256.
    """
    path = folder / f"{PREFIX}{step:08d}.safetensors"
    with atomic_file(path) as partial:
        save_model(network, str(partial))
        flush(partial)
    return path.name, sha256(path)


def kept(folder: Path, step: int) -> dict[str, str]:
    """The sha256 of what was written down until this step, by the files' names."""
    last = f"{PREFIX}{step:08d}.safetensors"
    return {name: sha256(folder / name) for name in _names(folder) if name <= last}


def is_whole(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether these files are there, with these digests."""
    return all(
        (folder / name).exists() and sha256(folder / name) == digest
        for name, digest in files.items()
    )


def drop_others(folder: Path, files: Mapping[str, str]) -> None:
    """Delete what was written down in a folder, but for these files."""
    for name in _names(folder):
        if name not in files:
            (folder / name).unlink(missing_ok=True)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{PREFIX}*.safetensors"))


def load(folder: Path) -> list[UNet2DModel]:
    """A finished member at every step that was kept, the finished one last.

    Raises:
        BadInput: If a file is missing or damaged.
    """
    finished = load_member(folder)
    files = read_json(folder / "member.json")["files"]
    found = []
    for file in sorted(file for file in files if file.startswith(PREFIX)):
        network = copy.deepcopy(finished)
        load_model(network, folder / file)
        found.append(network)
    return [*found, finished]
