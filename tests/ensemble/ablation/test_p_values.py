"""Whoever stands out is compared with codes that overlap with others as his does."""

import itertools

import numpy as np
import pytest

from ensemble.ablation import p_values, placebo
from ensemble.ablation.p_values import Others
from ensemble.ablation.removal_sets import Units, votes_without
from splits.codes import CodeBook
from splits.designs import free_codes, registry

TAU = 0.05


def moved(effects, bits, noise=0.0, seed=0):
    """G of one picture that is linear in the votes: members add up their sources."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(64, len(bits)))
    directions /= np.linalg.norm(directions, axis=0)
    members = (directions * effects) @ bits
    members = members + noise * rng.normal(size=members.shape)
    return members.T @ members


def among_sources(bits):
    names = [str(source) for source in range(len(bits))]
    units = Units(bits, [[source] for source in range(len(bits))], names, "sources")
    return p_values.others(units, CodeBook(bits), names)


def alone(gram, bits, n_placebos=None, seed=0):
    book = CodeBook(bits)
    n = placebo.enough(len(bits)) if n_placebos is None else n_placebos
    drawn = free_codes.placebos(book, n, seed)
    own, others = (
        np.sqrt(p_values.squared(gram, codes))[None].round(9) for codes in (bits, drawn)
    )
    return placebo.p_values(own, others, bits.sum(axis=1), drawn.sum(axis=1))


def test_squared_displacement_is_the_quadratic_form():
    bits = registry.draw("balanced", 5, 8).bits
    gram = moved(np.ones(5), bits)
    changes = votes_without(bits) - 1 / 8
    by_hand = [change @ gram @ change for change in changes]
    np.testing.assert_allclose(p_values.squared(gram, bits), by_hand)
    assert p_values.squared(gram, bits[:0]).shape == (0,)


def test_beside_another_source_p_is_the_rank_among_all_matched_codes():
    """The naive twin: every code of the weight, and a loop."""
    rng = np.random.default_rng(0)
    bits = registry.draw("balanced", 4, 8).bits
    gram = moved(np.ones(4), bits, noise=0.3)
    code, other = bits[0], bits[1]
    n_matched = n_as_far = 0
    own = p_values.squared(gram, code[None])[0]
    for chosen in itertools.combinations(range(8), 4):
        candidate = np.isin(range(8), chosen)
        if (candidate & other).sum() == (code & other).sum():
            n_matched += 1
            n_as_far += p_values.squared(gram, candidate[None])[0] >= own - 1e-12
    p = p_values.p_beside(gram, code, other, 1, rng)
    assert p == pytest.approx(n_as_far / n_matched)
    corrected = p_values.p_beside(gram, code, other, 4, rng)
    assert corrected == pytest.approx(min(1, 4 * p))


def test_under_the_null_p_is_uniform_whatever_the_other_source_does():
    """Exchangeability, counted: members in every order that keeps the other's code.

    The unit has no effect, the other one has; permuting the members that the other's
    code does not tell apart gives, over all permutations, each rank equally often.
    """
    other, code = np.array([1, 1, 1, 0, 0, 0], bool), np.array([1, 0, 0, 1, 1, 0], bool)
    rng = np.random.default_rng(0)
    members = rng.normal(size=(5, 6)) + 3 * rng.normal(size=(5, 1)) * other
    found = []
    for first in itertools.permutations(range(3)):
        for second in itertools.permutations(range(3, 6)):
            shown = members[:, [*first, *second]]
            found.append(p_values.p_beside(shown.T @ shown, code, other, 1, rng))
    ranks, counts = np.unique(np.round(found, 9), return_counts=True)
    np.testing.assert_allclose(ranks, np.arange(1, 10) / 9)
    assert counts.tolist() == [4] * 9


def test_an_innocent_that_is_taken_along_is_not_named():
    """Nearly complements: the source with an effect is named, the other one is not."""
    first = np.arange(16) < 8
    second = np.roll(first, 7)
    third = np.arange(16) % 2 == 0
    bits = np.array([first, second, third, ~third])
    gram = moved(np.array([1.0, 0, 0, 0]), bits)
    p = np.array([[0.01, 0.02, 0.9, 0.9]])
    found, doubts = p_values.p_values(p, gram[None], among_sources(bits), 0)
    assert found[0, 1] == 1
    assert found[0, 2:].tolist() == [0.9, 0.9]
    innocent = next(doubt for doubt in doubts if doubt.unit == 1)
    assert (innocent.query, innocent.others) == (0, (0,))
    assert (innocent.p_alone, innocent.p_beside) == (0.02, 1)


@pytest.mark.parametrize("twin", ["same", "complement"])
def test_sources_that_nothing_tells_apart_are_both_in_doubt(twin):
    first = np.arange(16) < 8
    even = np.arange(16) % 2 == 0
    bits = np.array([first, first if twin == "same" else ~first])
    bits = np.concatenate([bits, [even, ~even]])
    gram = moved(np.array([1.0, 0, 0, 0]), bits)
    p = np.array([[0.01, 0.01, 0.9, 0.9]])
    found, doubts = p_values.p_values(p, gram[None], among_sources(bits), 0)
    assert found[0].tolist() == [1, 1, 0.9, 0.9]
    assert [(d.unit, d.others, d.inseparable) for d in doubts] == [
        (0, (1,), True),
        (1, (0,), True),
    ]
    facts = p_values.facts(doubts, among_sources(bits))
    sentence = facts["doubts"][0]["sentence"]
    assert "one of source 0 and source 1 displaces" in sentence
    assert "neither is named" in sentence


def test_one_that_does_not_matter_itself_explains_nobody():
    first = np.arange(16) < 8
    bits = np.array([first, ~first, np.arange(16) % 2 == 0])
    gram = moved(np.array([1.0, 0, 0]), bits)
    p = np.array([[0.01, p_values.MAY_MATTER, 0.9]])
    found, doubts = p_values.p_values(p, gram[None], among_sources(bits), 0)
    assert np.array_equal(found, p)
    assert doubts == []


def test_where_nobody_stands_out_the_p_values_stay():
    bits = registry.draw("balanced", 8, 16).bits
    p = np.full((2, 8), 0.051)
    gram = np.zeros((2, 16, 16))
    found, doubts = p_values.p_values(p, gram, among_sources(bits), 0)
    assert np.array_equal(found, p)
    assert doubts == []


def test_the_same_seed_gives_the_same_p_values():
    bits = registry.draw("balanced", 8, 32).bits
    gram = moved(np.array([1.0, 0.9, *[0] * 6]), bits, noise=0.1)[None]
    p = np.array([[0.01, 0.01, *[0.4] * 6]])
    first, again, other = (
        p_values.p_values(p, gram, among_sources(bits), seed)[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert first.shape == other.shape


def test_groups_are_compared_with_sources_outside_them():
    """A group whose code nearly contains a single source's complement is taken along."""
    first = np.arange(16) < 8
    quarter = np.arange(16) >= 12
    bits = np.array([first, ~first & ~quarter, quarter, np.arange(16) % 2 == 0])
    book = CodeBook(bits)
    group = Units(bits[[1]] | bits[[2]], [[1, 2]], ["the pair"], "groups")
    among = p_values.others(group, book, ["a", "b", "c", "d"])
    assert among.beside(0).tolist() == [1, 4]
    gram = moved(np.array([1.0, 0, 0, 0]), bits)
    found, doubts = p_values.p_values(np.array([[0.01]]), gram[None], among, 0)
    assert found[0, 0] == 1
    sentence = p_values.facts(doubts, among)["doubts"][0]["sentence"]
    assert "one of the pair and source 0 (a)" in sentence


