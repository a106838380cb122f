"""Comparison of all designs under the same requirements.

The requirements are the number of sources, how many of them must be removable at once
(whichever they are), how many members must remain then, and the greatest number of
members. For each design this module finds the number of members that it takes, draws a
code book and counts its properties. Every number says how it was found:

    bound    proven for every choice of sources
    all      counted over every choice of sources in the book
    sample   counted over random choices, or in a book for some of the sources
    law      computed for independent, uniformly random codes of the weight
"""

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int64

from splits.choosing import expectations
from splits.choosing.candidates import (
    CANDIDATES,
    Candidate,
    Options,
    fits,
    left_at_least,
)
from splits.codes import CodeBook
from splits.designs.registry import draw
from splits.errors import BadInput

# A code book is drawn for at most this many sources, and at most this many choices of
# removed sources are examined.
MAX_SOURCES_DRAWN = 2048
MAX_CHOICES = 20_000
# Choices for which all other sources are looked at.
_CHOICES_OF_LOSS = 200
_LARGEST_ENSEMBLE = 512
_SAMPLE_SEED = 0


@dataclass(frozen=True)
class Requirements:
    """What a design must provide.

    Attributes:
        n_sources: Number of sources, at least 2.
        remove: Number of sources that may be removed at once, whichever they are.
        keep: Number of members that must remain then.
        budget: Greatest number of members.

    Raises:
        BadInput: If no design can meet the requirements.
    """

    n_sources: int
    remove: int
    keep: int
    budget: int

    def __post_init__(self) -> None:
        if self.n_sources < 2:
            raise BadInput(
                f"Designs are compared for at least two sources, not {self.n_sources}. Ask "
                "for more with --sources."
            )
        for name in ("remove", "keep", "budget"):
            if getattr(self, name) < 1:
                raise BadInput(f"--{name} is {getattr(self, name)}; at least 1 is.")
        if self.remove >= self.n_sources:
            raise BadInput(
                f"--remove is {self.remove}: of {self.n_sources} sources at most "
                f"{self.n_sources - 1} can be removed. Ask for less."
            )


@dataclass(frozen=True)
class Found:
    """A number, and how it was found: `bound`, `all`, `sample` or `law`."""

    value: float
    how: str


@dataclass(frozen=True)
class Row:
    """The properties of one design under given requirements.

    Attributes:
        design: Its name.
        options: What to write in the config beside the design.
        needed: The least number of members that certainly meets the requirements; None
            if no number up to 512 does.
        n_members: Number of members of the other properties: the greatest one in the
            budget, or `needed` if that is larger.
        share: Mean share of the sources that a member trains on.
        share_min: The least.
        split_min: Sources in the smallest split.
        split_max: Sources in the greatest split.
        worst: Members left in the worst case.
        mean: Members left on average.
        nobody: Probability that the removal of random sources leaves no member.
        also_lost: Average number of other sources that are erased as well.
        collateral: Mean squared correlation of two sources' codes.
        welch: The least possible value of `collateral` (Welch bound).
        distinct: Whether all sources have distinct codes.
    """

    design: str
    options: Options
    needed: int | None
    n_members: int
    share: float
    share_min: float
    split_min: Found
    split_max: Found
    worst: Found
    mean: Found
    nobody: Found
    also_lost: Found
    collateral: Found
    welch: float
    distinct: bool

    @property
    def spread(self) -> float:
        """Members times share of the sources that they saw, times share unseen.

        The squared signal of a source beside the seed noise of its members.
        """
        return self.n_members * self.share * (1 - self.share)


def compare(requirements: Requirements, seed: int = 0) -> list[Row]:
    """A row for every design that has codes for this number of sources."""
    found = [_row(design, requirements, seed) for design in CANDIDATES]
    return [row for row in found if row is not None]


def recommend(rows: list[Row], requirements: Requirements) -> Row | None:
    """The recommended design; None if none meets the requirements within the budget.

    Among those that do, the criteria are, in this order: distinct codes; orthogonal
    codes; the greatest share of data for the smallest split, up to a half; the greatest
    spread; the least collateral.
    """
    kept = [row for row in rows if meets(row, requirements)]
    return max(
        kept,
        key=lambda row: (
            row.distinct,
            row.collateral.value < 1e-9,
            round(min(row.share_min, 0.5), 2),
            round(row.spread, 1),
            -row.collateral.value,
        ),
        default=None,
    )


def meets(row: Row, requirements: Requirements) -> bool:
    """Whether a design certainly meets the requirements within the budget."""
    certain = row.worst.how in ("bound", "all")
    return (
        certain
        and row.worst.value >= requirements.keep
        and row.n_members <= requirements.budget
    )


@dataclass(frozen=True, eq=False)
class _Trial:
    """A code book that was drawn for all or some of the sources, and removals in it.

    Attributes:
        codes: The code book.
        choices: The removed sources of each choice.
        seen: seen[c, m] is True if member m saw a removed source of choice c.
        whole: Whether the book holds all sources.
        complete: Whether `choices` are all choices of all sources.
    """

    codes: CodeBook
    choices: Int64[np.ndarray, "choices removed"]
    seen: Bool[np.ndarray, "choices members"]
    whole: bool
    complete: bool


