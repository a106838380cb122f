"""Checkpoints: all that training changes, in one file that knows its own digest."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ensemble.run import files
from splits.unreadable import unreadable


def write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a checkpoint whole.

    Args:
        path: Where.
        tensors: By name, on the CPU.
        facts: Whatever else there is to keep, as JSON can hold it.
    """
    text = json.dumps(facts)
    metadata = {"facts": text, "digest": _digest(tensors, text)}
    with files.atomic_file(path) as partial:
        save_file(tensors, partial, metadata)
        files.flush(partial)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of a checkpoint; None if it is damaged.

    Raises:
        BadInput: If the system does not let us read it: it may be whole, and whoever
            began anew would write over it.
    """
    try:
        # safetensors does not say why it could not open a file.
        path.open("rb").close()
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["digest"] != _digest(tensors, metadata["facts"]):
            return None
        return tensors, json.loads(metadata["facts"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(files.array_digest(tensors[name].numpy()).encode())
    return digest.hexdigest()
