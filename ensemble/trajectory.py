"""The trajectory of a member: its weights at some steps of its training, on request.

Methods that follow the training, such as TracIn, look at them. They are the weights that
were trained, never their average, in files of the member's own folder, sealed with it.

Before: store.py, model.py (a member's network). After: training.py (writes them),
scoring.py (reads them).
"""

import copy
from pathlib import Path

from diffusers import UNet2DModel
from safetensors.torch import load_model, save_model
from torch import nn

from ensemble import store
from ensemble.model import load_member

PREFIX = "step-"


def keep(folder: Path, network: nn.Module, step: int) -> None:
    """Write down the weights of a network after so many optimiser steps."""
    with store.replacing(folder / f"{PREFIX}{step:08d}.safetensors") as partial:
        save_model(network, str(partial))
        store.flush(partial)


def load(folder: Path) -> list[UNet2DModel]:
    """A finished member at every step that was kept, the finished one last.

    Raises:
        BadInput: If a file is missing or damaged.
    """
    finished = load_member(folder)
    files = store.read_json(folder / "member.json")["files"]
    found = []
    for file in sorted(file for file in files if file.startswith(PREFIX)):
        network = copy.deepcopy(finished)
        load_model(network, folder / file)
        found.append(network)
    return [*found, finished]