def _row(design: str, requirements: Requirements, seed: int) -> Row | None:
    needed = _needed(design, requirements)
    n_members = _affordable(design, requirements, requirements.keep) or needed
    n_members = n_members or _affordable(design, requirements, 0)
    if n_members is None:
        return None
    candidate = CANDIDATES[design]
    options = candidate.asked(n_members, requirements.remove, requirements.keep)
    trial = _trial(design, requirements, n_members, options, seed)
    codes, how = trial.codes, "all" if trial.whole else "sample"
    least = left_at_least(design, n_members, requirements.remove, options)
    loads = codes.bits.sum(axis=0)
    split_min, split_max = _split_sizes(trial, requirements, candidate)
    return Row(
        design=design,
        options=options,
        needed=needed,
        n_members=n_members,
        share=float(loads.mean()) / codes.n_sources,
        share_min=float(loads.min()) / codes.n_sources,
        split_min=split_min,
        split_max=split_max,
        worst=_worst(trial, least),
        mean=Found(_mean_left(codes, requirements.remove), how),
        nobody=_nobody(trial, least, candidate, options),
        also_lost=_also_lost(trial, requirements, candidate, options),
        collateral=Found(expectations.mean_squared_correlation(codes), how),
        welch=expectations.welch(requirements.n_sources, n_members),
        distinct=candidate.distinct,
    )


def _needed(design: str, requirements: Requirements) -> int | None:
    """The least number of members that certainly meets the requirements."""
    sizes = range(1, _LARGEST_ENSEMBLE + 1)
    return next(
        (n for n in sizes if _serves(design, requirements, n, requirements.keep)), None
    )


def _affordable(design: str, requirements: Requirements, keep: int) -> int | None:
    """The greatest number of members in the budget that certainly leaves `keep`."""
    sizes = range(requirements.budget, 0, -1)
    return next((n for n in sizes if _serves(design, requirements, n, keep)), None)


def _serves(design: str, requirements: Requirements, n_members: int, keep: int) -> bool:
    options = CANDIDATES[design].asked(
        n_members, requirements.remove, requirements.keep
    )
    return (
        fits(design, requirements.n_sources, n_members, options)
        and left_at_least(design, n_members, requirements.remove, options) >= keep
    )


def _trial(
    design: str, requirements: Requirements, n_members: int, options: Options, seed: int
) -> _Trial:
    n_drawn = min(requirements.n_sources, MAX_SOURCES_DRAWN)
    codes = draw(
        design,
        n_drawn,
        n_members,
        options.get("weight"),
        seed,
        options.get("removable"),
        options.get("survivors"),
    )
    choices = _choices(n_drawn, requirements.remove)
    seen = np.zeros((len(choices), n_members), dtype=bool)
    for removed in choices.T:
        seen |= codes.bits[removed]
    complete = len(choices) == math.comb(requirements.n_sources, requirements.remove)
    return _Trial(codes, choices, seen, n_drawn == requirements.n_sources, complete)


@functools.lru_cache(maxsize=4)
def _choices(n_sources: int, removed: int) -> Int64[np.ndarray, "choices removed"]:
    """Every choice of sources, or many random ones where there are more."""
    if math.comb(n_sources, removed) <= MAX_CHOICES:
        return np.array(list(combinations(range(n_sources), removed)))
    rng = np.random.default_rng(_SAMPLE_SEED)
    drawn = [
        rng.choice(n_sources, removed, replace=False, shuffle=False)
        for _ in range(MAX_CHOICES)
    ]
    return np.stack(drawn)


def _split_sizes(
    trial: _Trial, requirements: Requirements, candidate: Candidate
) -> tuple[Found, Found]:
    """The smallest and the greatest split; what is expected, if codes are random."""
    loads = trial.codes.bits.sum(axis=0) * (
        requirements.n_sources / trial.codes.n_sources
    )
    if trial.whole or candidate.weight is None:
        how = "all" if trial.whole else "sample"
        return Found(float(loads.min()), how), Found(float(loads.max()), how)
    return Found(float(loads.mean()), "law"), Found(float(loads.mean()), "law")


def _worst(trial: _Trial, least: int) -> Found:
    if trial.complete:
        return Found(float((~trial.seen).sum(axis=1).min()), "all")
    return Found(float(least), "bound")


def _mean_left(codes: CodeBook, removed: int) -> float:
    """Members left on average over every choice of sources, from the splits alone.

    A member is left by those choices that miss its split: C(n - split, r) of C(n, r).
    """
    loads = codes.bits.sum(axis=0).tolist()
    missed = sum(math.comb(codes.n_sources - load, removed) for load in loads)
    return float(Fraction(missed, math.comb(codes.n_sources, removed)))


def _nobody(trial: _Trial, least: int, candidate: Candidate, options: Options) -> Found:
    if least:
        return Found(0.0, "bound")
    if candidate.weight is None or trial.complete:
        how = "all" if trial.complete else "sample"
        return Found(float(trial.seen.all(axis=1).mean()), how)
    n_members, removed = trial.codes.n_members, trial.choices.shape[1]
    weight = candidate.weight(n_members, **options)
    return Found(expectations.nobody_left(n_members, weight, removed), "law")


def _also_lost(
    trial: _Trial, requirements: Requirements, candidate: Candidate, options: Options
) -> Found:
    n_members = trial.codes.n_members
    if requirements.remove == 1 and candidate.distinct:
        # All weights are equal, so no code contains another.
        return Found(0.0, "bound")
    if candidate.weight is not None and not trial.whole:
        weight = candidate.weight(n_members, **options)
        law = expectations.expected_erased(
            requirements.n_sources, n_members, weight, requirements.remove
        )
        return Found(law, "law")
    step = -(-len(trial.choices) // _CHOICES_OF_LOSS)
    unseen = (~trial.seen[::step]).astype(np.float32)
    n_left = unseen @ trial.codes.bits.T.astype(np.float32)
    lost = float((n_left == 0).sum(axis=1).mean()) - requirements.remove
    others = trial.codes.n_sources - requirements.remove
    how = "all" if trial.complete and step == 1 else "sample"
    return Found(lost * (requirements.n_sources - requirements.remove) / others, how)
