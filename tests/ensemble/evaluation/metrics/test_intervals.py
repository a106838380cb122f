"""Intervals in closed form, and that they cover."""

import numpy as np
import pytest

from ensemble.evaluation.metrics.intervals import bootstrap, described, over_batches


def test_percentiles_enclose_a_value():
    samples = np.arange(1001) / 1000
    found = described(0.5, samples)
    assert found == {
        "value": 0.5,
        "low": pytest.approx(0.025),
        "high": pytest.approx(0.975),
    }


def test_what_is_not_finite_is_none():
    found = described(np.nan, np.array([np.nan, np.nan]))
    assert found == {"value": None, "low": None, "high": None}
    some = described(np.inf, np.array([1.0, np.nan, 3.0]))
    assert some["value"] is None
    assert some["low"] == pytest.approx(1.05)


def test_batches_have_students_interval():
    found = over_batches(np.array([1.0, 3.0]))
    # t with one degree of freedom: 12.706; standard error of two values: 1.
    assert found["value"] == 2.0
    assert found["high"] == pytest.approx(2 + 12.706, abs=1e-3)
    assert over_batches(np.array([4.0])) == {"value": 4.0, "low": None, "high": None}


def test_the_bootstrap_of_a_mean_covers_it():
    """Nominally 95 %; 100 repetitions stay above 86 % with probability 0.999."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        values = rng.standard_normal(30)
        found = bootstrap(lambda at, v=values: float(v[at].mean()), 30, rng, 200)
        covered += found["low"] <= 0 <= found["high"]
    assert covered >= 86
