"""What every scorer in the table promises."""

import dataclasses
import functools

import numpy as np
import pytest
import scipy.linalg
import torch

from ensemble.scorers import (
    READOUTS,
    SCORERS,
    MemberSamples,
    SupportsDampingPath,
    by_source,
)
from ensemble.scorers.gradients import batch_size
from ensemble.scorers.gradients.features import Feature
from ensemble.scorers.gradients.per_example import Draws
from tests.ensemble.scorers import tiny_context

METHODS = sorted(SCORERS)


def quick(method):
    """The method with options that make it fast."""
    scorer = SCORERS[method]
    changes = {}
    for option in dataclasses.fields(scorer):
        value = getattr(scorer, option.name)
        if isinstance(value, Feature):
            changes[option.name] = dataclasses.replace(
                tiny_context.FEATURE, output=value.output, unit_draws=value.unit_draws
            )
        if isinstance(value, Draws):
            changes[option.name] = tiny_context.DRAWS
    return dataclasses.replace(scorer, **changes)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return tiny_context.context(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """Images and queries in another order, in other batches, with other files."""
    plain = tiny_context.context(tmp_path_factory.mktemp("turned"))
    images, queries = np.random.default_rng(0).permutation(12), np.array([2, 0, 1])
    trajectory = plain.trajectory()
    return (
        dataclasses.replace(
            plain,
            train=plain.train[torch.from_numpy(images)],
            saw=plain.saw[:, images],
            source_of=plain.source_of[images],
            queries=plain.queries[torch.from_numpy(queries)],
            trajectory=lambda: dataclasses.replace(
                trajectory, clean=trajectory.clean[queries]
            ),
            member_samples=MemberSamples(
                lambda number: plain.member_samples.images(number)[queries], {}
            ),
            scores=lambda *asked: plain.scores(*asked)[:, queries],
        ),
        images,
        queries,
    )


@pytest.fixture(scope="module")
def scored(context):
    """Scores by name, made when first asked for."""
    return functools.cache(lambda method: quick(method).score(context))


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_finite_numbers_of_every_image_for_every_query(method, scored):
    score = scored(method)
    assert score.shape == (3, 12)
    assert score.dtype == np.float32
    assert np.isfinite(score).all()
    assert np.ptp(score) > 0 or method == "constant"


# A source and the one with the opposite code explain the same: the lasso takes the first.
@pytest.mark.parametrize("method", sorted({*METHODS} - {"lasso_datamodel"}))
def test_order_and_batches_change_nothing(method, scored, turned, monkeypatch):
    another, images, queries = turned
    expected = scored(method)[queries][:, images]
    monkeypatch.setattr(batch_size, "ENOUGH", 9)
    found = quick(method).score(another)
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=tolerance)


DAMPED = [
    method for method in METHODS if isinstance(SCORERS[method], SupportsDampingPath)
]


def test_kernels_and_influence_functions_have_a_path_of_dampings():
    assert {"trak", "dtrak", "das", "journey_trak", "relative_influence"} < {*DAMPED}
    assert {"renormalised_influence", "ekfac", "kfac"} < {*DAMPED}
    assert "gradient_dot" not in DAMPED


@pytest.mark.parametrize("method", DAMPED)
def test_a_path_is_the_scores_at_each_damping(method, context, monkeypatch):
    scorer = quick(method)
    decompositions = []
    whole = scipy.linalg.eigh
    monkeypatch.setattr(
        scipy.linalg, "eigh", lambda *a, **k: decompositions.append(1) or whole(*a, **k)
    )
    path = scorer.path(context, [0.03, 3.0])
    assert path.shape == (2, 3, 12)
    # One for each network, however many dampings there are.
    assert len(decompositions) in (0, 4)
    for damping, found in zip([0.03, 3.0], path, strict=True):
        expected = with_damping(scorer, damping).score(context)
        tolerance = 1e-6 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=tolerance)


def with_damping(scorer, damping):
    if hasattr(scorer, "damping"):
        return dataclasses.replace(scorer, damping=damping)
    curvature = dataclasses.replace(scorer.curvature, damping=damping)
    return dataclasses.replace(scorer, curvature=curvature)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_it_is(method):
    scorer = SCORERS[method]
    for fact in (scorer.paper, scorer.cost, scorer.needs, scorer.scale):
        assert fact
    assert scorer.__doc__


def test_all_methods_differ(scored):
    """Lone finished networks make TracIn the inner product, and GAS the cosine."""
    same = {("gradient_dot", "tracin"), ("gas", "gradient_cosine")}
    for first in METHODS:
        for second in METHODS:
            if first < second:
                alike = np.allclose(scored(first), scored(second), rtol=1e-4)
                assert alike == ((first, second) in same), (first, second)


def test_permuting_sources_permutes_columns():
    score = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    source_of, order = np.arange(12) % 6, np.random.default_rng(1).permutation(6)
    assert np.array_equal(
        by_source(score, order[source_of], 6)[:, order], by_source(score, source_of, 6)
    )


def test_readouts_keep_or_drop_the_sign():
    score = np.array([-2.0, 0.0, 3.0])
    assert READOUTS["raw"](score).tolist() == [-2, 0, 3]
    assert READOUTS["squared"](score).tolist() == [4, 0, 9]
    assert READOUTS["signed_squared"](score).tolist() == [-4, 0, 9]
