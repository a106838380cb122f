"""Units: what is removed at once, a source or a set of sources."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from ensemble.provenance.plans import Plan
from ensemble.run import files
from splits import spelling
from splits.codes import CodeBook
from splits.errors import BadInput
from splits.naming import SourceNames

OWNERS = "owners"


@dataclass(frozen=True, eq=False)
class Units:
    """What is removed at once, row by row.

    Attributes:
        silenced: Members that saw some of the unit's sources, and fall silent.
        sources: The sources of each unit.
        names: What each unit is called.
        kind: `sources` if every unit is one source, in order; else `groups`.
    """

    silenced: Bool[np.ndarray, "units members"]
    sources: list[list[int]]
    names: list[str]
    kind: str

    @property
    def weights(self) -> Int[np.ndarray, " units"]:
        """Members that each unit silences."""
        return self.silenced.sum(axis=1)

    def digest(self) -> str:
        """The sha256 of who falls silent, and of what the units are and are called."""
        said = json.dumps([self.kind, self.names, self.sources])
        silenced = files.array_digest(self.silenced)
        return hashlib.sha256(f"{silenced} {said}".encode()).hexdigest()


def each_source(plan: Plan) -> Units:
    """Every source is a unit of its own.

    Raises:
        BadInput: If every member saw some source, so that it cannot be ablated.
    """
    silenced = plan.codes.bits
    for source in np.flatnonzero(silenced.all(axis=1)).tolist():
        raise _none_left(plan, plan.called.these([source]), [source])
    sources = [[source] for source in range(plan.codes.n_sources)]
    return Units(silenced, sources, plan.source_names, "sources")


def one_set(plan: Plan, sources: Sequence[int | str]) -> Units:
    """One unit: all of these sources together, given by their numbers or names.

    Raises:
        BadInput: If a source does not exist, or no member survives.
    """
    chosen = plan.called.chosen(sources, "sources")
    if not chosen:
        raise BadInput("There are no sources to remove together. Name at least one.")
    return _units(plan, [chosen], [plan.called.these(chosen)], "groups")


def by_column(plan: Plan, column: str) -> Units:
    """One unit for each value of a metadata column: all sources with that value.

    Where images have several owners, `owners` is one unit for each of them: all sources
    that he has a part in.

    Raises:
        BadInput: If there is no such column, or no member survives some unit.
    """
    if column == OWNERS and plan.owners:
        names = [f"owner {name}" for name in plan.owners]
        return _units(plan, [*plan.owners.values()], names, "groups")
    if column not in plan.data.columns:
        known = ", ".join(plan.data.columns) or "none"
        raise BadInput(f"The data has no column {column!r}; known: {known}.")
    values = np.asarray(plan.data.columns[column])
    there = ~np.isin(plan.source_of, plan.removed)
    names = sorted(set(values[there].tolist()))
    sources = [
        np.unique(plan.source_of[there & (values == name)]).tolist() for name in names
    ]
    return _units(plan, sources, [f"{column} {name}" for name in names], "groups")


def _units(plan: Plan, sources: list[list[int]], names: list[str], kind: str) -> Units:
    silenced = np.stack([plan.codes.bits[chosen].any(axis=0) for chosen in sources])
    for name, chosen, row in zip(names, sources, silenced, strict=True):
        if row.all():
            raise _none_left(plan, name, chosen)
    return Units(silenced, sources, names, kind)


def _none_left(plan: Plan, name: str, chosen: list[int]) -> BadInput:
    return BadInput(
        f"Without {name} none of the {plan.codes.n_members} members is left to "
        f"vote: {_who_saw(plan, chosen)}. {_would_have_left(plan.codes, chosen)}"
    )


def _who_saw(plan: Plan, chosen: list[int], n_shown: int = 8) -> str:
    """A source that each member saw, for the first members."""
    codes = plan.codes
    seen = [
        f"member {member} saw {plan.called.these([chosen[saw.argmax()]])}"
        for member, saw in enumerate(codes.bits[chosen].T[:n_shown])
    ]
    return ", ".join(seen) + (", ..." if codes.n_members > n_shown else "")


def _would_have_left(codes: CodeBook, chosen: list[int]) -> str:
    """Designs in which so many sources leave members, whichever sources they are."""
    n_members, n_together = codes.n_members, len(chosen)
    if n_together >= n_members:
        return (
            f"Remove less at once; {n_together} sources together need more than "
            f"{n_together} members, or a design in which they are one source "
            "(data.source)."
        )
    return (
        f"Remove less at once, or train with a design that keeps some without any "
        f"{n_together} sources: splits.design=partition keeps {n_members - n_together} "
        f"of {n_members} members, splits.design=sparse "
        f"splits.removable={n_together} at least 1."
    )


def votes_without(
    silenced: Bool[np.ndarray, "rows members"],
) -> Float64[np.ndarray, "rows members"]:
    """Equal votes of the members that each row leaves; every row must leave some."""
    survives = ~silenced
    return survives / survives.sum(axis=1, keepdims=True)


def votes_in_blocks(
    silenced: Bool[np.ndarray, "rows members"], block: int = 2**16
) -> Iterator[Float64[np.ndarray, "some members"]]:
    """The same so many rows at a time: votes take 64 times the room of bits."""
    for first in range(0, len(silenced), block):
        yield votes_without(silenced[first : first + block])


def survivors(units: Units) -> list[str]:
    """What will be left, before the work starts, one line for each unit of a few."""
    left = (~units.silenced).sum(axis=1)
    alike = [
        f"{one!a} and {other!a} look like one name; each is removed alone."
        for one, other in spelling.same(units.names)
    ]
    if len(left) > 20:
        return [
            f"{len(left)} {units.kind}, one by one; {left.min()} to {left.max()} of "
            f"{units.silenced.shape[1]} members stay.",
            *alike,
        ]
    return [
        *(
            f"without {name}: {stay} of {units.silenced.shape[1]} members stay"
            for name, stay in zip(_titles(units), left, strict=True)
        ),
        *alike,
    ]


def _titles(units: Units) -> list[str]:
    if units.kind == "groups":
        return units.names
    called = SourceNames(len(units.names), units.names)
    return [called.these([source]) for source in range(len(units.names))]
