"""The audit's bound holds as often as it says, and its numbers are what they say."""

import numpy as np
import pytest
import scipy.stats

from ensemble.ablation import audit


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
    assert audit.upper_bound(predicted[:0], predicted, predicted) is None


def test_audited_units_are_random_and_distinct():
    chosen = audit.drawn(10, 2, 4, seed=0)
    assert chosen.shape == (2, 4)
    assert all(len(set(row)) == 4 for row in chosen.tolist())
    assert not np.array_equal(chosen[0], chosen[1])
    assert not np.array_equal(chosen, audit.drawn(10, 2, 4, seed=1))
    assert audit.drawn(10, 2, 99, seed=0).shape == (2, 10)


def test_the_rank_correlation_is_the_mean_over_queries():
    exact = np.arange(6.0) * np.ones((3, 1))
    guessed = np.stack([exact[0], exact[0] ** 2, -exact[0]])
    assert audit.agreement(guessed, exact, 6).value == pytest.approx(1 / 3)
    assert audit.agreement(guessed[1:], exact[1:], 6).value == pytest.approx(0)
    assert audit.agreement(0 * guessed, exact, 6).value == 0


def population(noise, n_queries, n_units, seed=0):
    """Predictions and exact displacements of all units, and what is true of them."""
    rng = np.random.default_rng(seed)
    exact = np.exp(rng.normal(0, 0.3, (n_queries, n_units)))
    predicted = exact * np.exp(rng.normal(0, noise, exact.shape))
    correlations = [
        scipy.stats.spearmanr(*pair).statistic
        for pair in zip(predicted, exact, strict=True)
    ]
    error = np.median(np.abs(predicted / exact - 1))
    return predicted, exact, float(np.mean(correlations)), float(error)


@pytest.mark.parametrize("noise", [0.08, 0.3])
def test_the_audit_is_right_on_average_and_its_intervals_hold_the_truth(noise):
    predicted, exact, spearman, error = population(noise, 3, 60)
    found = []
    for seed in range(100):
        chosen = audit.drawn(60, 3, 12, seed)
        sampled = np.take_along_axis(exact, chosen, axis=1)
        found.append(audit.result(predicted, sampled, chosen, exact < 0))
    values = np.array([one["spearman"] for one in found])
    assert values.mean() == pytest.approx(spearman, abs=3 * values.std() / 10)
    # What one sample's own correlation says lies below, by more than that.
    for name, truth in (("spearman", spearman), ("relative_error", error)):
        held = [
            one[f"{name}_interval"][0] <= truth <= one[f"{name}_interval"][1]
            for one in found
        ]
        assert sum(held) >= 90


def test_a_sample_of_all_units_is_the_truth_itself():
    predicted, exact, spearman, error = population(0.2, 2, 12)
    chosen = audit.drawn(12, 2, 12, seed=0)
    sampled = np.take_along_axis(exact, chosen, axis=1)
    found = audit.result(predicted, sampled, chosen, exact > 0)
    assert found["spearman"] == pytest.approx(spearman, abs=1e-4)
    assert found["spearman_interval"] == [found["spearman"]] * 2
    assert found["relative_error_interval"] == [found["relative_error"]] * 2
    assert found["relative_error"] == pytest.approx(error, abs=1e-4)
    assert found["bounds"] == [None, None]
    assert "All 12 units of each query were recomputed exactly" in found["sentence"]
    assert "nothing was left" in found["sentence"]
    assert "displaces its picture by more than" not in found["sentence"]


def test_a_small_sample_is_corrected_for_its_size():
    predicted, exact, spearman, _ = population(0.1, 1, 200)
    plain, corrected = [], []
    for seed in range(400):
        chosen = audit.drawn(200, 1, 8, seed)[0]
        pair = predicted[0, chosen], exact[0, chosen]
        plain.append(audit.rank_correlation(*pair, 8))
        corrected.append(audit.rank_correlation(*pair, 200))
    assert np.mean(plain) < spearman - 0.02
    assert np.mean(corrected) == pytest.approx(spearman, abs=0.01)


def test_roads_are_as_good_as_the_best_within_what_the_sample_can_tell():
    rng = np.random.default_rng(0)
    exact = rng.uniform(0.5, 1, (4, 16))
    noisy, alike, poor = (
        exact * np.exp(size * rng.normal(size=exact.shape)) for size in (0.1, 0.1, 0.5)
    )
    best, second, last = (
        audit.agreement(guessed, exact, 200) for guessed in (noisy, alike, poor)
    )
    best, second = sorted([best, second], key=lambda one: -one.value)
    assert second.as_good_as(best)
    assert not last.as_good_as(best)
    assert best.as_good_as(last)
    low, high = last.interval
    assert -1 <= low < last.value < high <= 1


def test_where_all_agree_the_interval_still_ends_at_one():
    exact = np.arange(8.0) * np.ones((2, 1))
    agreed = audit.agreement(exact, exact, 100)
    assert agreed.value == 1
    assert agreed.interval == (1, 1)


def test_the_result_says_what_came_out():
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0.5, 1, (2, 50))
    chosen = audit.drawn(50, 2, 20, seed=0)
    exact = np.take_along_axis(predicted, chosen, axis=1) * 1.1
    recomputed = np.zeros(predicted.shape, dtype=bool)
    np.put_along_axis(recomputed, chosen, True, axis=1)
    found = audit.result(predicted, exact, chosen, recomputed)
    assert found["spearman"] == 1
    assert found["relative_error"] == pytest.approx(1 - 1 / 1.1, abs=1e-3)
    assert "20 more random units" in found["sentence"]
    others = np.setdiff1d(np.arange(50), chosen[0])
    assert found["bounds"][0] == pytest.approx(1.1 * predicted[0, others].max(), 1e-3)
    few = predicted[:, :3], exact[:, :1], chosen[:, :1] % 3
    assert "too few units" in audit.result(*few, recomputed[:, :3])["sentence"]
    every = audit.result(*few, np.ones((2, 3), dtype=bool))
    assert "All 3 units of each query" in every["sentence"]
    assert "spearman" not in every


def test_a_unit_that_moves_nothing_has_no_error_or_an_infinite_one():
    guessed, exact = np.array([[0.0, 1.0, 1.5]]), np.array([[0.0, 0.0, 1.0]])
    assert audit._relative(guessed, exact).tolist() == [[0.0, np.inf, 0.5]]
