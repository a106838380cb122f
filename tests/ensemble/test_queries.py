"""Queries that are sampled once more."""

import dataclasses

import numpy as np
import pytest

from ensemble import queries
from ensemble.queries import Queries, ablated_pictures
from splits.errors import BadInput
from tests import tiny


@pytest.fixture
def asked():
    pipe = tiny.ensemble()
    made = pipe.pictures([3, 8, 9]).float().numpy()
    return pipe, Queries(np.array([3, 8, 9]), None, made)


def test_by_all_votes_every_query_comes_out_as_it_was(asked):
    pipe, three = asked
    again = queries.sampled_again(pipe, three, np.full(4, 0.25))
    np.testing.assert_allclose(again, three.images, atol=1e-6)


def test_by_other_votes_it_comes_out_as_by_ablation(asked):
    pipe, three = asked
    votes = np.array([0.5, 0.0, 0.5, 0.0])
    again = queries.sampled_again(pipe, three, votes)
    wanted = ablated_pictures(pipe, three, np.arange(3), np.tile(votes, (3, 1)))
    np.testing.assert_allclose(again, wanted.numpy(), atol=1e-6)
    assert np.abs(again - three.images).max() > 1e-3


def test_distance_is_the_root_mean_square_of_pixels():
    black, grey = np.full((2, 1, 3, 3), -1.0), np.zeros((2, 1, 3, 3))
    grey[:, 0, 0, 0] = 2
    np.testing.assert_allclose(
        queries.distance(black, grey), np.full(2, np.sqrt((8 + 9) / 9))
    )
    assert not queries.distance(grey, grey).any()


def test_given_images_cannot_be_sampled_again(asked):
    pipe, three = asked
    given = dataclasses.replace(three, held_out=True)
    with pytest.raises(BadInput, match="no noise leads to them, so they cannot"):
        queries.sampled_again(pipe, given, np.full(4, 0.25))
    with pytest.raises(BadInput, match="Score them"):
        given.noise(pipe)
    with pytest.raises(BadInput, match="Held-out queries are given images"):
        given.generators(pipe, np.arange(3))
    assert three.noise(pipe).shape == three.images.shape