def test_whoever_shares_a_source_or_was_seen_by_nobody_explains_nothing():
    silenced = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    among = Others(silenced, [[0, 1], [0], [2], [3]], list("abcd"), 4)
    assert among.beside(0).tolist() == [2]
    assert among.beside(2).tolist() == [0, 1]


def test_a_promise_says_what_p_means():
    one = p_values.facts([], among_sources(registry.draw("hadamard", 3, 8).bits))
    assert "among the 3 that were tested" in one["p_sentence"]
    assert "If several matter, this holds where effects add up" in one["p_sentence"]
    assert one["doubts"] == []


@pytest.mark.parametrize(("design", "n_sources"), [("balanced", 3), ("hadamard", 4)])
def test_one_true_source_is_named_and_nobody_else(design, n_sources):
    accused = named = 0
    for seed in range(60):
        bits = registry.draw(design, n_sources, 16, seed=seed).bits
        effects = np.eye(n_sources)[seed % n_sources]
        gram = moved(effects, bits, noise=0.03, seed=seed)
        p = alone(gram, bits, seed=seed)
        found = p_values.p_values(p, gram[None], among_sources(bits), seed)[0][0]
        accused += bool(((found <= TAU) & (effects == 0)).any())
        named += bool(found[effects == 1] <= TAU)
    # 0.05 of 60 and three standard deviations; before, 12 of 60 with three sources.
    assert accused <= 8
    assert named >= 50


