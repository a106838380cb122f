"""Conditional p-values: whether another source explains why one stands out.

A source that moves a picture takes others along: those whose codes share many of its
members, or few. So a source that stands out from placebos is compared once more, beside
every other source that may matter itself: with codes that overlap with the other one's
code as its own does (splits/designs/placebos.py). Its p-value is the largest of all. Were the
other source the only one that matters, the members that the other's code does not tell
apart would be exchangeable, and so would be the source's code and the matched ones. If
several others stand out, it is also asked what is left of the source's displacement once
all that these may add to the picture, together, has been taken out.

Displacements under matched codes are read off the Gram matrix of how each picture moves
with the votes (first_order.py), for the source and the matched codes alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from ensemble.ablation.placebo import THRESHOLD
from ensemble.ablation.removal_sets import Units, votes_in_blocks
from ensemble.system import seeding
from splits.codes import CodeBook
from splits.designs import placebos

# Whoever has at least this p-value does not explain why somebody else stands out.
MAY_MATTER = 0.5
# At most so many others are asked about one unit, the most displacing first.
MOST_OTHERS = 64
_DRAWS_A_UNIT, _FEWEST_DRAWS = 100, 2000
# Displacements that are equal but for rounding are ties.
_TIE = 1 - 1e-9


@dataclass(frozen=True)
class Doubt:
    """Somebody who stands out from placebos, but not beside another one.

    Attributes:
        query: The picture.
        unit: Who stands out from placebos.
        others: Beside whom he does not: entries of `Others.names`, one or several.
        p_alone: His p-value against placebos.
        p_beside: His p-value beside them.
        inseparable: Whether no displacement could have told the two apart.
    """

    query: int
    unit: int
    others: tuple[int, ...]
    p_alone: float
    p_beside: float
    inseparable: bool


@dataclass(frozen=True, eq=False)
class Others:
    """Who might matter in a unit's place.

    Attributes:
        silenced: Members that each one silences: first the units, then, if units are
            groups, every single source.
        sources: The sources of each one.
        names: What each one is called.
        n_units: How many are units.
    """

    silenced: Bool[np.ndarray, "others members"]
    sources: list[list[int]]
    names: list[str]
    n_units: int

    @property
    def n_tested(self) -> int:
        """Units that some member saw."""
        return int(self.silenced[: self.n_units].any(axis=1).sum())

    def beside(self, unit: int) -> Int[np.ndarray, " others"]:
        """Those that share no source with a unit, and that some member saw."""
        own = set(self.sources[unit])
        apart = [own.isdisjoint(sources) for sources in self.sources]
        return np.flatnonzero(np.array(apart) & self.silenced.any(axis=1))


def others(units: Units, codes: CodeBook, names: Sequence[str]) -> Others:
    """Who might matter in place of some unit: other units, and single sources."""
    if units.kind == "sources":
        called = [f"source {one}" for one in range(len(units.sources))]
        return Others(units.silenced, units.sources, called, len(called))
    singles = [[source] for source in range(codes.n_sources)]
    called = [f"source {source} ({names[source]})" for (source,) in singles]
    return Others(
        np.concatenate([units.silenced, codes.bits]),
        [*units.sources, *singles],
        [*units.names, *called],
        len(units.sources),
    )


def p_beside(
    gram: Float64[np.ndarray, "members members"],
    code: Bool[np.ndarray, " members"],
    other: Bool[np.ndarray, " members"],
    n_units: int,
    rng: np.random.Generator,
) -> float:
    """How often some matched code displaces as much as a unit's, corrected.

    The share of the matched codes, the unit's own among them, that displace at least as
    much, times the number of units; at most one.
    """
    n_draws = max(_FEWEST_DRAWS, _DRAWS_A_UNIT * n_units)
    codes, _ = placebos.draw_matched(code, other, n_draws, rng)
    own = squared(gram, code[None])[0]
    share = float((squared(gram, codes) >= own * _TIE).mean())
    return min(1.0, n_units * share)


def p_jointly(
    gram: Float64[np.ndarray, "members members"],
    code: Bool[np.ndarray, " members"],
    others: Bool[np.ndarray, "others members"],
    n_units: int,
    rng: np.random.Generator,
) -> float:
    """How often a random direction moves a picture as far as what is a unit's own.

    From the change of votes that a unit makes, everything that changes of the others'
    votes can explain is projected out: what is left does not depend on what the others
    add to members. If members differ beyond that by independent normal noise alone, the
    rest is a random direction of its space (a rotation test; Langsrud 2005,
    https://doi.org/10.1007/s11222-005-4789-5). Times the number of units; one if
    nothing is left.
    """
    n_members = len(code)
    explained = np.concatenate([np.ones((1, n_members)), others.astype(np.float64)])
    _, scales, directions = np.linalg.svd(explained)
    own_space = directions[(scales > 1e-9 * scales[0]).sum() :]
    change = np.concatenate([*votes_in_blocks(code[None])])[0] - 1 / n_members
    rest = own_space @ change
    length = float(rest @ rest)
    if length <= 1e-9 * float(change @ change):
        return 1.0
    form = own_space @ gram @ own_space.T
    own = float(rest @ form @ rest) / length
    # All that is left of pictures that the others explain is rounding.
    if own <= 1e-9 * float(np.trace(gram)):
        return 1.0
    n_draws = max(_FEWEST_DRAWS, _DRAWS_A_UNIT * n_units)
    drawn = rng.standard_normal((n_draws - 1, len(own_space)))
    moved = ((drawn @ form) * drawn).sum(axis=1) / (drawn**2).sum(axis=1)
    share = (1 + (moved >= own * _TIE).sum()) / n_draws
    return min(1.0, n_units * float(share))


def p_values(
    alone: Float64[np.ndarray, "queries units"],
    gram: Float64[np.ndarray, "queries members members"],
    among: Others,
    seed: int,
) -> tuple[Float64[np.ndarray, "queries units"], list[Doubt]]:
    """The p-values of all units: against placebos, and beside who else may matter.

    Args:
        alone: P-values against placebos. Those above the threshold stay as they are.
        gram: How each picture moves with the votes; displacement² is dᵀGd.
        among: Who might matter in a unit's place.
        seed: Draws matched codes.

    Returns:
        The p-values, and everybody who stands out in `alone` but not in them.
    """
    found, doubts = alone.copy(), []
    n_units = among.n_tested
    for query, row in enumerate(alone):
        units = np.flatnonzero(row <= THRESHOLD).tolist()
        if not units:
            continue
        # Of all who might matter: units as in the table, single sources beside them.
        may_matter = np.concatenate([row, _standing(gram[query], among, seed)])
        for unit in units:
            p_of = _beside_each(gram[query], among, unit, may_matter, (seed, query))
            beside = max(p_of, key=lambda others: p_of[others], default=())
            p = p_of.get(beside, 0.0)
            found[query, unit] = max(row[unit], p)
            if p > THRESHOLD:
                alike = len(beside) == 1 and n_units > THRESHOLD * placebos.n_matched(
                    among.silenced[unit], among.silenced[beside[0]]
                )
                doubts.append(Doubt(query, unit, beside, float(row[unit]), p, alike))
    return found, doubts


def _beside_each(
    gram: Float64[np.ndarray, "members members"],
    among: Others,
    unit: int,
    may_matter: Float64[np.ndarray, " others"],
    key: tuple[int, int],
) -> dict[tuple[int, ...], float]:
    """A unit's p-value beside every suspect, and beside all that stand out at once."""
    seed, query = key
    code, found = among.silenced[unit], {}
    suspects = _suspects(may_matter, among, unit)
    for other in suspects:
        rng = seeding.rng(seed, "matched", query, unit, other)
        beside = among.silenced[other]
        found[other,] = p_beside(gram, code, beside, among.n_tested, rng)
    standing = [other for other in suspects if may_matter[other] <= THRESHOLD]
    if len(standing) > 1:
        rng = seeding.rng(seed, "jointly", query, unit)
        beside = among.silenced[standing]
        found[tuple(standing)] = p_jointly(gram, code, beside, among.n_tested, rng)
    return found


def _suspects(
    may_matter: Float64[np.ndarray, " others"], among: Others, unit: int
) -> list[int]:
    """Who may matter in a unit's place, the most suspicious first."""
    there = among.beside(unit)
    there = there[may_matter[there] < MAY_MATTER]
    order = np.argsort(may_matter[there], kind="stable")
    return there[order][:MOST_OTHERS].tolist()


def _standing(
    gram: Float64[np.ndarray, "members members"], among: Others, seed: int
) -> Float64[np.ndarray, " singles"]:
    """P-values of single sources against random codes of their weight."""
    codes = among.silenced[among.n_units :]
    found = np.ones(len(codes))
    weights = codes.sum(axis=1)
    own = squared(gram, codes) * _TIE
    for weight in np.unique(weights[weights > 0]).tolist():
        rng = seeding.rng(seed, "standing", weight)
        code = np.arange(codes.shape[1]) < weight
        n_draws = max(_FEWEST_DRAWS, 20 * len(codes))
        drawn, _ = placebos.draw_matched(code, np.zeros_like(code), n_draws, rng)
        level = np.sort(squared(gram, drawn))
        these = weights == weight
        above = len(level) - np.searchsorted(level, own[these])
        found[these] = np.minimum(1, len(codes) * (1 + above) / (1 + len(level)))
    return found


def squared(
    gram: Float64[np.ndarray, "members members"],
    silenced: Bool[np.ndarray, "codes members"],
) -> Float64[np.ndarray, " codes"]:
    """Squared displacement of a picture by each code, to first order."""
    parts = []
    for votes in votes_in_blocks(silenced):
        change = votes - 1 / votes.shape[1]
        parts.append(((change @ gram) * change).sum(axis=1))
    # Rounding may leave less than nothing of what no source moves.
    return np.maximum(np.concatenate([np.zeros(0), *parts]), 0)


def facts(doubts: Sequence[Doubt], among: Others) -> dict[str, Any]:
    """What p-values promise, and who is in doubt; plain numbers and text for JSON."""
    return {
        "p_sentence": _promise(among.n_units),
        "doubts": [
            {
                "query": doubt.query,
                "unit": doubt.unit,
                "others": [among.names[other] for other in doubt.others],
                "p_alone": doubt.p_alone,
                "p_beside": doubt.p_beside,
                "inseparable": doubt.inseparable,
                "sentence": _in_words(doubt, among),
            }
            for doubt in doubts
        ],
    }


def _promise(n_units: int) -> str:
    tested = f"the {n_units:,} that were tested" if n_units > 1 else "the one tested"
    return (
        f"p <= {THRESHOLD} promises that, in one picture, the chance of naming anybody "
        f"among {tested} who does not matter is at most {100 * THRESHOLD:.0f} % if no "
        "source matters, or one that has p < "
        f"{MAY_MATTER} against placebos. If several matter, this holds where effects add "
        "up and members differ beyond them by normal noise (docs/ablation.md)."
    )


def _in_words(doubt: Doubt, among: Others) -> str:
    unit = among.names[doubt.unit]
    other = ", ".join(among.names[other] for other in doubt.others)
    if len(doubt.others) > 1:
        return (
            f"Query {doubt.query}: {unit} displaces the picture more than placebos do, "
            f"but what {other} may add to it together explains that, so it is not named."
        )
    if doubt.inseparable:
        return (
            f"Query {doubt.query}: one of {unit} and {other} displaces the picture more "
            "than placebos do, but their codes cannot be told apart, so neither is "
            "named."
        )
    return (
        f"Query {doubt.query}: {unit} displaces the picture more than placebos do, but "
        f"not more than codes that overlap with {other} as its own code does, so it is "
        "not named."
    )
