"""Spelling: names that look equal to people, but differ for computers.

Only the owner of the data knows whether 'Eve' and 'Eve ' are one artist. They would
become two sources, and removing one would leave the pictures of the other.
"""

import unicodedata
from collections.abc import Callable, Iterable

from splits.errors import BadInput


def plain(name: str) -> str:
    """A name without invisible differences: single blanks, Unicode form NFC.

    Examples:
        >>> plain(" Eve ")
        'Eve'
    """
    return " ".join(unicodedata.normalize("NFC", name).split())


def same(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in blanks or Unicode form only, in their order.

    Examples:
        >>> same(["Eve", "Adam", " Eve"])
        [(' Eve', 'Eve')]
    """
    return _pairs(names, plain)


def similar(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs that differ in capitals or in compatible characters, and are not `same`.

    Examples:
        >>> similar(["Eve", "Adam", "EVE"])
        [('EVE', 'Eve')]
    """
    return [
        (one, other)
        for one, other in _pairs(names, _folded)
        if plain(one) != plain(other)
    ]


def require_one(names: Iterable[str], column: str) -> None:
    """Refuse names of which two are one name, spelled in two ways.

    Args:
        names: The values of the column.
        column: What the message calls them.

    Raises:
        BadInput: If two of them differ in blanks or Unicode form only.
    """
    found = same(names)
    if found:
        one, other = found[0]
        raise BadInput(
            f"Column {column!r} spells one name in two ways, {one!a} and {other!a} "
            f"({len(found)} such pairs), which would become two sources: removing one "
            "would leave the other. Spell each name in one way."
        )


def _folded(name: str) -> str:
    return plain(unicodedata.normalize("NFKC", name).casefold())


def _pairs(names: Iterable[str], key: Callable[[str], str]) -> list[tuple[str, str]]:
    first: dict[str, str] = {}
    found = []
    for name in sorted({str(name) for name in names}):
        known = first.setdefault(key(name), name)
        if known != name:
            found.append((known, name))
    return found