def test_what_others_explain_together_is_nobodys_own():
    """Even splits: a code that follows from the others' adds nothing of its own."""
    bits = registry.draw("balanced", 4, 32).bits
    assert np.array_equal(bits.sum(axis=0), np.full(32, 2))
    gram = moved(np.array([1.0, 1, 1, 0]), bits, noise=0.05)
    rng = np.random.default_rng(0)
    assert p_values.p_jointly(gram, bits[3], bits[:3], 4, rng) == 1
    p = np.array([[0.01, 0.01, 0.01, 0.01]])
    found, doubts = p_values.p_values(p, gram[None], among_sources(bits), 0)
    assert (found[0] == 1).all()
    last = next(doubt for doubt in doubts if doubt.unit == 3)
    assert sorted(last.others) == [0, 1, 2]
    sentence = p_values.facts(doubts, among_sources(bits))["doubts"][-1]["sentence"]
    assert "may add to it together explains that" in sentence


def test_without_noise_nothing_is_left_of_what_others_explain():
    bits = registry.draw("hadamard", 5, 16).bits
    gram = moved(np.array([1.0, 1, 0, 0, 0]), bits)
    rng = np.random.default_rng(0)
    innocent, true = (
        p_values.p_jointly(gram, bits[unit], bits[beside], 5, rng)
        for unit, beside in ((2, [0, 1]), (0, [1, 2]))
    )
    assert innocent == 1
    assert true <= 5 / 2000 * 40


def test_jointly_p_is_uniform_where_a_unit_adds_nothing():
    """Members differ by what others add and normal noise: count over 400 draws."""
    bits = registry.draw("balanced", 6, 16).bits
    found = []
    for seed in range(400):
        gram = moved(np.array([3.0, 2, 0, 0, 0, 0]), bits, noise=1.0, seed=seed)
        rng = np.random.default_rng(seed)
        found.append(p_values.p_jointly(gram, bits[2], bits[:2], 1, rng))
    for level in (0.05, 0.2, 0.5):
        expected = 400 * level
        spread = 4 * np.sqrt(expected * (1 - level))
        assert abs(np.sum(np.array(found) <= level) - expected) < spread


def test_several_true_sources_of_hadamard_codes_are_named():
    named = accused = 0
    for seed in range(30):
        bits = registry.draw("hadamard", 6, 32, seed=seed).bits
        effects = np.array([1.0, 1, 1, 0, 0, 0])
        gram = moved(effects, bits, noise=0.05, seed=seed)
        p = alone(gram, bits, seed=seed)
        found = p_values.p_values(p, gram[None], among_sources(bits), seed)[0][0]
        named += int((found[:3] <= TAU).sum())
        accused += bool((found[3:] <= TAU).any())
    assert named >= 75
    assert accused <= 5
