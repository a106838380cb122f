"""Settings, and the way from images to sources and back."""

import dataclasses

import numpy as np
import pytest
import torch

from ensemble.scorers.interface import by_source, over_images
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_context


def test_a_sources_score_is_the_sum_over_its_images():
    score = np.array([[1.0, 2.0, 4.0, 8.0]])
    found = by_source(score, np.array([2, 0, 2, 0]), 4)
    assert found.tolist() == [[10, 0, 5, 0]]
    assert found.dtype == np.float32


def test_spreading_over_images_is_undone_by_summing():
    score = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    source_of = np.array([0, 1, 1, 2, 3, 3, 3])
    spread = over_images(score, source_of)
    assert spread.shape == (3, 7)
    assert np.array_equal(spread[:, 4], spread[:, 5])
    np.testing.assert_allclose(by_source(spread, source_of, 4), score, rtol=1e-6)


def test_networks_are_told_by_the_sources_that_they_saw(tmp_path):
    context = tiny_context.context(tmp_path)
    assert np.array_equal(context.included(), context.codes.bits.T)


def test_examples_are_chosen_with_all_that_belongs_to_them():
    examples = tiny_context.examples(4, 10, n_classes=3)
    chosen = examples[torch.tensor([3, 1])]
    assert torch.equal(chosen.images, examples.images[[3, 1]])
    assert chosen.condition.labels.tolist() == [0, 1]
    assert chosen.keys.tolist() == [13, 11]
    assert len(examples[1:]) == 3


def test_a_setting_must_know_what_each_network_saw(tmp_path):
    context = tiny_context.context(tmp_path)
    with pytest.raises(BadInput, match=r"saw has shape \(3, 12\)"):
        dataclasses.replace(context, saw=context.saw[:3])
