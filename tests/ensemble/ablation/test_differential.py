"""What is approximated, what is recomputed, and that the cheaper of both is done."""

import dataclasses

import numpy as np
import pytest

from ensemble.ablation import approximations, audit, differential, removal_sets
from ensemble.ablation.approximations import Question
from ensemble.ablation.exact import pictures_without
from ensemble.ablation.first_order import (
    DESIGNED_ROADS,
    ONE_BY_ONE_ROADS,
    OneByOne,
    Road,
)
from ensemble.ablation.measurements import MEASUREMENTS
from splits.codes import CodeBook
from tests import tiny
from tests.ensemble.ablation.test_first_order import queries_of

READ = {name: MEASUREMENTS[name] for name in ("brightness", "denoising_loss")}
# What the first half of the audit says of the roads, in the order they are tried.
NOISE = 0.01


def units_of(n_units, n_members=8, weight=4, seed=0):
    """Sources of random codes, no two alike."""
    rng = np.random.default_rng(seed)
    rows = set()
    while len(rows) < n_units:
        rows.add(tuple((rng.permutation(n_members) < weight).tolist()))
    bits = np.array(sorted(rows))
    names = [str(one) for one in range(n_units)]
    return removal_sets.Units(bits, [[one] for one in range(n_units)], names, "sources")


@pytest.fixture(scope="module")
def pipe():
    return tiny.ensemble(8, codes=CodeBook(units_of(30).silenced))


def question_of(pipe, n_units=30, **changes):
    fields = {
        "pipe": pipe,
        "queries": changes.get("queries") or queries_of(pipe),
        "units": units_of(n_units),
        "measurements": READ,
        "n_top": 2,
        "accuracy": 0.96,
        "n_audit": 10,
        "seed": 0,
    }
    return Question(**{**fields, **changes})


def exact_displacement(question):
    """The naive twin: every unit ablated exactly."""
    every = question.units.silenced
    n_queries = len(question.queries.seeds)
    pictures = pictures_without(
        question.pipe,
        question.queries,
        np.repeat(np.arange(n_queries), len(every)),
        np.tile(every, (n_queries, 1)),
    ).reshape(n_queries, len(every), 1, 8, 8)
    full = question.queries.images[:, None]
    return np.sqrt(np.square(pictures - full).mean(axis=(2, 3, 4)))


def saying(monkeypatch, *values):
    """Let the first half of the audit say this of one road after the other."""
    said = iter(values)
    true = audit.agreement

    def agreement(guessed, exact, n_units):
        found = true(guessed, exact, n_units)
        value = next(said, None)
        if value is None:
            return found
        noise = np.random.default_rng(int(1e6 * value)).normal(
            size=found.left_out.shape
        )
        return dataclasses.replace(found, value=value, left_out=value + NOISE * noise)

    monkeypatch.setattr(audit, "agreement", agreement)


def test_rows_that_were_recomputed_are_exact_and_said_to_be(pipe):
    question = question_of(pipe)
    found = differential.ablate(question)
    truth = exact_displacement(question)
    assert found.exact.sum(axis=1).max() <= 12
    assert found.exact.sum(axis=1).min() >= 10
    np.testing.assert_allclose(
        found.displacement[found.exact], truth[found.exact], rtol=1e-4
    )
    assert np.abs(found.displacement / truth - 1)[~found.exact].max() > 1e-3
    assert not found.facts["all_exact"]
    # Readings of those rows are of the exact pictures, too.
    everything = differential.ablate(question_of(pipe, n_audit=30))
    np.testing.assert_allclose(
        found.influences["brightness"][found.exact],
        everything.influences["brightness"][found.exact],
        atol=1e-5,
    )
    assert list(found.influences) == ["brightness"]
    for query, top in enumerate(found.top_units):
        assert found.exact[query, top].all()
        assert np.all(np.diff(found.displacement[query, top]) <= 0)
        full = question.queries.images[query]
        distance = np.sqrt(np.square(found.top_images[query] - full).mean((1, 2, 3)))
        np.testing.assert_allclose(distance, truth[query, top], rtol=1e-4)


def test_units_and_placebos_are_compared_by_the_same_matrix(pipe, monkeypatch):
    saying(monkeypatch, 0.5, 0.99)
    question = question_of(pipe, n_units=30, n_audit=10)
    monkeypatch.setattr(approximations, "exact_generations", lambda _: 1000.0)
    found = differential.ablate(question)
    change = removal_sets.votes_without(question.units.silenced) - 1 / 8
    squared = np.einsum("um,qmn,un->qu", change, found.gram, change)
    np.testing.assert_allclose(found.compared, np.sqrt(squared), rtol=1e-8)
    assert found.facts["placebo_road"] in {road.name for road in DESIGNED_ROADS}


@pytest.mark.parametrize(
    ("said", "taken", "why"),
    [
        ([0.99], 0, "the cheapest that reaches rank correlation 0.96"),
        ([0.5, 0.97], 1, "the cheapest that reaches rank correlation 0.96"),
        (
            [0.94, 0.7, 0.6, 0.5, 0.4, 0.3],
            0,
            "the one that agrees best with exact ablation",
        ),
        (
            [0.5, 0.8, 0.6, 0.7, 0.4, 0.3],
            1,
            "the one that agrees best with exact ablation",
        ),
        (
            [0.5, 0.899, 0.6, 0.9, 0.4, 0.3],
            1,
            "the cheapest of those that agree best with exact ablation, as far as",
        ),
    ],
)
def test_the_road_that_agrees_best_is_taken(pipe, monkeypatch, said, taken, why):
    saying(monkeypatch, *said)
    question = question_of(pipe)
    monkeypatch.setattr(approximations, "exact_generations", lambda _: 1000.0)
    found = differential.ablate(question).facts
    tried = found["roads_tried"]
    assert [one["spearman"] for one in tried[: len(said)]] == said
    assert found["road"] == tried[taken]["road"]
    assert found["road_generations"] == tried[taken]["generations"]
    assert found["road_seconds"] == tried[taken]["seconds"]
    assert why in found["road_sentence"]
    assert ("none of those" in found["road_sentence"]) == (max(said) < 0.96)
    # Chosen by five of the ten audited units, judged by the other five.
    assert found["audit"]["n_audit"] == 5


