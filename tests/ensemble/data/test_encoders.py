"""A feature space that is always the same, and brings labels nearer together."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ensemble.data import encoders
from ensemble.data.datasets import load
from ensemble.run.config import DataConfig

DATA = load(DataConfig(n_images=60))


@pytest.mark.parametrize("labelled", [True, False])
def test_the_same_images_give_the_same_features(labelled):
    data = DATA if labelled else dataclasses.replace(DATA, labels=None)
    encoder = encoders.train(data.images, data.labels)
    found = encoder(data.images)
    assert found.shape == (60, encoders.N_FEATURES)
    assert (found >= 0).all()
    assert np.array_equal(found, encoders.train(data.images, data.labels)(data.images))
    assert ("labels" in encoder.taught) == labelled


def test_pictures_are_clipped_before_they_are_looked_at():
    encoder = encoders.train(DATA.images, DATA.labels)
    np.testing.assert_array_equal(
        encoder(DATA.images * 9), encoder(np.sign(DATA.images))
    )


def test_images_of_one_label_are_nearer_than_in_pixels():
    found = encoders.train(DATA.images, DATA.labels)(DATA.images)
    same = DATA.labels[:, None] == DATA.labels
    apart = ~np.eye(60, dtype=bool)

    def ratio(rows):
        distance = cdist(rows, rows)
        return distance[same & apart].mean() / distance[~same].mean()

    assert ratio(found) < ratio(DATA.images.reshape(60, -1))


def test_a_label_that_all_share_teaches_nothing():
    same = encoders.train(DATA.images, np.zeros(60, np.int64))
    np.testing.assert_array_equal(
        same(DATA.images), encoders.train(DATA.images)(DATA.images)
    )
