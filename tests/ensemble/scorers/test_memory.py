"""Batches fill the memory that is allowed, and no more."""

import dataclasses

import pytest
import torch

from ensemble.scorers import memory
from ensemble.scorers.memory import Batch
from ensemble.scorers.setting import Examples
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_setting


@pytest.fixture
def setting(tmp_path):
    return tiny_setting.setting(tmp_path)


def batch_of(setting, n_draws=10, width=100):
    return memory.batch(
        setting, setting.networks[0], setting.train, n_draws, width=width
    )


def test_activations_are_what_the_layers_give_out(setting):
    """Two times four channels and one, of 64 pixels, at 8 bytes."""
    found = memory.activation_bytes(setting.networks[0], setting.train)
    assert found == (4 + 4 + 1) * 64 * 8
    assert not any(module._forward_hooks for module in setting.networks[0].modules())


def test_a_batch_fits_and_a_larger_one_would_not(setting, monkeypatch):
    monkeypatch.setattr(memory, "ENOUGH", 10**9)
    state = 64 * 8 * (memory.PASSES * (4 + 4 + 1) + memory.IMAGES)
    image = 8 * (memory.GRADIENTS * 36 + 2 * 100)
    for megabytes in (1, 3, 10):
        found = batch_of(dataclasses.replace(setting, max_memory_mb=megabytes))
        taken = found.n_images * (found.n_draws * state + image)
        assert found.n_draws == 10
        assert taken <= megabytes * 2**20 < taken + found.n_draws * state + image


def test_draws_are_split_before_memory_is_exceeded(setting, monkeypatch):
    monkeypatch.setattr(memory, "ENOUGH", 10**9)
    found = batch_of(dataclasses.replace(setting, max_memory_mb=1), n_draws=10_000)
    assert found.n_images == 1
    assert 1 < found.n_draws < 10_000


def test_more_than_enough_is_not_done_at_once(setting):
    assert batch_of(setting, n_draws=10) == Batch(memory.ENOUGH // 10, 10)
    assert batch_of(setting, n_draws=5000) == Batch(1, memory.ENOUGH)


def test_parts_cover_everything_once():
    parts = list(Batch(n_images=3, n_draws=4).parts(8))
    assert [list(range(8))[part] for part in parts] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    draws = list(Batch(n_images=3, n_draws=4).draws(6))
    assert [list(range(6))[draw] for draw in draws] == [[0, 1, 2, 3], [4, 5]]


def test_one_image_beyond_memory_is_refused(setting):
    huge = torch.zeros(1, 1, 512, 512, dtype=torch.float64)
    train = Examples(huge, None, torch.zeros(1, dtype=torch.int64))
    small = dataclasses.replace(setting, max_memory_mb=1)
    with pytest.raises(BadInput, match=r"One image takes \d+ MB; allowed: 1"):
        memory.batch(small, setting.networks[0], train, 1, width=1)
