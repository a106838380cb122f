"""Approximations of ablation: each follows a road, and costs so many generations.

A road either fits how the pictures move with the votes and reads every unit off that,
or follows every unit itself. `ensemble.ablation.differential` chooses among them.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64

from ensemble.ablation import first_order
from ensemble.ablation.first_order import OneByOne, Road
from ensemble.ablation.measurements import Measurement
from ensemble.ablation.removal_sets import Units, votes_in_blocks, votes_without
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


def exact_is_cheaper(units: Units, n_audit: int, n_top: int) -> bool:
    """Whether ablating every unit exactly costs no more than the least of approximating.

    That is the cheapest road, the audited units and the top ones.
    """
    n_members = units.silenced.shape[1]
    every = exact_generations(units)
    recomputed = (n_audit + n_top) * generations_of_one(units)
    return every <= Road().generations(n_members) + recomputed


def exact_generations(units: Units) -> float:
    """Member forwards of exact ablation of all units, in generations of the query."""
    silenced = _distinct(units)
    n_members = units.silenced.shape[1]
    return len(silenced) - int(np.bitwise_count(silenced).sum()) / n_members


def _distinct(units: Units) -> np.ndarray:
    return np.unique(np.packbits(units.silenced, axis=1), axis=0)


def generations_of_one(units: Units) -> float:
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


def followed(question: Question, road: Road | OneByOne) -> Approximation:
    """What a road of either kind finds."""
    if isinstance(road, Road):
        return designed(question, road)
    return _one_by_one(question, road)


def designed(question: Question, road: Road) -> Approximation:
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
                parts.append(influence_on(one, same, same + moved))
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
                values = influence_on(one, full, full + moved.reshape(full.shape))
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
def influence_on(
    measurement: Measurement,
    full: Float[np.ndarray, "pictures channels height width"],
    ablated: Float[np.ndarray, "pictures channels height width"],
) -> Float64[np.ndarray, " pictures"]:
    """Measurement of the full picture (and itself) minus that of the ablated one."""
    reading = measurement.reading
    assert reading is not None
    before, after = torch.from_numpy(full), torch.from_numpy(ablated)
    return (reading(before, before) - reading(before, after)).double().numpy()
