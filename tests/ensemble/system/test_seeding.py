"""Luck follows from its key alone, and nobody else's luck is touched."""

from itertools import product

import numpy as np
import pytest
import torch

from ensemble.system import seeding

KEYS = list(product([0, 1], ["noise", "order"], [0, 1, 2], [0, 1, 500]))


def numpy_words():
    return np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002


def test_the_same_key_gives_the_same_draws():
    first, second = (seeding.generator(3, "noise", 1, 2) for _ in range(2))
    assert torch.equal(
        torch.randn(5, generator=first), torch.randn(5, generator=second)
    )
    first, second = (seeding.rng(3, "order", 1, 2) for _ in range(2))
    assert np.array_equal(first.permutation(9), second.permutation(9))


def test_a_seed_is_the_same_on_every_platform():
    assert seeding.seed_of(0, "noise", 3, 7) == 1335509744027784508


def test_seed_stream_and_numbers_all_tell_keys_apart():
    seeds = {seeding.seed_of(*key) for key in KEYS}
    assert len(seeds) == len(KEYS)


def test_the_order_of_the_numbers_matters():
    assert seeding.seed_of(0, "noise", 1, 2) != seeding.seed_of(0, "noise", 2, 1)


@pytest.mark.parametrize("key", KEYS)
def test_a_seed_is_one_that_torch_and_numpy_accept(key):
    assert 0 <= seeding.seed_of(*key) < 2**63


def test_draws_of_neighbouring_keys_are_uncorrelated():
    draws = np.stack(
        [seeding.rng(0, "noise", step).normal(size=4000) for step in range(8)]
    )
    correlation = np.corrcoef(draws) - np.eye(8)
    # Five standard deviations of a correlation between independent draws.
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_no_global_generator_is_read_or_moved():
    torch.manual_seed(0)
    before = seeding.generator(1, "noise").initial_seed()
    state, words = torch.get_rng_state(), numpy_words()
    torch.randn(3, generator=seeding.generator(1, "noise"))
    seeding.rng(1, "order").permutation(5)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(numpy_words(), words)
    torch.manual_seed(99)
    assert seeding.generator(1, "noise").initial_seed() == before
