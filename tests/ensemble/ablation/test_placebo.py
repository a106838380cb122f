"""P-values against placebo are exact: counted, not assumed."""

import numpy as np
import pytest

from ensemble.ablation import placebo
from ensemble.ablation.placebo import excess, p_values


def corrected(displacement, placebo, units=None, drawn=None):
    units = np.full(np.shape(displacement)[1], 2) if units is None else units
    drawn = np.full(np.shape(placebo)[1], 2) if drawn is None else drawn
    return p_values(np.asarray(displacement), np.asarray(placebo), units, drawn)


def test_above_all_placebos_the_p_value_is_the_share_of_units():
    p = corrected([[9.0, 0.5, -1.0]], [np.linspace(0, 1, 57)])
    assert p[0, 0] == pytest.approx(3 / (3 + 57))
    assert p[0, 2] == 1


def test_p_values_are_the_chance_that_the_largest_unit_ranks_so_high():
    """Exchangeable units and placebos: count over random draws, 4 sigma."""
    rng = np.random.default_rng(0)
    draws = rng.random((20_000, 4 + 12))
    above = (draws[:, 4:] > draws[:, :4].max(axis=1, keepdims=True)).sum(axis=1)
    placebo = np.arange(12.0)[None]
    for rank in (0, 1, 3, 6):
        displacement = np.full((1, 4), 12 - rank - 0.5)
        p = corrected(displacement, placebo)[0, 0]
        share = (above <= rank).mean()
        assert abs(p - share) < 4 * np.sqrt(p * (1 - p) / 20_000)


def test_p_values_fall_with_displacement_and_ties_count_against_the_unit():
    p = corrected([[1.0, 2.0, 3.0, 3.5]], [[1.0, 2.0, 3.0]])[0]
    assert (np.diff(p) < 0).all()
    assert corrected([[3.0]], [[1.0, 3.0]])[0, 0] > corrected([[3.1]], [[1.0, 3.0]])


def test_placebos_alone_are_significant_five_times_in_a_hundred():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        drawn = rng.random(8 + 152)
        hits += corrected([drawn[:8]], [drawn[8:]]).min() <= 0.05
    assert abs(hits - 20) < 4 * np.sqrt(400 * 0.05 * 0.95)


def test_units_are_compared_with_placebos_of_their_own_weight():
    units, drawn = np.array([1, 2]), np.array([1] * 20 + [2] * 20)
    placebo = np.concatenate([np.zeros(20), np.ones(20)])[None]
    p = corrected([[0.5, 0.5]], placebo, units, drawn)[0]
    assert p[0] == pytest.approx(2 * 1 / 21)
    assert p[1] == 1
    level = excess(np.array([[0.5, 0.5]]), placebo, units, drawn)[0]
    assert level.tolist() == [0.5, -0.5]


def test_without_placebos_nothing_is_claimed():
    p = p_values(np.ones((1, 2)), np.ones((1, 0)), np.array([1, 1]), np.array([], int))
    assert p.tolist() == [[1, 1]]
    assert np.isnan(
        excess(np.ones((1, 2)), np.ones((1, 0)), np.array([1, 1]), np.array([], int))
    ).all()


def test_enough_placebos_make_the_threshold_possible():
    for n_units in (1, 7, 32, 1797):
        n_placebos = placebo.enough(n_units)
        one, other = np.full(n_units, 2), np.full(n_placebos, 2)
        assert placebo.smallest_p(one, other) <= placebo.THRESHOLD
        assert placebo.smallest_p(one, other[:-1]) > placebo.THRESHOLD


def test_a_unit_that_nobody_saw_is_not_corrected_for():
    displacement = np.array([[0.5, 0.2, 0.0]])
    placebos = np.array([[0.1, 0.3, 0.4]])
    drawn, weights = np.full(3, 2), np.array([2, 2, 0])
    found = p_values(displacement, placebos, weights, drawn)
    alone = p_values(displacement[:, :2], placebos, weights[:2], drawn)
    assert np.array_equal(found, np.append(alone, [[1.0]], axis=1))
