"""Distances in closed form, and a planted copy that is found."""

import numpy as np
import pytest

from ensemble.evaluation.metrics.distribution import (
    frechet,
    kernel_distance,
    memorised,
    precision_and_recall,
)

RNG = np.random.default_rng(0)


def with_moments(mean, covariance, n=400):
    """Rows that have exactly this mean and covariance."""
    rows = np.random.default_rng(1).standard_normal((n, len(mean)))
    rows -= rows.mean(axis=0)
    rows = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
    return rows @ np.linalg.cholesky(np.asarray(covariance)).T + mean


def test_the_frechet_distance_of_two_gaussians_has_a_closed_form():
    one = with_moments([0.0, 1.0], np.diag([4.0, 9.0]))
    other = with_moments([2.0, 1.0], np.diag([1.0, 16.0]))
    # For commuting covariances: gap of means, and gaps of standard deviations.
    assert frechet(one, other) == pytest.approx(4 + 1 + 1, rel=1e-9)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_correlated_gaussians_is_symmetric():
    one = with_moments([0.0, 0.0], [[2.0, 1.0], [1.0, 2.0]])
    other = with_moments([0.0, 0.0], [[2.0, -1.0], [-1.0, 2.0]])
    # C1 C2 = diag(3, 3), so 8 - 2 tr(diag(√3, √3)).
    assert frechet(one, other) == pytest.approx(8 - 4 * np.sqrt(3), rel=1e-9)
    assert frechet(other, one) == pytest.approx(frechet(one, other), rel=1e-9)


def test_more_features_than_rows_leave_the_distance_real():
    one, other = RNG.standard_normal((2, 5, 12))
    assert frechet(one, other) > 0


def test_the_kernel_distance_is_unbiased():
    same = [kernel_distance(*RNG.standard_normal((2, 30, 4))) for _ in range(200)]
    error = np.std(same) / np.sqrt(200)
    assert abs(np.mean(same)) < 4 * error
    assert min(same) < 0
    shifted = kernel_distance(
        RNG.standard_normal((200, 4)), RNG.standard_normal((200, 4)) + 2
    )
    assert shifted > 10 * np.std(same)


def test_precision_falls_with_junk_and_recall_with_missing_modes():
    near, far = RNG.standard_normal((60, 2)), RNG.standard_normal((60, 2)) + 100
    junk = RNG.standard_normal((60, 2)) - 1000
    assert precision_and_recall(near, near) == (1.0, 1.0)
    precision, recall = precision_and_recall(near, np.concatenate([near, far]))
    assert (precision, recall) == (1.0, 0.5)
    precision, recall = precision_and_recall(np.concatenate([near, junk]), near)
    assert (precision, recall) == (0.5, 1.0)


def test_a_planted_copy_is_found_and_nothing_else():
    train = RNG.standard_normal((50, 64))
    generated = RNG.standard_normal((10, 64))
    generated[7] = train[3] + 0.01 * RNG.standard_normal(64)
    assert np.flatnonzero(memorised(generated, train)).tolist() == [7]
