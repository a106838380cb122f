"""A feature space that is always the same, and brings labels nearer together."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ensemble.config import DataConfig
from ensemble.data import load
from ensemble.evaluation import features

DATA = load(DataConfig(n_images=60))


@pytest.mark.parametrize("labelled", [True, False])
def test_the_same_images_give_the_same_features(labelled):
    data = DATA if labelled else dataclasses.replace(DATA, labels=None)
    encoder = features.train(data)
    found = encoder(data.images)
    assert found.shape == (60, features.N_FEATURES)
    assert (found >= 0).all()
    assert np.array_equal(found, features.train(data)(data.images))
    assert ("labels" in encoder.taught) == labelled


def test_pictures_are_clipped_before_they_are_looked_at():
    encoder = features.train(DATA)
    np.testing.assert_array_equal(
        encoder(DATA.images * 9), encoder(np.sign(DATA.images))
    )


def test_images_of_one_label_are_nearer_than_in_pixels():
    found = features.train(DATA)(DATA.images)
    same = DATA.labels[:, None] == DATA.labels
    apart = ~np.eye(60, dtype=bool)

    def ratio(rows):
        distance = cdist(rows, rows)
        return distance[same & apart].mean() / distance[~same].mean()

    assert ratio(found) < ratio(DATA.images.reshape(60, -1))
