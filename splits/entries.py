"""Entries: one number or text, or a collection of these, as Python's callers give them."""

from typing import Any

import numpy as np

from splits.errors import BadInput


def entries(asked: Any, option: str) -> list[int | str]:
    """What is asked for as a list of numbers and texts.

    Args:
        asked: A number, a text, or a list, tuple, set, range, array or tensor of these.
        option: What messages call it.

    Raises:
        BadInput: If it is anything else.
    """
    found = [asked] if is_one(asked) else members_of(asked)
    if found is None or not all(is_one(one) for one in found):
        raise BadInput(
            f"{option} is {_shown(asked)}; allowed: the number or the name of a source, or "
            "a list or set of these. Give whole numbers or texts."
        )
    return [one if isinstance(one, str) else int(one) for one in found]


def is_one(asked: Any) -> bool:
    """Whether it is one number or one text; True, 3.0 and arrays are not."""
    if isinstance(asked, bool):
        return False
    return isinstance(asked, int | np.integer | str)


def members_of(asked: Any) -> list | None:
    """The entries of a collection, plain numbers for numpy's; None if it is none."""
    if hasattr(asked, "tolist"):  # an array or a tensor
        found = asked.tolist()
        return found if isinstance(found, list) else None
    if isinstance(asked, list | tuple | range):
        return list(asked)
    if isinstance(asked, set | frozenset):
        return sorted(asked, key=str)
    return None


def _shown(asked: Any, n_letters: int = 80) -> str:
    text = repr(asked)
    return text if len(text) <= n_letters else f"{text[:n_letters]}..."
