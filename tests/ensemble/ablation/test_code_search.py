"""Scanning finds what judging every code by itself, and sorting, finds."""

import numpy as np
import pytest

from ensemble.ablation import code_search, first_order
from ensemble.ablation.removal_sets import votes_without
from splits.designs import keyed
from splits.errors import BadInput


def gram_of(n_members, n_queries=2, rank=None, seed=0):
    rng = np.random.default_rng(seed)
    jacobian = rng.normal(size=(n_queries, rank or 2 * n_members, n_members))
    return jacobian.transpose(0, 2, 1) @ jacobian / jacobian.shape[1]


def bits_of(n_codes, n_members, seed=1):
    """Codes of several weights, none of which silences everybody."""
    bits = np.random.default_rng(seed).random((n_codes, n_members)) < 0.5
    bits[:, 0] = False
    return bits


def in_turn(gram, bits, n_top):
    """The naive twin: every displacement in 64 bits, sorted."""
    displacement = first_order.displacement(gram, votes_without(bits))
    # Equal codes must be equal before they can be told apart by their place.
    order = np.argsort(-displacement.round(12), axis=1, kind="stable")[:, :n_top]
    return order, np.take_along_axis(displacement, order, axis=1)


@pytest.mark.parametrize("n_members", [3, 8, 11, 16, 40, 64, 70])
@pytest.mark.parametrize("rank", [1, None])
def test_the_top_codes_are_those_of_the_naive_twin(n_members, rank):
    gram, bits = gram_of(n_members, rank=rank), bits_of(3000, n_members)
    found = code_search.top_codes(
        gram, code_search.stored(bits, 700), n_top=20, n_threads=2
    )
    sources, displacement = in_turn(gram, bits, 20)
    np.testing.assert_allclose(found.displacement, displacement, rtol=1e-9)
    assert np.array_equal(found.sources, sources)
    assert found.n_codes == 3000
    assert found.counts.sum(axis=1).tolist() == [3000, 3000]


@pytest.mark.parametrize("n_members", [11, 64])
def test_bits_bytes_files_functions_and_blocks_are_the_same_codes(tmp_path, n_members):
    gram, bits = gram_of(n_members, 1), bits_of(1000, n_members)
    packed = np.packbits(bits, axis=1, bitorder="little")
    np.save(tmp_path / "codes.npy", bits)
    streams = [
        [bits],
        [packed],
        (bits[first : first + 10] for first in range(0, 1000, 10)),
        [lambda: packed[:300], bits[300:]],
        code_search.stored(np.load(tmp_path / "codes.npy", mmap_mode="r"), 64),
        code_search.stored(packed, 999),
    ]
    expected, _ = in_turn(gram, bits, 7)
    for stream in streams:
        found = code_search.top_codes(gram, stream, n_top=7, n_threads=1)
        assert np.array_equal(found.sources, expected)


def test_numbered_sources_are_found_without_a_book():
    gram = gram_of(24, 1)
    bits = keyed.numbered_codes(np.arange(5000), 24, 12, "salt")
    found = code_search.top_codes(
        gram, code_search.numbered(5000, 24, 12, "salt", size=512), 5
    )
    sources, displacement = in_turn(gram, bits, 5)
    assert np.array_equal(found.sources, sources)
    np.testing.assert_allclose(found.displacement, displacement, rtol=1e-9)


def test_of_equal_codes_the_earlier_come_first_whatever_the_threads():
    gram = gram_of(6, 1)
    bits = np.tile(bits_of(50, 6), (40, 1))
    stream = [code_search.stored(bits, size) for size in (7, 100, 2000)]
    scans = [
        code_search.top_codes(gram, blocks, 300, n_threads)
        for blocks, n_threads in zip(stream, (1, 2, 3), strict=True)
    ]
    for found in scans:
        assert np.array_equal(found.sources, scans[0].sources)
        assert np.array_equal(found.displacement, scans[0].displacement)
    equal = np.diff(scans[0].displacement[0]) == 0
    assert equal.any()
    assert (np.diff(scans[0].sources[0])[equal] > 0).all()


def test_fewer_codes_than_asked_for_are_all_returned():
    gram, bits = gram_of(8, 1), bits_of(5, 8)
    found = code_search.top_codes(gram, [bits], n_top=100)
    assert sorted(found.sources[0].tolist()) == [0, 1, 2, 3, 4]


def test_equal_displacements_of_all_codes_are_no_obstacle():
    blocks = code_search.numbered(3000, 16, 8, "salt", size=500)
    found = code_search.top_codes(np.eye(16)[None], blocks, n_top=3)
    np.testing.assert_allclose(found.displacement, 1 / 4, rtol=1e-12)
    assert found.sources.tolist() == [[0, 1, 2]]
    nothing = code_search.top_codes(np.zeros((1, 16, 16)), [bits_of(9, 16)], n_top=2)
    assert nothing.displacement.tolist() == [[0, 0]]


def test_quantiles_are_those_of_all_displacements_to_within_a_bin():
    gram, bits = gram_of(32), bits_of(20_000, 32)
    found = code_search.top_codes(gram, code_search.stored(bits, 4096), n_top=1)
    displacement = first_order.displacement(gram, votes_without(bits))
    for share in (0.01, 0.5, 0.95, 1.0):
        expected = np.quantile(displacement, share, axis=1, method="inverted_cdf")
        error = np.abs(found.quantile(share) - expected)
        assert (error <= found.widest / code_search.N_BINS * 1.01).all()


def test_no_code_displaces_more_than_the_widest():
    gram = gram_of(9, rank=1)
    every_code = np.arange(2**9 - 1, dtype="<u2").view(np.uint8).reshape(-1, 2)
    found = code_search.top_codes(gram, [every_code], n_top=1)
    assert (found.displacement[:, 0] <= found.widest).all()


def test_what_cannot_be_scanned_is_refused():
    gram = gram_of(11, 1)
    with pytest.raises(BadInput, match="ask for 1 or more"):
        code_search.top_codes(gram, [bits_of(4, 11)], n_top=0)
    with pytest.raises(BadInput, match="no codes to scan"):
        code_search.top_codes(gram, [])
    with pytest.raises(BadInput, match=r"bool \(codes, 11\) is wanted, or uint8"):
        code_search.top_codes(gram, [bits_of(4, 12)])
    with pytest.raises(BadInput, match="not of 11 members"):
        code_search.top_codes(gram, [np.zeros((4, 3), np.uint8)])
    with pytest.raises(BadInput, match="none of the members is left to vote"):
        code_search.top_codes(gram, [np.ones((1, 11), bool)])
