"""Likeness of pictures, and the controls."""

import dataclasses

import numpy as np
import pytest
from sklearn.decomposition import PCA

from ensemble.data import encoders
from ensemble.scorers.methods import similarity
from ensemble.scorers.methods.controls import Constant, Random
from ensemble.scorers.methods.similarity import (
    ComponentCosine,
    FeatureCosine,
    PixelCosine,
    PixelDot,
    pixels,
)
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_context


@pytest.fixture
def context(tmp_path):
    return tiny_context.context(tmp_path)


def cosine(first, second):
    lengths = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)
    return first @ second.T / lengths


def test_pixels_are_compared_as_they_are(context):
    queries, train = pixels(context.queries.images), pixels(context.train.images)
    np.testing.assert_allclose(
        PixelDot().score(context), queries @ train.T, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        PixelCosine().score(context), cosine(queries, train), rtol=1e-5, atol=1e-6
    )


def test_an_encoder_is_compared_by_what_it_says(context):
    def encoder(images):
        return pixels(images)[:, :5] ** 2

    wanted = cosine(encoder(context.queries.images), encoder(context.train.images))
    found = FeatureCosine(encoder).score(context)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_without_an_encoder_a_small_one_is_trained(context):
    trained = encoders.train(context.train.images.numpy())
    wanted = cosine(
        trained(context.queries.images.numpy()), trained(context.train.images.numpy())
    )
    found = FeatureCosine().score(context)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert context.notes == [{"encoder": "trained to draw pictures again"}]


def test_components_are_the_training_images_own(context):
    train, queries = pixels(context.train.images), pixels(context.queries.images)
    components = PCA(4).fit(train)
    wanted = cosine(components.transform(queries), components.transform(train))
    found = ComponentCosine(4).score(context)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_more_components_than_there_are_is_all_of_them(context):
    many, all_of_them = ComponentCosine(1000), ComponentCosine(11)
    np.testing.assert_allclose(
        many.score(context), all_of_them.score(context), rtol=1e-5
    )


def test_components_are_learnt_from_enough_images(context, monkeypatch):
    monkeypatch.setattr(similarity, "ENOUGH_IMAGES", 6)
    train, queries = pixels(context.train.images), pixels(context.queries.images)
    components = PCA(4).fit(train[::2])
    wanted = cosine(components.transform(queries), components.transform(train))
    found = ComponentCosine(4).score(context)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_an_image_is_most_like_itself(context):
    same = dataclasses.replace(context, queries=context.train[3:6])
    for method in (PixelCosine(), ComponentCosine(8)):
        score = method.score(same)
        assert score.argmax(axis=1).tolist() == [3, 4, 5]
        np.testing.assert_allclose(score.max(axis=1), 1, rtol=1e-5)


def test_images_are_compared_in_blocks(context):
    wanted = PixelDot().score(context)
    small = dataclasses.replace(context, max_memory_mb=0)
    np.testing.assert_allclose(PixelDot().score(small), wanted, rtol=1e-6)


def test_no_components_are_refused():
    with pytest.raises(BadInput, match="n_components is 0"):
        ComponentCosine(0)


def test_random_scores_are_standard_normal_and_follow_from_their_seed(context):
    big = dataclasses.replace(
        context,
        train=tiny_context.examples(2000, 0),
        saw=np.ones((4, 2000), dtype=bool),
        source_of=np.arange(2000) % 6,
    )
    score = Random().score(big)
    assert abs(score.mean()) < 4 / 6000**0.5
    assert score.std() == pytest.approx(1, abs=4 / 12000**0.5)
    assert np.array_equal(Random().score(big), score)
    assert not np.allclose(Random(seed=1).score(big), score)
    assert np.abs(np.corrcoef(score) - np.eye(3)).max() < 4 / 2000**0.5


def test_constant_scores_count_images(context):
    assert (Constant().score(context) == 1).all()
