"""Safe loading of pipeline folders that anybody may have written.

A folder's JSON files name classes. This module never imports a class by such a name, nor
any code of the folder: the pipeline and its members are this project's own classes, and
a scheduler must be one that diffusers exports. This does not depend on the installed
version of diffusers.
"""

import difflib
import inspect
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin, UNet2DModel
from safetensors import safe_open
from safetensors.torch import load_file

from splits.errors import BadInput
from splits.unreadable import too_large, unreadable

INDEX = "model_index.json"
SCHEDULER = Path("scheduler") / "scheduler_config.json"
# The class of the members: as this version writes it, and as version 0.1 wrote it.
MEMBERS = (
    ["ensemble.models.ensemble_model", "EnsembleModel"],
    ["ensemble.model", "EnsembleModel"],
)
# A schedule of a thousand levels, written out, takes 20 KiB.
_MAX_BYTES = 2**20
# Schedulers make lists and arrays as long as the numbers of their configs say.
_MAX_COUNT = 1_000_000


@dataclass(frozen=True)
class Index:
    """What `model_index.json` says, checked.

    Attributes:
        scheduler: The name of the scheduler's class; None if the folder names one that
            diffusers does not export.
        scheduler_as_written: The library and class that the folder names, for messages.
        settings: `num_inference_steps` and `guidance_scale`, if they are there.
    """

    scheduler: str | None
    scheduler_as_written: str
    settings: dict[str, Any]


def read_index(folder: Path, pipelines: Collection[str]) -> Index:
    """What the folder's `model_index.json` says.

    Args:
        folder: The pipeline folder.
        pipelines: Names of the pipeline classes that it may be of.

    Raises:
        BadInput: If it cannot be read, is of another pipeline, or names parts or classes
            that this pipeline does not have.
    """
    path = folder / INDEX
    content = read_config(path)
    wanted = content.get("_class_name")
    if not isinstance(wanted, str) or wanted not in pipelines:
        raise BadInput(
            f"{path} is of the pipeline {_shown(wanted)}; allowed: "
            f"{' or '.join(sorted(pipelines))}. Code that a folder brings is never run: "
            "give a folder that this project wrote."
        )
    if content.get("members", MEMBERS[0]) not in MEMBERS:
        raise BadInput(
            f"{path} names {_shown(content['members'])} for its members; allowed: "
            f"{MEMBERS[0]}. No other class is loaded: give a folder that this project wrote."
        )
    settings = {"num_inference_steps", "guidance_scale"}
    for key in content:
        if key not in {"members", "scheduler", *settings} and not key.startswith("_"):
            raise BadInput(
                f"{path} has a part {_shown(key)}, which an encoded ensemble does not "
                "have; allowed: members, scheduler. Give a folder that this project "
                "wrote."
            )
    scheduler = content.get("scheduler")
    return Index(
        _scheduler_name(scheduler),
        _shown(scheduler),
        {key: content[key] for key in settings & content.keys()},
    )


def read_scheduler(folder: Path, index: Index) -> SchedulerMixin:
    """The scheduler of a pipeline folder: one of diffusers' own.

    Raises:
        BadInput: If the folder names anything else, or the config does not fit.
    """
    if index.scheduler is None:
        raise BadInput(
            f"{folder / INDEX} names the scheduler {index.scheduler_as_written}; allowed: "
            'a scheduler that diffusers exports, as ["diffusers", "DDIMScheduler"]. '
            "Load with scheduler=..., and give an object of your own."
        )
    path = folder / SCHEDULER
    config = read_config(path)
    named = config.get("_class_name", index.scheduler)
    if named != index.scheduler:
        raise BadInput(
            f"{path} is of {_shown(named)}, but {INDEX} names {index.scheduler}. Restore "
            "one of them, or load with scheduler=..."
        )
    kind = getattr(diffusers, index.scheduler)
    options = inspect.signature(kind.__init__).parameters
    # Some schedulers have infinite bounds by default.
    usual = {name: option.default for name, option in options.items()}
    chosen = {
        key: value
        for key, value in config.items()
        if key not in usual or value != usual[key]
    }
    _require_moderate(path, chosen)
    try:
        return kind.from_config(_without_private(config))
    except Exception as error:
        # Every scheduler has checks of its own, and raises what it likes.
        raise BadInput(
            f"{path} does not fit {index.scheduler}: {type(error).__name__}: {error}. "
            "Restore it, or load with scheduler=..."
        ) from None


