"""Growth: no bit of an old code changes, and new codes are what the design promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splits.designs import registry
from splits.errors import BadInput
from splits.growth import extend

NAMES = [f"source {number}" for number in range(70)]


def draw_by(design, **options):
    return lambda names, n_members: registry.draw(
        design, len(names), n_members, names=names, **options
    )


def grown(design, n_old, n_new, n_members=8, joining=0, **options):
    draw = draw_by(design, **options)
    old, new = NAMES[:n_old], NAMES[n_old : n_old + n_new]
    before = draw(old, n_members).bits
    return before, extend(before, old, new, n_members + joining, draw).bits


@given(
    design=st.sampled_from(["balanced", "pairs_safe", "numbered", "partition"]),
    n_old=st.integers(12, 20),
    n_new=st.integers(8, 14),
    joining=st.sampled_from([0, 8]),
    seed=st.integers(0, 50),
)
def test_old_codes_keep_every_bit(design, n_old, n_new, joining, seed):
    before, bits = grown(design, n_old, n_new, joining=joining, seed=seed)
    np.testing.assert_array_equal(bits[:n_old, :8], before)
    assert bits.shape == (n_old + n_new, 8 + joining)


@given(n_new=st.integers(0, 50), seed=st.integers(0, 50))
def test_new_codes_are_distinct_from_old_ones_and_have_their_weight(n_new, seed):
    _, bits = grown("balanced", 20, min(n_new, 40), seed=seed)
    assert len(np.unique(bits, axis=0)) == len(bits)
    assert set(bits.sum(axis=1)) == {4}


def test_all_codes_of_a_weight_can_be_used_up():
    before, bits = grown("balanced", 12, 58, n_members=8)
    assert len(np.unique(bits, axis=0)) == 70
    np.testing.assert_array_equal(bits[:12], before)


@pytest.mark.parametrize("design", ["named", "rendezvous"])
def test_codes_that_follow_from_names_are_those_of_one_run_on_all(design):
    _, bits = grown(design, 12, 10, salt="secret")
    whole = draw_by(design, salt="secret")(NAMES[:22], 8).bits
    np.testing.assert_array_equal(bits, whole)


def test_codes_that_follow_from_numbers_are_those_of_one_run_on_all():
    _, bits = grown("numbered", 12, 10, salt="secret")
    whole = draw_by("numbered", salt="secret")(NAMES[:22], 8).bits
    np.testing.assert_array_equal(bits, whole)


def test_members_that_were_there_see_nothing_new_when_others_join():
    _, bits = grown("balanced", 12, 10, joining=8)
    assert not bits[12:, :8].any()
    assert set(bits[:, 8:].sum(axis=1)) == {4}


def test_members_cannot_become_fewer():
    draw = draw_by("balanced")
    before = draw(NAMES[:12], 8).bits
    with pytest.raises(BadInput, match="is 6, but the run that is extended has 8 mem"):
        extend(before, NAMES[:12], NAMES[12:14], 6, draw)
