"""Batches are the images of their steps, whoever reads them and when."""

import threading

import numpy as np
import pytest
import torch

from ensemble.data.lazy import ImagesOnDisk
from ensemble.data.loader import (
    N_PREFETCHED,
    InMemoryLoader,
    PrefetchingLoader,
    make_loader,
)
from splits.errors import BadInput

IMAGES = np.random.default_rng(0).uniform(-1, 1, (9, 1, 4, 4)).astype(np.float32)
CPU = torch.device("cpu")
N_STEPS = 12


def order(step):
    return np.random.default_rng(step).permutation(9)[:4]


def on_disk(read=IMAGES.__getitem__):
    return ImagesOnDisk(tuple("abcdefghi"), read)


def test_where_the_images_are_decides_how_they_are_read():
    assert isinstance(make_loader(IMAGES, CPU, order, N_STEPS), InMemoryLoader)
    assert isinstance(make_loader(on_disk(), CPU, order, N_STEPS), PrefetchingLoader)


@pytest.mark.parametrize("first", [0, 3])
def test_batches_are_the_same_from_memory_and_from_disk(first):
    held, ahead = (
        make_loader(images, CPU, order, N_STEPS) for images in (IMAGES, on_disk())
    )
    for step in range(first, N_STEPS):
        batch = ahead.at(step, order(step))
        assert torch.equal(batch, held.at(step, order(step)))
        assert np.array_equal(batch, IMAGES[order(step)])


def test_slow_reading_changes_no_batch():
    turn = threading.Semaphore(0)

    def slowly(number):
        turn.acquire(timeout=0.01)
        return IMAGES[number]

    ahead = make_loader(on_disk(slowly), CPU, order, N_STEPS)
    for step in range(N_STEPS):
        assert np.array_equal(ahead.at(step, order(step)), IMAGES[order(step)])


def test_what_is_on_its_way_is_bounded_and_ends_with_the_training():
    asked = []
    ahead = make_loader(
        on_disk(), CPU, lambda step: asked.append(step) or order(step), 7
    )
    ahead.at(0, order(0))
    assert asked == list(range(1, 1 + N_PREFETCHED))
    for step in range(1, 7):
        ahead.at(step, order(step))
    assert asked == list(range(1, 7))


def test_what_goes_wrong_in_a_thread_is_told():
    def damaged(number):
        if number == 5:
            raise BadInput("image 5 is gone")
        return IMAGES[number]

    ahead = make_loader(on_disk(damaged), CPU, lambda step: np.array([step]), N_STEPS)
    assert len(ahead.at(4, np.array([4]))) == 1
    with pytest.raises(BadInput, match="image 5 is gone"):
        ahead.at(5, np.array([5]))
