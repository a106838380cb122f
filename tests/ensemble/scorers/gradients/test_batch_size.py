"""Batches fill the memory that is allowed, and no more."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.scorers.curvature.kfac import Curvature
from ensemble.scorers.gradients import batch_size
from ensemble.scorers.gradients.batch_size import Batch
from ensemble.scorers.interface import Examples
from ensemble.scorers.methods.mlodozeniec2025influence import InfluenceFunction
from ensemble.scorers.methods.park2023trak import Trak
from ensemble.scorers.methods.pruthi2020tracin import GradientDot
from ensemble.scorers.methods.similarity import PixelDot
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_context


@pytest.fixture
def context(tmp_path):
    return tiny_context.context(tmp_path)


def batch_of(context, n_draws=10, width=100):
    return batch_size.batch(
        context, context.networks[0], context.train, n_draws, width=width
    )


def test_a_batch_fits_and_a_larger_one_would_not(context, monkeypatch):
    monkeypatch.setattr(batch_size, "ENOUGH", 10**9)
    state = 64 * 8 * (batch_size.PASSES * (4 + 4 + 1) + batch_size.IMAGES)
    image = 8 * (batch_size.GRADIENTS * 36 + 2 * 100)
    for megabytes in (1, 3, 10):
        found = batch_of(dataclasses.replace(context, max_memory_mb=megabytes))
        taken = found.n_images * (found.n_draws * state + image)
        assert found.n_draws == 10
        assert taken <= megabytes * 2**20 < taken + found.n_draws * state + image


def test_draws_are_split_before_memory_is_exceeded(context, monkeypatch):
    monkeypatch.setattr(batch_size, "ENOUGH", 10**9)
    found = batch_of(dataclasses.replace(context, max_memory_mb=1), n_draws=10_000)
    assert found.n_images == 1
    assert 1 < found.n_draws < 10_000


def test_more_than_enough_is_not_done_at_once(context):
    assert batch_of(context, n_draws=10) == Batch(batch_size.ENOUGH // 10, 10)
    assert batch_of(context, n_draws=5000) == Batch(1, batch_size.ENOUGH)


def test_parts_cover_everything_once():
    parts = list(Batch(n_images=3, n_draws=4).parts(8))
    assert [list(range(8))[part] for part in parts] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    draws = list(Batch(n_images=3, n_draws=4).draws(6))
    assert [list(range(6))[draw] for draw in draws] == [[0, 1, 2, 3], [4, 5]]


def test_one_image_beyond_memory_is_refused(context):
    huge = torch.zeros(1, 1, 512, 512, dtype=torch.float64)
    train = Examples(huge, UNCONDITIONAL, torch.zeros(1, dtype=torch.int64))
    small = dataclasses.replace(context, max_memory_mb=1)
    with pytest.raises(BadInput, match=r"One image takes \d+ MB; allowed: 1"):
        batch_size.batch(small, context.networks[0], train, 1, width=1)


def place(tensor):
    """Where its numbers are."""
    return tensor.untyped_storage().data_ptr()


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes; views make none."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if torch.is_tensor(found) and not any(
            torch.is_tensor(given) and place(given) == place(found) for given in args
        ):
            self.bytes = max(self.bytes, found.numel() * found.element_size())
        return found


def peaks(scorer, context, n_images):
    """Bytes of the largest tensor, and of all arrays of numpy's at their peak."""
    many = dataclasses.replace(
        tiny_context.of_reference(context),
        train=tiny_context.examples(n_images, 0),
        saw=np.ones((1, n_images), dtype=bool),
        source_of=np.arange(n_images),
        n_sources=n_images,
        max_memory_mb=2,
    )
    tracemalloc.start()
    try:
        with LargestTensor() as largest:
            scorer.score(many)
        return largest.bytes, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


STREAMED = {
    "pixels": PixelDot(),
    "dot": GradientDot(tiny_context.FEATURE),
    "trak": Trak(tiny_context.FEATURE),
    "ekfac": InfluenceFunction(
        curvature=Curvature(n_draws=1), draws=tiny_context.DRAWS
    ),
}


@pytest.mark.parametrize("method", STREAMED)
def test_four_times_the_sources_take_no_more_memory(context, method):
    few, many = (peaks(STREAMED[method], context, n) for n in (300, 1200))
    # Numbers of the images, eight bytes each, are held whole; features are not.
    assert many[0] <= 1.1 * few[0]
    assert many[1] <= 1.5 * few[1]
    assert max(*few, *many) < 2 * 2**20
