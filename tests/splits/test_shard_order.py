"""Reading is counting bytes, so these checks are exact."""

from itertools import permutations

import numpy as np
import pytest

from splits import shard_order
from splits.designs import registry
from splits.shard_order import Reading


def codes_of(design, n_sources, n_members=16):
    return registry.draw(design, n_sources, n_members, None, 0).bits


def naive(bits, sizes, read_bytes):
    """Bytes that each member reads, block by block."""
    read = np.zeros(bits.shape[1], dtype=int)
    for begin in range(0, int(sizes.sum()), read_bytes):
        needed = np.zeros(bits.shape[1], dtype=bool)
        at = 0
        for code, size in zip(bits, sizes, strict=True):
            if at < begin + read_bytes and at + size > begin:
                needed |= code
            at += size
        read += read_bytes * needed
    return read


def few_codes(n_samples=4000, n_codes=20):
    rng = np.random.default_rng(1)
    bits = codes_of("balanced", n_codes)[rng.integers(n_codes, size=n_samples)]
    return bits, rng.integers(1, 40, n_samples) * 512


def test_the_order_holds_every_sample_once_and_codes_side_by_side():
    bits, _ = few_codes()
    order = shard_order.order_by_code(bits, 1024)
    assert np.array_equal(np.sort(order), np.arange(len(bits)))
    changes = (bits[order][1:] != bits[order][:-1]).any(axis=1)
    assert changes.sum() == 19
    assert (np.diff(order)[~changes] > 0).all()


def test_the_order_does_not_depend_on_the_order_of_the_members_samples():
    bits, _ = few_codes()
    shuffled = np.random.default_rng(2).permutation(len(bits))
    assert np.array_equal(
        bits[shard_order.order_by_code(bits, 1024)],
        bits[shuffled][shard_order.order_by_code(bits[shuffled], 1024)],
    )


def test_neighbours_of_all_codes_of_one_weight_differ_in_two_bits_mostly():
    bits = codes_of("balanced", 70, 8)
    ordered = bits[shard_order.order_by_code(bits, 1024)]
    differing = (ordered[1:] != ordered[:-1]).sum(axis=1)
    assert np.median(differing) == 2
    assert differing.sum() < (bits[1:] != bits[:-1]).sum()


def test_more_codes_than_a_stretch_are_ordered_too(monkeypatch):
    monkeypatch.setattr(shard_order, "_STRETCH", 16)
    bits = codes_of("balanced", 70, 8)
    order = shard_order.order_by_code(bits, 1024)
    assert np.array_equal(np.sort(order), np.arange(70))
    assert (np.diff(bits[order], axis=0) != 0).sum() < (np.diff(bits, axis=0)).sum()


def test_the_size_of_the_blocks_decides_which_codes_are_neighbours():
    bits, sizes = codes_of("balanced", 2000), np.full(2000, 1024)
    orders = {n: shard_order.order_by_code(bits, 1024, 1024 * n) for n in (4, 64)}
    for n, other in ((4, 64), (64, 4)):
        means = {}
        for wanted in (n, other):
            ordered = bits[orders[wanted]]
            found = shard_order.measure_reading(ordered, sizes, [2000], 1024 * n)
            means[wanted] = found.mean(found.once)
        assert found.least < means[n] < means[other]


@pytest.mark.parametrize("read_bytes", [512, 4096, 5000])
def test_a_block_is_read_by_whoever_needs_something_of_it(read_bytes):
    bits, sizes = few_codes(60)
    found = shard_order.measure_reading(bits, sizes, [60], read_bytes)
    assert np.array_equal(found.used, (bits * sizes[:, None]).sum(axis=0))
    assert np.array_equal(found.once, naive(bits, sizes, read_bytes) / found.used)


