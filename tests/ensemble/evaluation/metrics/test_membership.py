"""A membership audit of members whose memory is known."""

import numpy as np
import pytest

from ensemble.evaluation.metrics.membership import (
    audit_auc,
    audit_hits,
    calibrated,
    memorisation,
)

SAW = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1]], dtype=bool)


def test_an_image_is_memorised_by_what_seeing_it_lowers_its_loss():
    hardness = np.array([5.0, 1.0, 2.0])
    losses = hardness - SAW * np.array([0.3, 0.7, 9.0])
    found = memorisation(losses, SAW)
    assert found[:2] == pytest.approx([0.3, 0.7])
    assert np.isnan(found[2])


def test_calibration_takes_off_how_hard_an_image_is():
    rng = np.random.default_rng(0)
    losses, hardness = rng.random((4, 6)), 100 * rng.random(6)
    np.testing.assert_allclose(calibrated(losses), calibrated(losses + hardness))
    by_hand = losses[2, 1] - np.delete(losses[:, 1], 2).mean()
    assert calibrated(losses)[2, 1] == pytest.approx(by_hand)


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    losses = np.array([1.0, 2.0, 2.0, 3.0])
    saw = np.array([True, True, False, False])
    # Of four pairs, three are right and one is a tie.
    assert audit_auc(losses, saw) == pytest.approx(3.5 / 4)
    assert audit_auc(-losses, saw) == pytest.approx(0.5 / 4)
    assert audit_auc(np.ones(4), saw) == pytest.approx(0.5)


def test_an_audit_that_knows_finds_all_and_one_that_guesses_few():
    rng = np.random.default_rng(0)
    saw = np.arange(4000) % 2 == 0
    assert audit_hits(np.where(saw, 0.0, 1.0) + 0.1 * rng.random(4000), saw) == 1
    # One percent of 2,000 guesses: five standard errors are 0.011.
    assert audit_hits(rng.random(4000), saw) == pytest.approx(0.01, abs=0.011)
