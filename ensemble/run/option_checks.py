"""Checks of single options; each error says which values are allowed."""

import difflib
from typing import Any

from splits.errors import BadInput

MOST_CLASSES = 100_000


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse a value that is not allowed, and suggest the most similar allowed one.

    Raises:
        BadInput: If the value is not among `allowed`.

    Examples:
        >>> one_of("sampling.scheduler", "ddim", ("ddim", "ddpm"))
    """
    if value not in allowed:
        near = difflib.get_close_matches(
            str(value), [str(item) for item in allowed], n=1
        )
        advice = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join("null" if item is None else str(item) for item in allowed)
        raise BadInput(f"{name} is {value!r}; allowed: {known}.{advice}")


def at_least(name: str, value: int | float | None, least: int | float) -> None:
    """Refuse a value below a minimum; null passes.

    Raises:
        BadInput: If the value is below `least`.
    """
    if value is not None and not value >= least:
        raise BadInput(f"{name} is {value}; it must be at least {least}.")


def above(name: str, value: int | float, bound: int | float) -> None:
    """Refuse a value that is not greater than a bound.

    Raises:
        BadInput: If the value is `bound` or less.
    """
    if not value > bound:
        raise BadInput(f"{name} is {value}; it must be greater than {bound}.")


def within(name: str, value: float | None, low: float, high: float) -> None:
    """Refuse a value outside of [low, high); null passes.

    Raises:
        BadInput: If the value is outside.
    """
    if value is not None and not low <= value < high:
        raise BadInput(f"{name} is {value}; allowed: {low} up to, not with, {high}.")


def require_classes(classes: list[str] | int | None) -> None:
    """Refuse classes that are too few, too many, nameless or named twice.

    Raises:
        BadInput: If the classes are refused; null passes.
    """
    if classes is None:
        return
    if isinstance(classes, int):
        at_least("data.classes", classes, 2)
        if classes > MOST_CLASSES:
            raise BadInput(
                f"data.classes is {classes}; it must be at most {MOST_CLASSES}. Every "
                "class takes room in every member."
            )
        return
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if len(classes) < 2 or twice or "" in classes:
        what = f"names {twice[0]!r} twice" if twice else f"is {classes}"
        raise BadInput(
            f"data.classes {what}: at least two classes are wanted, each with a name of "
            "its own. Mend the list, or set it to null."
        )
