"""The kernel against dense linear algebra, in float64."""

import numpy as np
import pytest

from ensemble.scorers.gradients.kernel import decompose, require_positive
from splits.errors import BadInput

RNG = np.random.default_rng(0)
WIDE = RNG.normal(size=(7, 20))
TALL = RNG.normal(size=(20, 7))
DAMPINGS = (1e-6, 0.1, 1.0, 1e3)


def dense(images, damping):
    """K_λ⁻¹ by its definition."""
    level = damping * np.square(images).sum(axis=1).mean()
    return np.linalg.inv(images.T @ images + level * np.eye(images.shape[1]))


def queries(images):
    return np.random.default_rng(1).normal(size=(3, images.shape[1]))


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("images", [WIDE, TALL])
def test_scores_are_queries_times_inverse_times_images(images, damping):
    asked = queries(images)
    expected = asked @ dense(images, damping) @ images.T
    kernel = decompose(images, 100)
    np.testing.assert_allclose(
        kernel.solve(asked, damping) @ images.T, expected, rtol=1e-7, atol=1e-9
    )


def test_facts_tell_the_rank_and_what_a_damping_amounts_to():
    kernel = decompose(WIDE, 100)
    facts = kernel.facts([0.1, 2.0])
    lengths = np.square(WIDE).sum(axis=1)
    assert facts["rank"] == 7
    assert facts["mean_squared_length"] == pytest.approx(lengths.mean(), rel=1e-12)
    level = facts["damping"]["2"]
    np.testing.assert_allclose(kernel.damped(2.0), kernel.eigenvalues + level)
    largest = np.linalg.norm(WIDE, 2) ** 2
    assert facts["largest_eigenvalue"] == pytest.approx(largest, rel=1e-12)


def test_dual_and_primal_are_the_same_kernel():
    square = RNG.normal(size=(9, 9))
    dual = decompose(square, 100)
    # Tall only by a row of zeros, which adds nothing to GᵀG.
    primal = decompose(np.concatenate([square, np.zeros((1, 9))]), 100)
    np.testing.assert_allclose(dual.eigenvalues, primal.eigenvalues, rtol=1e-9)
    first = dual.axes / dual.eigenvalues @ dual.axes.T
    second = primal.axes / primal.eigenvalues @ primal.axes.T
    np.testing.assert_allclose(first, second, rtol=1e-6)


@pytest.mark.parametrize("images", [WIDE, TALL])
def test_leverage_and_step_length_are_those_of_the_inverse(images):
    kernel, inverse = decompose(images, 100), dense(images, 0.1)
    leverage = np.einsum("iw,wv,iv->i", images, inverse, images)
    np.testing.assert_allclose(kernel.leverage(images, 0.1), leverage, rtol=1e-9)
    lengths = np.linalg.norm(images @ inverse, axis=1)
    np.testing.assert_allclose(kernel.steps(images, 0.1), lengths, rtol=1e-9)


def test_leverage_is_below_one_and_sums_to_the_degrees_of_freedom():
    kernel = decompose(WIDE, 100)
    leverage = kernel.leverage(WIDE, 0.1)
    assert ((leverage > 0) & (leverage < 1)).all()
    freedom = (kernel.eigenvalues / kernel.damped(0.1)).sum()
    assert leverage.sum() == pytest.approx(freedom, rel=1e-12)


def test_infinite_damping_is_the_inner_product():
    kernel, asked = decompose(WIDE, 100), queries(WIDE)
    scores = kernel.solve(asked, 1e12) @ WIDE.T * 1e12 * kernel.mean_square
    np.testing.assert_allclose(scores, asked @ WIDE.T, rtol=1e-9)


def test_leaving_one_image_out_of_a_ridge_regression_is_leverage_and_residual():
    """θ - θ without i = K_λ⁻¹ g_i e_i / (1 - h_i), with e_i the fitted residual."""
    targets = RNG.normal(size=20)
    level = 0.1 * np.square(TALL).sum(axis=1).mean()

    def ridge(rows, wanted):
        return np.linalg.solve(rows.T @ rows + level * np.eye(7), rows.T @ wanted)

    kernel, asked = decompose(TALL, 100), queries(TALL)
    fitted = ridge(TALL, targets)
    residual = targets - TALL @ fitted
    step = kernel.solve(asked, 0.1) @ TALL.T * residual
    predicted = step / (1 - kernel.leverage(TALL, 0.1))
    for image in range(20):
        without = ridge(np.delete(TALL, image, 0), np.delete(targets, image))
        np.testing.assert_allclose(
            predicted[:, image], asked @ (fitted - without), rtol=1e-9
        )


def test_scores_rank_alike_however_features_are_scaled():
    asked = queries(WIDE)
    plain = decompose(WIDE, 100).solve(asked, 0.1) @ WIDE.T
    scaled = decompose(1e-6 * WIDE, 100).solve(1e-6 * asked, 0.1) @ (1e-6 * WIDE).T
    np.testing.assert_allclose(scaled, plain, rtol=1e-9)


def test_images_that_repeat_each_other_do_no_harm():
    images = np.concatenate([WIDE, WIDE]).astype(np.float32)
    scores = decompose(images, 100).solve(queries(WIDE), 1e-8) @ images.T
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[:, :7], scores[:, 7:], rtol=1e-12)


@pytest.mark.parametrize("damping", [0.0, -1.0, np.nan])
def test_damping_that_is_not_positive_is_refused(damping):
    with pytest.raises(BadInput, match="must be greater than 0"):
        require_positive(damping)


def test_a_kernel_beyond_memory_is_refused_before_the_work():
    with pytest.raises(BadInput, match="allowed: 1. Raise --max-memory"):
        decompose(np.zeros((300, 1000)), 1)