def test_whole_shards_are_read_by_whoever_needs_a_sample_of_them():
    bits = np.array([[1, 0], [1, 0], [1, 1], [0, 1]], dtype=bool)
    found = shard_order.measure_reading(bits, np.array([512, 1024, 512, 2048]), [2, 2])
    assert found.used.tolist() == [2048, 2560]
    assert np.array_equal(found.shards * found.used, [4096, 2560])
    assert found.mean(found.shards) == (4096 + 2560) / (2048 + 2560)


def test_samples_read_one_by_one_are_read_with_their_blocks():
    bits = np.array([[1, 0], [1, 1]], dtype=bool)
    found = shard_order.measure_reading(
        bits, np.array([1024, 1024]), [2], read_bytes=1536
    )
    # The second sample lies across two blocks.
    assert np.array_equal(found.singly * found.used, [3 * 1536, 2 * 1536])


@pytest.mark.parametrize("design", ["partition", "balanced"])
def test_enough_images_of_each_code_cost_no_more_than_one_in_twenty(design):
    bits = np.repeat(codes_of(design, 32), 100, axis=0)
    shuffled = bits[np.random.default_rng(3).permutation(len(bits))]
    sizes = np.full(len(bits), 3072)
    ordered = shuffled[shard_order.order_by_code(shuffled, 3072)]
    found = shard_order.measure_reading(
        ordered, sizes, shard_order.shard_sizes(ordered, 1000)
    )
    assert found.once.max() <= 1.05
    assert found.shards.max() == 1
    scattered = shard_order.measure_reading(shuffled, sizes, [len(bits)])
    assert scattered.mean(scattered.once) > 1.3


@pytest.mark.parametrize("seed", range(4))
def test_no_order_at_all_beats_the_bound(seed):
    rng = np.random.default_rng(seed)
    bits = rng.random((6, 4)) < 0.5
    bits[0] = True
    sizes = 512 * rng.integers(1, 3, 6)
    # No block is partly empty, as the bound assumes.
    read_bytes = int(sizes.sum()) // 2 if sizes.sum() % 1024 == 0 else 512
    orders = [list(order) for order in permutations(range(6))]
    means = [
        naive(bits[order], sizes[order], read_bytes).sum() / (bits.sum(1) @ sizes)
        for order in orders
    ]
    assert shard_order.mean_lower_bound(bits, sizes, read_bytes) <= min(means) + 1e-12


def test_the_bound_is_met_by_codes_that_fill_their_blocks_best():
    # Three codes of weight two fit into three members: no block needs more.
    bits = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=bool)
    sizes = np.full(3, 1024)
    assert shard_order.mean_lower_bound(bits, sizes, 3072) == 1.5
    found = shard_order.measure_reading(bits, sizes, [3], 3072)
    assert found.mean(found.once) == 1.5


def test_codes_with_enough_samples_have_shards_of_their_own():
    bits = np.repeat(np.eye(3, dtype=bool), [250, 10, 1], axis=0)
    assert shard_order.shard_sizes(bits, 100) == [100, 100, 50, 10, 1]
    assert shard_order.shard_sizes(bits, 1000) == [250, 11]
    assert shard_order.shard_sizes(bits, 3000) == [261]


@pytest.mark.parametrize("per_shard", [1, 7, 64, 5000])
def test_shards_hold_all_samples_and_none_too_many(per_shard):
    bits, _ = few_codes(500)
    sizes = shard_order.shard_sizes(
        bits[shard_order.order_by_code(bits, 1024)], per_shard
    )
    assert sum(sizes) == 500
    assert 1 <= min(sizes) <= max(sizes) <= per_shard


def test_the_description_tells_means_and_extremes():
    ones = np.ones(2)
    found = Reading(4096, np.array([1, 3]), ones, 2 * ones, np.array([1.0, 3.0]), 1.0)
    text = shard_order.describe(found)
    assert "each block of 4,096 bytes once an epoch" in text
    assert text.splitlines()[3].split()[-3:] == ["2.500", "1.000", "3.000"]
