"""The audit's bound holds as often as it says, and its numbers are what they say."""

import numpy as np
import pytest

from ensemble import audit


def test_the_bound_covers_the_largest_unit_at_least_as_often_as_promised():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        predicted = rng.uniform(0.5, 1, 200)
        exact = predicted * np.exp(rng.normal(0.1, 0.2, 200))
        bound = audit.upper_bound(predicted[32:], predicted[:32], exact[:32])
        covered += bound >= exact[32:].max()
    assert covered >= 0.95 * 400


def test_exact_predictions_are_bounded_by_themselves():
    predicted = np.linspace(0.1, 1, 10)
    assert audit.upper_bound(predicted[4:], predicted[:4], predicted[:4]) == (
        pytest.approx(1.0)
    )
    assert audit.upper_bound(predicted[:0], predicted, predicted) == 0


def test_audited_units_are_random_and_distinct():
    chosen = audit.drawn(10, 2, 4, seed=0)
    assert chosen.shape == (2, 4)
    assert all(len(set(row)) == 4 for row in chosen.tolist())
    assert not np.array_equal(chosen[0], chosen[1])
    assert not np.array_equal(chosen, audit.drawn(10, 2, 4, seed=1))
    assert audit.drawn(10, 2, 99, seed=0).shape == (2, 10)


def test_the_rank_correlation_is_the_median_over_queries():
    exact = np.arange(6.0) * np.ones((3, 1))
    guessed = np.stack([exact[0], exact[0] ** 2, -exact[0]])
    assert audit.rank_correlation(guessed, exact) == pytest.approx(1)
    assert audit.rank_correlation(guessed[1:], exact[1:]) == pytest.approx(0)


def test_the_result_says_what_came_out():
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0.5, 1, (2, 50))
    chosen = audit.drawn(50, 2, 20, seed=0)
    exact = np.take_along_axis(predicted, chosen, axis=1) * 1.1
    found = audit.result(predicted, exact, chosen, chosen)
    assert found["spearman"] == 1
    assert found["relative_error"] == pytest.approx(1 - 1 / 1.1, abs=1e-3)
    assert "20 more random units" in found["sentence"]
    others = np.setdiff1d(np.arange(50), chosen[0])
    assert found["bounds"][0] == pytest.approx(1.1 * predicted[0, others].max(), 1e-3)
    few = audit.result(predicted[:, :3], exact[:, :1], chosen[:, :1] % 3, chosen % 3)
    assert "too few units" in few["sentence"]
