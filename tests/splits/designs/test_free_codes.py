"""Placebos belong to no source, and each free code is as likely as any other."""

import math

import numpy as np
import pytest

from splits.designs.combinadics import rank
from splits.designs.free_codes import placebos
from splits.designs.registry import draw
from splits.errors import BadInput


def test_placebos_follow_their_seed():
    codes = draw("balanced", 20, 10)
    assert np.array_equal(placebos(codes, 50, 1), placebos(codes, 50, 1))
    assert not np.array_equal(placebos(codes, 50, 1), placebos(codes, 50, 2))


@pytest.mark.parametrize(("n_sources", "n_members"), [(20, 10), (100, 64), (30, 90)])
def test_as_many_placebos_are_drawn_as_wanted_where_codes_abound(
    n_sources: int, n_members: int
):
    codes = draw("balanced", n_sources, n_members)
    assert placebos(codes, 100, 0).shape == (100, n_members)


@pytest.mark.parametrize("n_sources", [2, 40, 69])
def test_placebos_and_sources_exhaust_a_small_code_space(n_sources: int):
    codes = draw("balanced", n_sources, 8)
    ranks = np.append(rank(codes.bits), rank(placebos(codes, 1000, 0)))
    assert np.array_equal(np.sort(ranks), np.arange(70))


def test_a_full_code_space_leaves_no_placebo():
    assert placebos(draw("balanced", 70, 8), 10, 0).shape == (0, 8)


def test_each_free_code_is_an_equally_likely_placebo_within_five_sigma():
    codes = draw("balanced", 10, 6)
    counts = np.zeros(20)
    for seed in range(1000):
        counts += np.bincount(rank(placebos(codes, 5, seed)), minlength=20)
    assert (counts[rank(codes.bits)] == 0).all()
    free = np.delete(counts, rank(codes.bits))
    assert np.abs(free - 500).max() < 5 * math.sqrt(1000 / 4)


def test_weights_of_placebos_are_in_proportion_to_those_wanted():
    codes = draw("balanced", 20, 16)
    found = placebos(codes, 60, 0, weights=[12, 10, 12])
    assert np.array_equal(np.bincount(found.sum(axis=1))[10:], [20, 0, 40])


def test_wanting_no_weights_or_no_placebos_gives_none():
    codes = draw("balanced", 20, 8)
    assert placebos(codes, 10, 0, weights=[]).shape == (0, 8)
    assert placebos(codes, 0, 0).shape == (0, 8)


def test_a_weight_that_no_code_has_is_refused():
    with pytest.raises(BadInput, match="No code has weight 9"):
        placebos(draw("balanced", 20, 8), 10, 0, weights=[4, 9])


def test_a_negative_number_of_placebos_is_refused():
    with pytest.raises(BadInput, match="-1 placebos"):
        placebos(draw("balanced", 20, 8), -1, 0)
