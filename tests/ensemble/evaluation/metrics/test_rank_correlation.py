"""Rank correlations against scipy, and what luck leaves of them in closed form."""

import numpy as np
import pytest
import scipy.stats

from ensemble.evaluation.metrics import rank_correlation as correlation
from ensemble.evaluation.metrics.rank_correlation import (
    as_they_are,
    ceiling,
    exact_retraining,
    mean_reliability,
    rank_correlation,
    reliability,
    resampled,
    resamples,
)


def pearson_to_spearman(correlation):
    """For normal numbers (Pearson 1907)."""
    return 6 / np.pi * np.arcsin(correlation / 2)


def seeds_of(rho, n_seeds, n_queries, n_subsets, rng):
    """Expected losses, and several seeds' losses with a given reliability."""
    signal = rng.standard_normal((n_queries, n_subsets))
    noise = rng.standard_normal((n_seeds, n_queries, n_subsets))
    return signal, np.sqrt(rho) * signal + np.sqrt(1 - rho) * noise


@pytest.mark.parametrize("levels", [3, 10_000])
def test_the_correlation_is_spearmans_with_and_without_ties(levels):
    rng = np.random.default_rng(0)
    one, other = rng.integers(levels, size=(2, 5, 12)).astype(float)
    found = rank_correlation(one, other)
    for query in range(5):
        expected = scipy.stats.spearmanr(one[query], other[query]).statistic
        assert found[query] == pytest.approx(expected, abs=1e-12)


def test_a_perfect_predictor_reaches_one_and_its_opposite_minus_one():
    truth = np.random.default_rng(0).random((4, 9))
    assert rank_correlation(np.exp(truth), truth) == pytest.approx(np.ones(4))
    assert rank_correlation(-truth, truth) == pytest.approx(-np.ones(4))


def test_what_is_the_same_for_all_subsets_has_correlation_zero():
    truth = np.random.default_rng(0).random((2, 9))
    assert np.array_equal(rank_correlation(np.ones((2, 9)), truth), np.zeros(2))


def test_a_resample_is_the_correlation_of_repeated_subsets(monkeypatch):
    monkeypatch.setattr(correlation, "AT_ONCE", 100)
    rng = np.random.default_rng(1)
    one, other = rng.integers(5, size=(2, 3, 10)).astype(float)
    drawn = resamples(10, 3, 7, rng)
    found = resampled(one, other, drawn)
    for number in range(7):
        chosen = np.repeat(np.arange(10), drawn.subsets[number])
        each = rank_correlation(one[:, chosen], other[:, chosen])
        expected = each @ drawn.queries[number] / 3
        assert found[number] == pytest.approx(expected, abs=1e-12)


def test_resamples_draw_as_many_as_there_are():
    drawn = resamples(10, 3, 50, np.random.default_rng(0))
    assert (drawn.subsets.sum(axis=1) == 10).all()
    assert (drawn.queries.sum(axis=1) == 3).all()
    once = as_they_are(10, 3)
    assert (once.subsets == 1).all()
    assert (once.queries == 1).all()


@pytest.mark.parametrize(("rho", "n_seeds"), [(0.5, 2), (0.5, 3), (0.3, 4)])
def test_signal_and_noise_have_the_reliability_that_the_formulas_say(rho, n_seeds):
    rng = np.random.default_rng(2)
    signal, losses = seeds_of(rho, n_seeds, 300, 64, rng)
    once = as_they_are(64, 300)
    # Standard error of a mean of 300 correlations of 64 subsets: below 0.008.
    found = reliability(losses, once)[0]
    assert found == pytest.approx(pearson_to_spearman(rho), abs=0.025)
    reached = resampled(signal, losses.mean(axis=0), once)[0]
    (highest,) = ceiling(np.array([rho]), n_seeds)
    assert reached == pytest.approx(pearson_to_spearman(highest), abs=0.025)
    expected = np.sqrt(rho * mean_reliability(np.array([rho]), n_seeds - 1)[0])
    retrained = exact_retraining(losses, once)[0]
    assert retrained == pytest.approx(pearson_to_spearman(expected), abs=0.025)
    assert retrained < reached


def test_reliability_grows_with_seeds_from_itself_to_one():
    rho = np.array([0.4, 0.5, -0.2])
    assert mean_reliability(rho, 1) == pytest.approx([0.4, 0.5, 0])
    assert mean_reliability(rho, 3) == pytest.approx([2 / 3, 0.75, 0])
    assert mean_reliability(rho[:2], 10**6) == pytest.approx([1, 1], abs=1e-5)
    assert ceiling(rho, 3) == pytest.approx(np.sqrt([2 / 3, 0.75, 0]))


def test_the_bootstrap_covers_the_expected_correlation():
    """Nominally 95 %; 100 repetitions stay above 88 % with probability 0.998."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        signal = rng.standard_normal((8, 48))
        truth = 0.6 * signal + 0.8 * rng.standard_normal((8, 48))
        samples = resampled(signal, truth, resamples(48, 8, 200, rng))
        low, high = np.quantile(samples, [0.025, 0.975])
        covered += low <= pearson_to_spearman(0.6) <= high
    assert covered >= 88
