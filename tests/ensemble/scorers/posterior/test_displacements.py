"""How far from the queries networks' own pictures lie."""

import dataclasses

import numpy as np
import pytest

from ensemble.scorers import Alone
from ensemble.scorers.posterior.displacements import query_displacements
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_setting


def test_every_networks_pictures_are_compared_with_the_queries(tmp_path):
    setting = tiny_setting.setting(tmp_path)
    found = query_displacements(setting)
    assert found.shape == (4, 3)
    for number in range(4):
        apart = tiny_setting.alone(number) - setting.queries.images.numpy()
        for query in range(3):
            length = np.linalg.norm(apart[query]) / np.sqrt(apart[query].size)
            assert found[number, query] == pytest.approx(length, rel=1e-6)


def test_pictures_are_sampled_once_as_long_as_the_sampler_is_the_same(tmp_path):
    sampled = []

    def pictures(number):
        sampled.append(number)
        return tiny_setting.alone(number)

    plain = tiny_setting.setting(tmp_path)
    first, other = (
        dataclasses.replace(plain, alone=Alone(pictures, {"n_steps": n_steps}))
        for n_steps in (4, 5)
    )
    some = query_displacements(tiny_setting.first(first, 2))
    assert np.array_equal(query_displacements(first)[:2], some)
    assert sampled == [0, 1, 2, 3]
    query_displacements(other)
    assert sampled == [0, 1, 2, 3] * 2


def test_a_setting_that_samples_nothing_is_refused(tmp_path):
    bare = dataclasses.replace(tiny_setting.setting(tmp_path), alone=None)
    with pytest.raises(BadInput, match="this setting has no sampler"):
        query_displacements(bare)
