"""Differential ablation: all units for the price of a few generations, and an audit.

Some units of each query are drawn at random and recomputed exactly. Half of them choose
the road by which the others are approximated, from cheap to dear; the other half say
how far the approximation can be trusted. Whatever was recomputed exactly stands in the
tables in the place of its approximation. Where recomputing everything costs less than
approximating and auditing, everything is recomputed.

Units and placebos are compared by what is read off the same matrix for both, never an
exact unit with an approximate placebo.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64

from ensemble.ablation import (
    audit,
    first_order,
)
from ensemble.ablation import (
    exact as ablation,
)
from ensemble.ablation.first_order import (
    OneByOne,
    Road,
)
from ensemble.ablation.measurements import Measurement
from ensemble.ablation.removal_sets import (
    Units,
    votes_in_blocks,
    votes_without,
)
from ensemble.sampling import queries as queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries

# Placebos are read off this road where no unit has to be.
FOR_PLACEBOS = Road(paired=True)
# States beside the queries that are stepped at once.
STATES_OF_A_BLOCK = 4096

ByUnit = Float64[np.ndarray, "queries units"]


@dataclass(frozen=True, eq=False)
class Question:
    """What is approximated.

    Attributes:
        pipe: The ensemble.
        queries: The pictures.
        units: What is removed.
        measurements: What is read off the pictures besides the displacement; those of
            the denoiser are passed over.
        n_top: Most displacing units of each query whose pictures are kept.
        accuracy: Rank correlation with exact displacement that a road must reach.
        n_audit: Units of each query drawn at random to be recomputed.
        seed: Draws design, followed members and audit.
    """

    pipe: EnsemblePipeline
    queries: Queries
    units: Units
    measurements: Mapping[str, Measurement]
    n_top: int
    accuracy: float
    n_audit: int
    seed: int

    @property
    def generation(self) -> int:
        """Member forwards that generating the queries takes."""
        return first_order.generation_forwards(self.pipe, len(self.queries.seeds))


@dataclass(frozen=True, eq=False)
class Answer:
    """What came out.

    Attributes:
        displacement: Of each query without each unit.
        exact: Which of them, and of the influences, were recomputed exactly.
        compared: The same read off `gram` for every unit, to compare with placebos that
            are read off it too.
        gram: G of each query.
        influences: Of the measurements of pictures.
        top_units: Units of each query with exact pictures, most displacing first.
        top_images: Those pictures.
        facts: How it was found, for the record.
    """

    displacement: ByUnit
    exact: Bool[np.ndarray, "queries units"]
    compared: ByUnit
    gram: Float64[np.ndarray, "queries members members"]
    influences: dict[str, ByUnit]
    top_units: Int64[np.ndarray, "queries top"]
    top_images: Float[np.ndarray, "queries top channels height width"]
    facts: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Approximation:
    """What a road finds.

    Attributes:
        road: Which.
        displacement: Of each query without each unit.
        influences: Of the measurements of pictures.
        gram: G of each query; None for a road without one.
        generations: Its work.
        seconds: How long it took.
    """

    road: Road | OneByOne
    displacement: ByUnit
    influences: dict[str, ByUnit]
    gram: Float64[np.ndarray, "queries members members"] | None
    generations: float
    seconds: float


class Recomputed:
    """The rows that were recomputed exactly, growing.

    Attributes:
        exact: Which units of each query were.
        displacement: Theirs; not a number where they were not.
        influences: The same of each measurement of pictures.
    """

    def __init__(self, question: Question) -> None:
        shape = len(question.queries.seeds), len(question.units.sources)
        self.question = question
        self.exact = np.zeros(shape, dtype=bool)
        self.displacement = np.full(shape, np.nan)
        self.influences = {
            name: np.full(shape, np.nan)
            for name, one in question.measurements.items()
            if one.reading is not None
        }
        self._pictures: dict[tuple[int, int], np.ndarray] = {}

    def add(self, chosen: Int64[np.ndarray, "queries chosen"]) -> None:
        """Recompute each query without each of its chosen units, if not done yet."""
        missing = ~np.take_along_axis(self.exact, chosen, axis=1)
        of_query, place = np.nonzero(missing)
        unit = chosen[of_query, place]
        if not len(unit):
            return
        asked = self.question
        found = ablation.pictures_without(
            asked.pipe, asked.queries, of_query, asked.units.silenced[unit]
        )
        full = asked.queries.images[of_query]
        self.exact[of_query, unit] = True
        self.displacement[of_query, unit] = queries.distance(found, full)
        for name, table in self.influences.items():
            table[of_query, unit] = _influence(asked.measurements[name], full, found)
        keys = zip(of_query.tolist(), unit.tolist(), strict=True)
        self._pictures.update(zip(keys, found, strict=True))

    def pictures(
        self, chosen: Int64[np.ndarray, "queries chosen"]
    ) -> Float[np.ndarray, "queries chosen channels height width"]:
        """The pictures of units that were recomputed."""
        rows = [
            [self._pictures[query, unit] for unit in row]
            for query, row in enumerate(chosen.tolist())
        ]
        shape = self.question.queries.images.shape[1:]
        return np.asarray(rows, np.float32).reshape(*chosen.shape, *shape)

    def in_place_of(self, table: ByUnit, exact: ByUnit) -> ByUnit:
        """A table of approximations with the exact values where there are some."""
        return np.where(self.exact, exact, table)


def ablate(question: Question) -> Answer:
    """Displacement and influence of every unit, as exactly as is cheaper than exact."""
    n_queries, n_units = len(question.queries.seeds), len(question.units.sources)
    everything = exact_is_cheaper(question.units, question.n_audit, question.n_top)
    audited = audit.drawn(
        n_units, n_queries, n_units if everything else question.n_audit, question.seed
    )
    done = Recomputed(question)
    done.add(audited)
    exact = np.take_along_axis(done.displacement, audited, axis=1)
    if everything:
        tried = [_designed(question, FOR_PLACEBOS)]
        agreed, judged = [], audited
        sentence = _why_exact(question)
    else:
        # The first half chooses the road, the second judges it.
        half = audited.shape[1] // 2
        tried, agreed = _tried(question, audited[:, :half], exact[:, :half])
        judged, exact = audited[:, half:], exact[:, half:]
        sentence = _why(question, tried, agreed)
    taken = tried[_best(agreed, question.accuracy)]
    matrix = tried[_best_designed(tried, agreed, question.accuracy)]
    assert matrix.gram is not None
    # The top is that of the tables as they stand now; its order is the exact one.
    done.add(
        _largest(
            done.in_place_of(taken.displacement, done.displacement), question.n_top
        )
    )
    displacement = done.in_place_of(taken.displacement, done.displacement)
    top = _largest(np.where(done.exact, displacement, -np.inf), question.n_top)
    return Answer(
        displacement=displacement,
        exact=done.exact,
        compared=first_order.displacement_without(matrix.gram, question.units.silenced),
        gram=matrix.gram,
        influences={
            name: done.in_place_of(taken.influences[name], values)
            for name, values in done.influences.items()
        },
        top_units=top,
        top_images=done.pictures(top),
        facts={
            "road": taken.road.name,
            "roads_tried": [
                _fact(one, reached)
                for one, reached in zip(tried, agreed or [None], strict=True)
            ],
            "road_sentence": sentence,
            "road_generations": taken.generations,
            "road_seconds": taken.seconds,
            "placebo_road": matrix.road.name,
            "all_exact": bool(done.exact.all()),
            "audit": audit.result(taken.displacement, exact, judged, done.exact),
        },
    )


def exact_is_cheaper(units: Units, n_audit: int, n_top: int) -> bool:
    """Whether ablating every unit exactly costs no more than the least of approximating.

    That is the cheapest road, the audited units and the top ones.
    """
    n_members = units.silenced.shape[1]
    every = exact_generations(units)
    recomputed = (n_audit + n_top) * _generations_of_one(units)
    return every <= Road().generations(n_members) + recomputed


def exact_generations(units: Units) -> float:
    """Member forwards of exact ablation of all units, in generations of the query."""
    silenced = _distinct(units)
    n_members = units.silenced.shape[1]
    return len(silenced) - int(np.bitwise_count(silenced).sum()) / n_members


def _distinct(units: Units) -> np.ndarray:
    return np.unique(np.packbits(units.silenced, axis=1), axis=0)


def _generations_of_one(units: Units) -> float:
    """What it takes to ablate one unit exactly, on average."""
    return 1 - float(units.silenced.mean())


def roads_within(units: Units) -> list[tuple[float, Road | OneByOne]]:
    """Roads and their generations, in the order in which they are tried.

    The first has a matrix that placebos can be read off. A designed road is left out
    where following each unit itself costs no more: that is closer to exact ablation.
    """
    n_members, n_distinct = units.silenced.shape[1], len(_distinct(units))
    first, *dearer = first_order.DESIGNED_ROADS
    own = [
        (r.generations(n_members, n_distinct), r) for r in first_order.ONE_BY_ONE_ROADS
    ]
    designed = [(r.generations(n_members), r) for r in dearer]
    others = [*own, *(one for one in designed if one[0] < own[0][0])]
    return [
        (first.generations(n_members), first),
        *sorted(others, key=lambda one: one[0]),
    ]


def _tried(
    question: Question,
    sampled: Int64[np.ndarray, "queries sampled"],
    exact: Float64[np.ndarray, "queries sampled"],
) -> tuple[list[Approximation], list[audit.Agreement]]:
    """Roads from cheap to dear until one orders the sampled units well enough.

    Where there are too few units to tell, the first road stands. Otherwise a road is
    tried only if all that is spent then, with audit and top units, stays below exact
    ablation of everything.
    """
    each = _generations_of_one(question.units)
    spent = (question.n_audit + question.n_top) * each
    most = exact_generations(question.units)
    tried: list[Approximation] = []
    agreed: list[audit.Agreement] = []
    for cost, road in roads_within(question.units):
        if tried and spent + cost > most:
            continue
        tried.append(_followed(question, road))
        spent += cost
        if sampled.shape[1] < audit.FEWEST:
            break
        guessed = np.take_along_axis(tried[-1].displacement, sampled, axis=1)
        n_units = len(question.units.sources)
        agreed.append(audit.agreement(guessed, exact, n_units))
        if agreed[-1].value >= question.accuracy:
            break
    return tried, agreed


def _best(agreed: list[audit.Agreement], accuracy: float) -> int:
    """The road that is taken: the first that is good enough, else the best.

    Of those that are as good as the best, as far as the audited units can tell, the
    cheapest.
    """
    if not agreed:
        return 0
    if agreed[-1].value >= accuracy:
        return len(agreed) - 1
    best = max(agreed, key=lambda one: one.value)
    return next(place for place, one in enumerate(agreed) if one.as_good_as(best))


def _best_designed(
    tried: list[Approximation], agreed: list[audit.Agreement], accuracy: float
) -> int:
    """The road among those with a matrix that placebos are read off."""
    places = [place for place, one in enumerate(tried) if one.gram is not None]
    return places[_best([agreed[place] for place in places if agreed], accuracy)]


def _followed(question: Question, road: Road | OneByOne) -> Approximation:
    if isinstance(road, Road):
        return _designed(question, road)
    return _one_by_one(question, road)


def _designed(question: Question, road: Road) -> Approximation:
    """Fit how the pictures move with the votes, and read every unit off that."""
    began = time.perf_counter()
    moves = first_order.designed(question.pipe, question.queries, road, question.seed)
    gram = moves.gram
    return Approximation(
        road=road,
        displacement=first_order.displacement_without(gram, question.units.silenced),
        influences=_of_first_order(question, moves),
        gram=gram,
        generations=round(moves.member_forwards / question.generation, 3),
        seconds=round(time.perf_counter() - began, 3),
    )


@torch.no_grad()
def _of_first_order(
    question: Question, moves: first_order.Sensitivity, block: int = 4096
) -> dict[str, ByUnit]:
    """Influence on measurements of pictures, read off the first-order pictures."""
    influences = {}
    for name, one in question.measurements.items():
        if one.reading is None:
            continue
        rows = []
        for full, jacobian in zip(question.queries.images, moves.jacobian, strict=True):
            parts = []
            for votes in votes_in_blocks(question.units.silenced, block):
                moved = ((votes - 1 / votes.shape[1]) @ jacobian.T).reshape(
                    -1, *full.shape
                )
                same = np.broadcast_to(full, moved.shape).astype(np.float64)
                parts.append(_influence(one, same, same + moved))
            rows.append(np.concatenate(parts))
        influences[name] = np.stack(rows)
    return influences


def _one_by_one(question: Question, road: OneByOne) -> Approximation:
    """Follow every unit itself; a few queries at a time, which cost no less together."""
    began, before = time.perf_counter(), question.pipe.members.n_forwards
    silenced, unit_of = np.unique(question.units.silenced, axis=0, return_inverse=True)
    unit_of = unit_of.reshape(-1)
    votes = votes_without(silenced)
    at_once = max(1, STATES_OF_A_BLOCK // (1 + len(votes)))
    displacement, influences = [], {}
    for some in _in_parts(question.queries, at_once):
        moved = first_order.one_by_one(question.pipe, some, votes, road, question.seed)
        displacement.append(np.sqrt(np.square(moved).mean(axis=(2, 3, 4))))
        for name, one in question.measurements.items():
            if one.reading is not None:
                full = np.repeat(some.images.astype(np.float64), len(votes), axis=0)
                values = _influence(one, full, full + moved.reshape(full.shape))
                influences.setdefault(name, []).append(values.reshape(moved.shape[:2]))
    forwards = question.pipe.members.n_forwards - before
    return Approximation(
        road=road,
        displacement=np.concatenate(displacement)[:, unit_of],
        influences={
            name: np.concatenate(parts)[:, unit_of]
            for name, parts in influences.items()
        },
        gram=None,
        generations=round(forwards / question.generation, 3),
        seconds=round(time.perf_counter() - began, 3),
    )


def _in_parts(asked: Queries, at_once: int) -> list[Queries]:
    """The queries, at most so many at once."""
    labels = asked.conditions
    return [
        replace(
            asked,
            seeds=asked.seeds[first : first + at_once],
            conditions=None if labels is None else labels[first : first + at_once],
            images=asked.images[first : first + at_once],
        )
        for first in range(0, len(asked.seeds), at_once)
    ]


@torch.no_grad()
def _influence(
    measurement: Measurement,
    full: Float[np.ndarray, "pictures channels height width"],
    ablated: Float[np.ndarray, "pictures channels height width"],
) -> Float64[np.ndarray, " pictures"]:
    """Measurement of the full picture (and itself) minus that of the ablated one."""
    reading = measurement.reading
    assert reading is not None
    before, after = torch.from_numpy(full), torch.from_numpy(ablated)
    return (reading(before, before) - reading(before, after)).double().numpy()


def _largest(displacement: ByUnit, n_top: int) -> Int64[np.ndarray, "queries top"]:
    """The most displacing units of each query, most displacing first."""
    return np.argsort(-displacement, axis=1, kind="stable")[:, :n_top].astype(np.int64)


def _fact(one: Approximation, reached: audit.Agreement | None) -> dict[str, Any]:
    """What is on record of a road that was tried."""
    fact: dict[str, Any] = {
        "road": one.road.name,
        "generations": one.generations,
        "seconds": one.seconds,
    }
    if reached is not None:
        fact["spearman"] = round(reached.value, 4)
    return fact


def _why_exact(question: Question) -> str:
    """Why everything was recomputed."""
    every = exact_generations(question.units)
    return (
        f"All {question.units.kind} were ablated exactly ({every:.1f} generations), "
        "which costs less than to approximate and to audit them. What placebos do is "
        f"read off a road ({FOR_PLACEBOS.name}), and {question.units.kind} are compared "
        "with them by what is read off it for both."
    )


def _why(
    question: Question, tried: list[Approximation], agreed: list[audit.Agreement]
) -> str:
    """Which road was taken, and why."""
    place = _best(agreed, question.accuracy)
    one = tried[place]
    taken = f"Road: {one.road.name} ({one.generations:.1f} generations)"
    if not agreed:
        return f"{taken}; there are too few units to choose a road by."
    reached = "; ".join(
        f"{other.road.name} {found.value:.3f}"
        for other, found in zip(tried, agreed, strict=True)
    )
    asked = f"rank correlation {question.accuracy}"
    if agreed[place].value >= question.accuracy:
        return f"{taken}, the cheapest that reaches {asked} ({reached})."
    best = max(found.value for found in agreed)
    outcome = "the one that agrees best with exact ablation"
    if agreed[place].value < best:
        outcome = (
            "the cheapest of those that agree best with exact ablation, as far as the "
            "audited units can tell"
        )
    return (
        f"{taken}, {outcome}; none of those that cost less than exact ablation reaches "
        f"{asked} ({reached})."
    )
