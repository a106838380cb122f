"""Arguments by which a pipeline is loaded, checked before a weight is read."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ensemble.models import safe_loading
from ensemble.sampling.arguments import all_whole, shown
from splits.entries import is_one, members_of
from splits.errors import BadInput

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Options of diffusers that change nothing here, and are taken for their sake.
_WITHOUT_EFFECT = ("local_files_only", "low_cpu_mem_usage")


def require_options(
    pipeline: type, kwargs: dict[str, Any], use_safetensors: bool | None
) -> None:
    """Refuse options of `from_pretrained` that would be passed over, or are unsafe.

    Args:
        pipeline: The class that is loaded; the arguments of its method are known.
        kwargs: Options that are not among them.
        use_safetensors: What was said of the weights' format.

    Raises:
        BadInput: If an option is unknown, or weights were to be read from other files.
    """
    known = inspect.signature(pipeline.from_pretrained).parameters
    options = {*known, *_WITHOUT_EFFECT} - {"kwargs", "pretrained_model_name_or_path"}
    safe_loading.require_known(kwargs, options)
    if use_safetensors is False:
        raise BadInput(
            "use_safetensors is False, but weights are read from safetensors only: other "
            "files can run code. Leave it out."
        )


def checked_members(members: Any) -> list[int] | None:
    """Numbers of the members to load, in the order given; None: all that may vote.

    Raises:
        BadInput: If it is anything but whole numbers, empty, or names one twice.
    """
    if members is None:
        return None
    found = [members] if is_one(members) else members_of(members)
    if found is None or not all_whole(found) or not found:
        raise BadInput(
            f"members is {shown(members)}; allowed: the number of a member, or a list of "
            "numbers, at least one. Leave it out to load all that may vote."
        )
    twice = sorted({one for one in found if found.count(one) > 1})
    if twice:
        raise BadInput(
            f"members names {twice[0]} more than once, and it would have more than one "
            "vote. Name each member once; `votes` says how much each counts."
        )
    return [int(one) for one in found]


def checked_dtype(
    dtype: Any = None, torch_dtype: Any = None, part: str = "members"
) -> torch.dtype | None:
    """The type of the weights, by its name in diffusers of today or of before.

    Args:
        dtype: A type of floats; or, as diffusers has it, a dictionary of one for each
            part, `default` for those that it does not name. None: float32.
        torch_dtype: The same, by its older name.
        part: The part that is asked about.

    Raises:
        BadInput: If it is no type of floats, or both are given and differ.
    """
    found = [_dtype_of(one, part) for one in (dtype, torch_dtype) if one is not None]
    if len(set(found)) > 1:
        raise BadInput(
            f"dtype is {found[0]} and torch_dtype is {found[1]}; both say of what type "
            "the weights are. Give only dtype."
        )
    return found[0] if found else None


def checked_variant(variant: Any) -> str | None:
    """The variant of the weights, a part of their file's name.

    Raises:
        BadInput: If it is no plain word.
    """
    if variant is None:
        return None
    if not isinstance(variant, str) or not variant.replace("_", "").isalnum():
        raise BadInput(
            f"variant is {shown(variant)}; allowed: letters, digits and `_`, as in fp16, "
            "for the files *.fp16.safetensors. Leave it out for the usual files."
        )
    return variant


def _dtype_of(given: Any, part: str) -> torch.dtype:
    if isinstance(given, Mapping):
        given = given.get(part, given.get("default", torch.float32))
    if not isinstance(given, torch.dtype) or given not in DTYPES:
        raise BadInput(
            f"dtype is {shown(given)}; a torch.dtype is wanted, one of "
            f"{', '.join(map(str, DTYPES))}. Give that, not its name as text."
        )
    return given