def test_too_few_units_choose_no_road(pipe, monkeypatch):
    monkeypatch.setattr(approximations, "exact_is_cheaper", lambda *_: False)
    found = differential.ablate(question_of(pipe, n_audit=4)).facts
    assert [one["road"] for one in found["roads_tried"]] == ["designed"]
    assert "too few units to choose a road by" in found["road_sentence"]
    assert "spearman" not in found["roads_tried"][0]


def test_all_is_recomputed_where_that_costs_less(pipe):
    question = question_of(pipe, n_units=12)
    before = pipe.members.n_forwards
    found = differential.ablate(question)
    spent = (pipe.members.n_forwards - before) / question.generation
    assert found.exact.all()
    assert found.facts["all_exact"]
    np.testing.assert_allclose(
        found.displacement, exact_displacement(question), rtol=1e-4
    )
    # Twelve half-generations, nothing twice; and one road for the placebos.
    road = approximations.FOR_PLACEBOS
    assert [one["road"] for one in found.facts["roads_tried"]] == [road.name]
    assert spent <= 12 / 2 + road.generations(8)
    assert (
        "All sources were ablated exactly (6.0 generations)"
        in (found.facts["road_sentence"])
    )
    assert "nothing was left" in found.facts["audit"]["sentence"]


@pytest.mark.parametrize(
    ("n_units", "n_audit", "cheaper"),
    [(12, 10, True), (13, 10, True), (15, 10, True), (16, 10, False), (16, 12, True)],
)
def test_what_costs_less_is_known_before_anything_is_spent(n_units, n_audit, cheaper):
    asked = units_of(n_units)
    assert approximations.exact_generations(asked) == n_units / 2
    # The cheapest road takes 1.875, the audit and two top units half of each.
    assert (n_units / 2 <= 1.875 + (n_audit + 2) / 2) == cheaper
    assert approximations.exact_is_cheaper(asked, n_audit, 2) == cheaper


def test_the_demo_is_ablated_exactly():
    demo = units_of(16, n_members=32, weight=16)
    assert approximations.exact_generations(demo) == 8
    assert approximations.exact_is_cheaper(demo, n_audit=32, n_top=6)


def test_units_that_silence_the_same_members_are_ablated_once(pipe):
    alone = units_of(12)
    twice = dataclasses.replace(
        alone,
        silenced=alone.silenced.repeat(2, axis=0),
        sources=[[one] for one in range(24)],
        names=[str(one) for one in range(24)],
    )
    assert approximations.exact_generations(twice) == 6
    question = question_of(pipe, units=twice)
    before = pipe.members.n_forwards
    found = differential.ablate(question)
    spent = (pipe.members.n_forwards - before) / question.generation
    assert spent <= 6 + approximations.FOR_PLACEBOS.generations(8)
    assert np.array_equal(found.displacement[:, ::2], found.displacement[:, 1::2])


def test_roads_are_tried_from_cheap_to_dear_and_following_units_beats_planes():
    few = approximations.roads_within(units_of(20))
    assert [road for _, road in few] == [
        Road(),
        Road(paired=True),
        OneByOne(),
        OneByOne(2),
        OneByOne(4),
    ]
    assert [cost for cost, _ in few] == [1.875, 2.75, 3.5, 6, 11]
    many = [road for _, road in approximations.roads_within(units_of(70))]
    assert many == [*DESIGNED_ROADS, *ONE_BY_ONE_ROADS]


def test_roads_stop_before_exact_ablation_of_all_would_have_cost_less(
    pipe, monkeypatch
):
    saying(monkeypatch, *[0.5] * 8)
    question = question_of(pipe, n_units=30)
    assert approximations.exact_generations(question.units) == 15
    before = pipe.members.n_forwards
    found = differential.ablate(question)
    spent = (pipe.members.n_forwards - before) / question.generation
    # 6 for audit and top, 1.875 and 2.75 for two roads; the next takes 4.75.
    assert [one["road"] for one in found.facts["roads_tried"]] == [
        road.name for road in DESIGNED_ROADS[:2]
    ]
    assert spent <= 15


def test_one_by_one_reads_and_costs_the_same_in_blocks(pipe, monkeypatch):
    question = question_of(pipe)
    whole = approximations._one_by_one(question, OneByOne())
    assert whole.generations == pytest.approx(1 + 30 / 8)
    assert whole.gram is None
    monkeypatch.setattr(approximations, "STATES_OF_A_BLOCK", 1)
    parts = approximations._one_by_one(question, OneByOne())
    assert parts.generations == whole.generations
    np.testing.assert_allclose(parts.displacement, whole.displacement, rtol=1e-6)
    np.testing.assert_allclose(
        parts.influences["brightness"], whole.influences["brightness"], atol=1e-6
    )
    labelled = tiny.ensemble(8, n_classes=2, codes=CodeBook(units_of(30).silenced))
    told = question_of(labelled, queries=queries_of(labelled, labels=[0, 1]))
    by_parts = approximations._one_by_one(told, OneByOne())
    monkeypatch.undo()
    together = approximations._one_by_one(told, OneByOne())
    np.testing.assert_allclose(by_parts.displacement, together.displacement, rtol=1e-6)
