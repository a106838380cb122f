"""How far from the queries networks' own pictures lie."""

import dataclasses

import numpy as np
import pytest

from ensemble.scorers import MemberSamples
from ensemble.scorers.posterior.displacements import query_displacements
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_context


def test_every_networks_pictures_are_compared_with_the_queries(tmp_path):
    context = tiny_context.context(tmp_path)
    found = query_displacements(context)
    assert found.shape == (4, 3)
    for number in range(4):
        apart = tiny_context.member_samples(number) - context.queries.images.numpy()
        for query in range(3):
            length = np.linalg.norm(apart[query]) / np.sqrt(apart[query].size)
            assert found[number, query] == pytest.approx(length, rel=1e-6)


def test_pictures_are_sampled_once_as_long_as_the_sampler_is_the_same(tmp_path):
    sampled = []

    def images(number):
        sampled.append(number)
        return tiny_context.member_samples(number)

    plain = tiny_context.context(tmp_path)
    first, other = (
        dataclasses.replace(
            plain, member_samples=MemberSamples(images, {"n_steps": n_steps})
        )
        for n_steps in (4, 5)
    )
    some = query_displacements(tiny_context.first(first, 2))
    assert np.array_equal(query_displacements(first)[:2], some)
    assert sampled == [0, 1, 2, 3]
    query_displacements(other)
    assert sampled == [0, 1, 2, 3] * 2


def test_a_setting_that_samples_nothing_is_refused(tmp_path):
    bare = dataclasses.replace(tiny_context.context(tmp_path), member_samples=None)
    with pytest.raises(BadInput, match="this scoring context has no sampler"):
        query_displacements(bare)
