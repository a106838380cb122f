"""Units: what is removed at once, a source or a set of sources.

Before: plan.py (sources and codes). After: placebo.py, influence.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from ensemble.plan import Plan
from splits.codes import CodeBook
from splits.errors import BadInput


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


def each_source(plan: Plan) -> Units:
    """Every source is a unit of its own.

    Raises:
        BadInput: If every member saw some source, so that it cannot be ablated.
    """
    sources = [[source] for source in range(plan.codes.n_sources)]
    return _units(plan.codes, sources, plan.source_names, "sources")


def one_set(plan: Plan, sources: Sequence[int]) -> Units:
    """One unit: all of these sources together.

    Raises:
        BadInput: If a source does not exist, or no member survives.
    """
    unknown = [one for one in sources if not 0 <= one < plan.codes.n_sources]
    if unknown:
        raise BadInput(
            f"Source {unknown[0]} does not exist: this run has sources 0 to "
            f"{plan.codes.n_sources - 1}."
        )
    name = "sources " + ", ".join(str(source) for source in sources)
    return _units(plan.codes, [sorted(set(sources))], [name], "groups")


def by_column(plan: Plan, column: str) -> Units:
    """One unit for each value of a metadata column: all sources with that value.

    Raises:
        BadInput: If there is no such column, or no member survives some unit.
    """
    if column not in plan.data.columns:
        known = ", ".join(plan.data.columns) or "none"
        raise BadInput(f"The data has no column {column!r}; known: {known}.")
    values = np.asarray(plan.data.columns[column])
    names = sorted(set(values.tolist()))
    sources = [np.unique(plan.source_of[values == name]).tolist() for name in names]
    return _units(plan.codes, sources, [f"{column} {name}" for name in names], "groups")


def _units(
    codes: CodeBook, sources: list[list[int]], names: list[str], kind: str
) -> Units:
    silenced = np.stack([codes.bits[chosen].any(axis=0) for chosen in sources])
    for name, row in zip(names, silenced, strict=True):
        if row.all():
            raise BadInput(
                f"Without {name} none of the {codes.n_members} members is left to "
                "vote: each has seen some of it. Remove less at once, or train with "
                "more members that each see less (splits.weight, or one source for "
                "each value of the column)."
            )
    return Units(silenced, sources, names, kind)


def votes_without(
    silenced: Bool[np.ndarray, "rows members"],
) -> Float64[np.ndarray, "rows members"]:
    """Equal votes of the members that each row leaves; every row must leave some."""
    survives = ~silenced
    return survives / survives.sum(axis=1, keepdims=True)


def survivors(units: Units) -> list[str]:
    """What will be left, before the work starts, one line for each unit of a few."""
    left = (~units.silenced).sum(axis=1)
    if len(left) > 20:
        return [
            f"{len(left)} {units.kind}, one by one; {left.min()} to {left.max()} of "
            f"{units.silenced.shape[1]} members stay."
        ]
    return [
        f"without {name}: {stay} of {units.silenced.shape[1]} members stay"
        for name, stay in zip(units.names, left, strict=True)
    ]
