"""Differential ablation: all units for the price of a few generations, and an audit.

Some units of each query are drawn at random and recomputed exactly. Half of them choose
the road by which the others are approximated, from cheap to dear; the other half say
how far the approximation can be trusted. Whatever was recomputed exactly stands in the
tables in the place of its approximation. Where recomputing everything costs less than
approximating and auditing, everything is recomputed.

Units and placebos are compared by what is read off the same matrix for both, never an
exact unit with an approximate placebo.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from ensemble.ablation import approximations, audit, first_order
from ensemble.ablation.approximations import Approximation, ByUnit, Question
from ensemble.ablation.exact import pictures_without
from ensemble.sampling import queries


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
        found = pictures_without(
            asked.pipe, asked.queries, of_query, asked.units.silenced[unit]
        )
        full = asked.queries.images[of_query]
        self.exact[of_query, unit] = True
        self.displacement[of_query, unit] = queries.distance(found, full)
        for name, table in self.influences.items():
            table[of_query, unit] = approximations.influence_on(
                asked.measurements[name], full, found
            )
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
    everything = approximations.exact_is_cheaper(
        question.units, question.n_audit, question.n_top
    )
    audited = audit.drawn(
        n_units, n_queries, n_units if everything else question.n_audit, question.seed
    )
    done = Recomputed(question)
    done.add(audited)
    exact = np.take_along_axis(done.displacement, audited, axis=1)
    if everything:
        tried = [approximations.designed(question, approximations.FOR_PLACEBOS)]
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
        largest(done.in_place_of(taken.displacement, done.displacement), question.n_top)
    )
    facts = {
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
    }
    return _answer(question, done, taken, matrix.gram, facts)


def _answer(
    question: Question,
    done: Recomputed,
    taken: Approximation,
    gram: Float64[np.ndarray, "queries members members"],
    facts: dict[str, Any],
) -> Answer:
    """The tables of the road that was taken, with exact rows where there are some."""
    displacement = done.in_place_of(taken.displacement, done.displacement)
    top = largest(np.where(done.exact, displacement, -np.inf), question.n_top)
    return Answer(
        displacement=displacement,
        exact=done.exact,
        compared=first_order.displacement_without(gram, question.units.silenced),
        gram=gram,
        influences={
            name: done.in_place_of(taken.influences[name], values)
            for name, values in done.influences.items()
        },
        top_units=top,
        top_images=done.pictures(top),
        facts=facts,
    )


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
    each = approximations.generations_of_one(question.units)
    spent = (question.n_audit + question.n_top) * each
    most = approximations.exact_generations(question.units)
    tried: list[Approximation] = []
    agreed: list[audit.Agreement] = []
    for cost, road in approximations.roads_within(question.units):
        if tried and spent + cost > most:
            continue
        tried.append(approximations.followed(question, road))
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


def largest(
    displacement: Float[np.ndarray, "queries units"], n_top: int
) -> Int64[np.ndarray, "queries top"]:
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
    every = approximations.exact_generations(question.units)
    return (
        f"All {question.units.kind} were ablated exactly ({every:.1f} generations), "
        "which costs less than to approximate and to audit them. What placebos do is "
        f"read off a road ({approximations.FOR_PLACEBOS.name}), and {question.units.kind} are compared "
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
