"""Near-duplicates are found whatever their brightness, contrast, size or order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splits import duplicates
from splits.duplicates import clusters, near_pairs, pictures
from splits.errors import BadInput


def images(n: int = 12, side: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth pictures: noise of 8x8, magnified."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(-0.8, 0.8, (n, channels, 8, 8))
    return small.repeat(side // 8, axis=2).repeat(side // 8, axis=3).astype(np.float32)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    a, b = pictures(np.stack([one, other]))
    return float((a @ a + b @ b) / 2 - a @ b)


@given(gain=st.floats(0.1, 3.0), shift=st.floats(-1.0, 1.0))
def test_brightness_and_contrast_do_not_count(gain: float, shift: float):
    image = images()[0]
    changed = (gain * image + shift).astype(np.float32)
    assert distance(image, changed) == pytest.approx(0, abs=1e-5)


def test_scaling_does_not_count():
    large, small = images(side=64), images(side=16)
    assert pictures(large) == pytest.approx(pictures(small), abs=1e-6)


@pytest.mark.parametrize("side", [5, 16, 20, 28, 40])
def test_shrinking_keeps_the_mean_and_the_order_of_pixels(side: int):
    weights = duplicates._shrinking(side)
    assert weights.shape == (min(side, 16), side)
    assert weights.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert weights.sum(axis=0) == pytest.approx(min(side, 16) / side, abs=1e-6)
    assert (np.diff(weights @ np.arange(side, dtype=np.float32)) > 0).all()


def test_a_distance_is_one_minus_the_correlation():
    one, other = images(2, side=16)
    correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert distance(one, other) == pytest.approx(1 - correlation, abs=1e-6)


def test_flat_images_resemble_each_other_and_nothing_else():
    flat, other = np.full((3, 16, 16), 0.3, np.float32), images(1, side=16)[0]
    assert distance(flat, np.zeros_like(flat)) == 0
    assert distance(flat, other) == pytest.approx(0.5, abs=1e-6)


def test_noise_of_five_percent_stays_within_the_default_threshold():
    some = images(50)
    rng = np.random.default_rng(1)
    noisy = (some + rng.normal(0, 0.1, some.shape)).astype(np.float32)
    far = [distance(one, other) for one, other in zip(some, noisy, strict=True)]
    assert max(far) < 0.01
    assert min(distance(some[0], other) for other in some[1:]) > 0.5


def test_pairs_are_those_of_a_naive_count_in_every_block(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    compared = pictures(images(30, side=8))
    pairs, distances = near_pairs(compared, 0.95)
    naive = {
        (one, other): 1 - float(compared[one] @ compared[other])
        for one in range(30)
        for other in range(one + 1, 30)
        if compared[one] @ compared[other] >= 0.05
    }
    assert {tuple(pair) for pair in pairs.tolist()} == set(naive)
    assert (np.diff(distances) >= 0).all()
    expected = [naive[tuple(pair)] for pair in pairs.tolist()]
    assert distances == pytest.approx(expected, abs=1e-5)


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 10)
    with pytest.raises(BadInput, match="Lower data.near"):
        near_pairs(pictures(images(10)), 2.0)


def test_too_many_images_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duplicates, "MOST_IMAGES", 9)
    with pytest.raises(BadInput, match="10 images have too many pairs"):
        near_pairs(pictures(images(10)), 0.01)


PAIRS = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25)


@given(pairs=PAIRS, order=st.randoms(use_true_random=False))
def test_clusters_are_the_connected_components(pairs: list, order):
    found = clusters(20, np.array(pairs, dtype=np.int64).reshape(-1, 2))
    reach = np.eye(20, dtype=int)
    for one, other in pairs:
        reach[one, other] = reach[other, one] = 1
    reach = np.linalg.matrix_power(reach, 20) > 0
    assert np.array_equal(found, reach.argmax(axis=1))
    order.shuffle(pairs)
    moved = clusters(20, np.array(pairs, dtype=np.int64).reshape(-1, 2))
    assert np.array_equal(moved, found)


def test_a_cluster_does_not_depend_on_images_outside_of_it():
    some = images(6)
    some[1], some[4] = some[0] * 0.9, some[3] + 0.1
    pairs, _ = near_pairs(pictures(some), 0.01)
    assert clusters(6, pairs).tolist() == [0, 0, 2, 3, 3, 5]
    rest = some[[0, 1, 2, 5]]
    pairs, _ = near_pairs(pictures(rest), 0.01)
    assert clusters(4, pairs).tolist() == [0, 0, 2, 3]


def test_identical_images_are_paired_with_the_first_of_them():
    images = np.random.default_rng(0).normal(size=(6, 1, 3, 3)).astype(np.float32)
    images[4] = images[5] = images[1]
    images[3] = images[0]
    images[2] = images[0] + 1e-6
    pairs = duplicates.identical(images)
    assert pairs.tolist() == [[0, 3], [1, 4], [1, 5]]
    assert duplicates.identical(images[:3]).shape == (0, 2)
