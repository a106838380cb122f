"""Matched codes are all codes of a weight and an overlap, and say who is told apart."""

import itertools
import math

import numpy as np
import pytest

from splits.designs import placebos
from splits.designs.balancing import balance_loads
from splits.designs.registry import draw


def every(n_members, weight):
    chosen = itertools.combinations(range(n_members), weight)
    return np.array([np.isin(range(n_members), some) for some in chosen])


def naive(code, other):
    """All codes of the same weight and overlap, by looking at all codes."""
    there = every(len(code), int(code.sum()))
    return there[(there & other).sum(axis=1) == (code & other).sum()]


def some_codes(n_members, weights, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.arange(n_members) < weight) for weight in weights]


@pytest.mark.parametrize("weights", [(3, 3), (2, 5), (4, 1), (3, 0), (3, 7)])
def test_matched_codes_are_those_that_a_search_finds(weights):
    for seed in range(5):
        code, other = some_codes(7, weights, seed)
        found, complete = placebos.draw_matched(
            code, other, 1000, np.random.default_rng(0)
        )
        assert complete
        assert placebos.n_matched(code, other) == len(found)
        by_hand = naive(code, other)
        assert np.array_equal(np.unique(found, axis=0), np.unique(by_hand, axis=0))


def test_a_sample_holds_the_code_and_every_matched_code_equally_often():
    code, other = some_codes(7, (3, 4))
    n = 20_000
    population = naive(code, other)
    assert len(population) > 10
    found, complete = placebos.draw_matched(code, other, 10, np.random.default_rng(0))
    assert not complete
    assert np.array_equal(found[0], code)
    rng = np.random.default_rng(1)
    drawn = np.concatenate(
        [placebos.draw_matched(code, other, 10, rng)[0][1:] for _ in range(n)]
    )
    distinct, counts = np.unique(drawn, axis=0, return_counts=True)
    assert np.array_equal(distinct, np.unique(population, axis=0))
    expected = len(drawn) / len(population)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_the_smallest_p_is_the_number_of_sources_over_that_of_matched_codes():
    bits = draw("balanced", 5, 8).bits
    p = placebos.smallest_p(bits)
    for one, other in itertools.permutations(range(5), 2):
        expected = min(1, 5 / len(naive(bits[one], bits[other])))
        assert p[one, other] == pytest.approx(expected)
    assert not p.diagonal().any()


def test_equal_codes_and_complements_are_inseparable():
    half = np.arange(16) < 8
    apart = np.arange(16) % 2 == 0
    assert placebos.inseparable(np.array([half, ~half])) == [(0, 1)]
    assert placebos.inseparable(np.array([half, half, apart])) == [(0, 1)]
    assert placebos.inseparable(np.array([half, apart])) == []
    assert placebos.n_separable(np.array([half, half, apart])) == 1


def balanced_as_drawn_first(n_sources, n_members, seed):
    """What version 0.1 drew: level splits, and nothing else."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(n_members) < n_members // 2 for _ in range(n_sources)]
    return balance_loads(np.array(rows), rng, lambda code: code)


@pytest.mark.parametrize("n_sources", [3, 4, 6, 8, 10, 12, 16])
@pytest.mark.parametrize("design", ["balanced", "pairs_safe"])
def test_few_sources_are_told_apart(design, n_sources):
    for seed in range(10):
        book = draw(design, n_sources, 16, seed=seed)
        assert placebos.inseparable(book.bits) == []


def test_even_splits_of_few_sources_are_often_inseparable_as_drawn_first():
    found = [
        bool(placebos.inseparable(balanced_as_drawn_first(4, 16, seed)))
        for seed in range(50)
    ]
    assert sum(found) >= 5


def test_a_book_that_separates_its_sources_is_drawn_once():
    calls = []

    def drawn():
        calls.append(balanced_as_drawn_first(16, 32, len(calls)))
        return calls[-1]

    assert placebos.draw_separable(drawn) is calls[0]
    assert len(calls) == 1


@pytest.mark.parametrize(("n_sources", "n_members"), [(17, 16), (4, 6), (1, 8)])
def test_books_that_cannot_be_mended_are_drawn_once(n_sources, n_members):
    calls = []

    def drawn():
        calls.append(balanced_as_drawn_first(n_sources, n_members, len(calls)))
        return calls[-1]

    assert placebos.draw_separable(drawn) is calls[0]
    assert len(calls) == 1


def test_of_several_books_the_one_with_the_most_matched_codes_stands():
    half = np.arange(12) < 6
    near = np.array([half, np.roll(half, 5)])
    apart = np.array([half, np.arange(12) % 2 == 0])
    assert [len(placebos.inseparable(book)) for book in (near, apart)] == [1, 0]
    books = iter([np.array([half, ~half]), near, apart])
    assert placebos.draw_separable(lambda: next(books)) is apart


@pytest.mark.parametrize(
    ("design", "n_sources", "n_members", "digest"),
    [
        ("balanced", 16, 32, "55e51c770e"),
        ("balanced", 10, 16, "bc7ed615d9"),
        ("balanced", 4, 6, "efc626e022"),
        ("balanced", 16, 12, "0102384d5d"),
        ("balanced", 64, 64, "aab2d25a4f"),
        ("sparse", 8, 16, "ef5784b4e1"),
    ],
)
def test_books_that_were_right_are_those_of_version_0_1(
    design, n_sources, n_members, digest
):
    assert draw(design, n_sources, n_members).digest().startswith(digest)


def test_a_plan_says_what_its_codes_allow():
    first, last = placebos.describe(draw("balanced", 16, 32).bits)
    assert "16 of 16 sources can reach p <= 0.05" in first
    assert "hardly more than 32" in first
    assert "with n pictures, p times n" in last
    two = "\n".join(placebos.describe(draw("balanced", 2, 16).bits))
    assert "0 of 2 sources can reach" in two
    assert "1 pairs of sources" in two
    assert "0 and 1" in two
    assert "splits.weight=12 tells them apart" in two
    assert not placebos.inseparable(draw("balanced", 2, 16, weight=12).bits)
    half = np.arange(16) < 8
    alike = np.array([half] * 4 + [np.arange(16) % 2 == 0])
    assert ", ..." in "\n".join(placebos.describe(alike))
    assert "another splits.seed" in "\n".join(placebos.describe(alike))
    assert placebos.describe(np.ones((1, 4), dtype=bool)) == []


def test_the_formula_is_a_product_of_binomials():
    code, other = some_codes(20, (10, 8))
    shared = int((code & other).sum())
    expected = math.comb(8, shared) * math.comb(12, 10 - shared)
    assert placebos.n_matched(code, other) == expected


def test_even_splits_make_codes_dependent_and_hadamard_codes_are_not():
    even, orthogonal = draw("balanced", 4, 32).bits, draw("hadamard", 4, 32).bits
    assert placebos.dependent(even)
    assert not placebos.dependent(orthogonal)
    assert "splits.design=hadamard has no such" in "\n".join(placebos.describe(even))
    assert "splits are even" not in "\n".join(placebos.describe(orthogonal))
    # With as many as this, no code shows much of what all the others do.
    assert placebos.dependent(draw("balanced", 16, 32).bits)
    assert "splits are even" not in "\n".join(
        placebos.describe(draw("balanced", 16, 32).bits)
    )