def read_unet(folder: Path, weights: str, remedy: str) -> UNet2DModel:
    """A network of a folder, of weights in float32; nothing else of it is looked at.

    Args:
        folder: Holds `config.json` and the weights.
        weights: The name of the safetensors file.
        remedy: What to do if they cannot be loaded.

    Raises:
        BadInput: If a file is missing or cannot be read, is not of a UNet2DModel, or the
            two do not fit.
    """
    config, path = _unet_config(folder / "config.json"), folder / weights
    try:
        if not path.is_file():
            there = sorted(file.name for file in folder.glob("*.safetensors"))
            raise ValueError(
                f"{weights} is missing; weights that are there: "
                f"{', '.join(there) or 'none'}"
            )
        # Without memory of its own: a config may ask for any size, weights cannot.
        with torch.device("meta"):
            wanted = UNet2DModel(**config).state_dict()
        _require_shapes(path, {name: [*one.shape] for name, one in wanted.items()})
        network = UNet2DModel(**config)
        network.load_state_dict(load_file(path))
    except MemoryError:
        raise too_large(f"the member in {folder}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except Exception as error:
        # The config is anybody's: UNet2DModel raises what it stumbles over.
        raise BadInput(
            f"Cannot load the member in {folder}: {error}. {remedy}"
        ) from None
    return network


def read_config(path: Path) -> dict[str, Any]:
    """The object that a JSON file of diffusers holds.

    Raises:
        BadInput: If it is missing, larger than 1 MiB, or no JSON object.
    """
    if not path.is_file():
        raise BadInput(f"{path} is missing. Restore it from a copy.")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        found = json.loads(content.decode("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not an object")
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} cannot be read as a JSON object: {error}. Restore it from a copy."
        ) from None
    return found


def require_known(given: Collection[str], allowed: Collection[str]) -> None:
    """Refuse options of `from_pretrained` that this pipeline does not have.

    Raises:
        BadInput: If there is one.
    """
    for name in given:
        if name in allowed:
            continue
        near = difflib.get_close_matches(name, allowed, n=1)
        advice = f" Did you mean {near[0]!r}?" if near else ""
        if name == "device_map":
            advice = " Load it, and move it with pipe.to(device)."
        raise BadInput(
            f"from_pretrained has no option {name!r}; allowed: "
            f"{', '.join(sorted(allowed))}. Code from elsewhere, such as a "
            f"custom_pipeline, is never loaded.{advice}"
        )


def _scheduler_name(entry: Any) -> str | None:
    """The class that an entry of the index names, if diffusers exports it."""
    match entry:
        case ["diffusers", str(name)] if name.isidentifier() and _is_scheduler(name):
            return name
    return None


def _is_scheduler(name: str) -> bool:
    try:
        kind = getattr(diffusers, name, None)
    except Exception:  # one that needs a package which is not installed
        return False
    return (
        inspect.isclass(kind)
        and issubclass(kind, SchedulerMixin)
        and kind is not SchedulerMixin
        and kind.__module__.startswith("diffusers.schedulers.")
    )


def _unet_config(path: Path) -> dict[str, Any]:
    config = read_config(path)
    named = config.get("_class_name", "UNet2DModel")
    if named != "UNet2DModel":
        raise BadInput(
            f"{path} is of {_shown(named)}; allowed: UNet2DModel. Give a folder that this "
            "project wrote."
        )
    config = _without_private(config)
    unknown = sorted(config.keys() - inspect.signature(UNet2DModel).parameters.keys())
    if unknown:
        raise BadInput(
            f"{path} has {_shown(unknown[0])}, which UNet2DModel does not know. Remove "
            "it, or restore the file from a copy."
        )
    _require_moderate(path, config)
    return config


def _require_moderate(path: Path, config: dict[str, Any]) -> None:
    """Refuse numbers that would ask for any amount of memory, or are none."""
    for key, value in config.items():
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, int | float):
                continue
            if not math.isfinite(number) or abs(number) > _MAX_COUNT:
                raise BadInput(
                    f"{path} has {key}: {number!r}; allowed: finite numbers up to "
                    f"{_MAX_COUNT:,}. Correct it, or restore the file from a copy."
                )


def _require_shapes(path: Path, wanted: dict[str, list[int]]) -> None:
    """Compare what the weights are with what the config asks for, before it is made.

    Raises:
        ValueError: If they differ.
    """
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        found = {name: file.get_slice(name).get_shape() for name in names}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{path.name} has {name} of shape {found.get(name)}, config.json asks "
                f"for {wanted.get(name)}"
            )


def _without_private(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _shown(value: Any, n_letters: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= n_letters else f"{text[:n_letters]}..."
