"""Every design keeps its promises, and placebos belong to no source."""

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from splits.codes import CodeBook
from splits.designs.combinadics import rank
from splits.designs.free_codes import placebos
from splits.designs.registry import DESIGNS, draw
from splits.errors import BadInput


@dataclass(frozen=True)
class Case:
    """Numbers that a design can serve, and what it promises for them.

    `survivors[r]` members are left at least after ablating any r sources; `spread` is
    the greatest difference between two splits, None where that is left to chance.
    """

    design: str
    n_sources: int
    n_members: int
    options: dict[str, Any] = field(default_factory=dict)
    weight: int | None = None
    distinct: bool = True
    spread: int | None = None
    survivors: dict[int, int] = field(default_factory=dict)
    random: bool = True


CASES = [
    Case("balanced", 30, 8, weight=4, spread=1, survivors={1: 4}),
    Case("balanced", 70, 8, weight=4, spread=1, survivors={1: 4}),
    Case("balanced", 2, 16, weight=8, spread=1, survivors={1: 8}),
    Case("balanced", 50, 9, {"weight": 3}, weight=3, spread=1, survivors={1: 6, 2: 3}),
    Case("balanced", 40, 80, weight=40, spread=1, survivors={1: 40}),
    Case("sparse", 60, 16, weight=7, spread=1, survivors={1: 9, 2: 2}),
    Case(
        "sparse",
        40,
        16,
        {"removable": 3, "survivors": 2},
        weight=4,
        spread=1,
        survivors={1: 12, 2: 8, 3: 4},
    ),
    Case("pairs_safe", 60, 12, weight=6, spread=1, survivors={1: 6, 2: 1}),
    Case("pairs_safe", 126, 10, weight=5, survivors={1: 5, 2: 1}),
    Case("pairs_safe", 3, 16, weight=8, survivors={1: 8, 2: 1}),
    Case(
        "leave_one_out", 7, 7, weight=6, spread=0, survivors={1: 1, 2: 0}, random=False
    ),
    Case(
        "partition",
        25,
        6,
        weight=1,
        distinct=False,
        spread=1,
        survivors={1: 5, 2: 4, 3: 3, 5: 1},
    ),
    Case("hybrid", 30, 11, weight=5, survivors={1: 2, 2: 1}),
    Case(
        "hybrid",
        30,
        15,
        {"removable": 3, "survivors": 2},
        weight=6,
        survivors={1: 4, 2: 3, 3: 2},
    ),
    Case("reed_solomon", 25, 25, weight=5, spread=0, survivors={1: 20, 2: 15, 3: 10}),
    Case("reed_solomon", 38, 21, weight=3, spread=1, survivors={1: 18, 2: 15, 3: 12}),
    Case("hadamard", 3, 8, weight=4, survivors={1: 4, 2: 2}),
    Case("hadamard", 4, 8, weight=4, survivors={1: 4, 2: 2}),
    Case("hadamard", 15, 16, weight=8, survivors={1: 8, 2: 4}),
    Case("hadamard", 20, 32, weight=16, survivors={1: 16, 2: 8}),
    Case("random_subsets", 21, 10, distinct=False, spread=0),
    Case(
        "product",
        40,
        16,
        {"owner_of": np.arange(40) // 5},
        weight=4,
        distinct=False,
        survivors={1: 12, 2: 8},
    ),
    Case(
        "product",
        60,
        24,
        {"owner_of": np.arange(60) % 12, "removable": 3, "survivors": 3, "weight": 3},
        weight=3,
        distinct=False,
        survivors={1: 21, 2: 18, 3: 15},
    ),
    Case("numbered", 30, 8, weight=4, survivors={1: 4}, random=False),
    Case(
        "numbered",
        40,
        90,
        {"weight": 30, "salt": "sea"},
        weight=30,
        survivors={1: 60, 2: 30},
        random=False,
    ),
    Case("named", 30, 8, weight=4, distinct=False, survivors={1: 4}, random=False),
    Case(
        "named",
        40,
        90,
        {"weight": 30, "salt": "sea", "names": [f"artist {n}" for n in range(40)]},
        weight=30,
        survivors={1: 60, 2: 30},
        random=False,
    ),
    Case(
        "rendezvous",
        30,
        16,
        {"weight": 5},
        weight=5,
        distinct=False,
        survivors={1: 11, 2: 6, 3: 1},
        random=False,
    ),
]
EVERY_CASE = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.design}-{case.n_sources}-{case.n_members}"
)


def drawn(case: Case, seed: int = 0) -> CodeBook:
    return draw(case.design, case.n_sources, case.n_members, seed=seed, **case.options)


def test_every_design_has_a_case():
    assert {case.design for case in CASES} == set(DESIGNS)


@EVERY_CASE
def test_a_book_has_a_code_for_every_source_and_a_bit_for_every_member(case: Case):
    codes = drawn(case)
    assert (codes.n_sources, codes.n_members) == (case.n_sources, case.n_members)


@EVERY_CASE
def test_no_split_is_empty(case: Case):
    for seed in range(20):
        assert drawn(case, seed).bits.any(axis=0).all()


@EVERY_CASE
def test_the_same_seed_draws_the_same_book(case: Case):
    assert drawn(case, 5).digest() == drawn(case, 5).digest()


@EVERY_CASE
def test_another_seed_draws_another_book_if_anything_is_random(case: Case):
    differ = drawn(case, 0).digest() != drawn(case, 1).digest()
    assert differ == case.random


@EVERY_CASE
def test_a_draw_leaves_the_global_generator_alone(case: Case):
    np.random.seed(0)  # noqa: NPY002 - the generator that must not be touched
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    drawn(case)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@EVERY_CASE
def test_weights_are_constant_where_promised(case: Case):
    weights = drawn(case).bits.sum(axis=1)
    if case.weight is not None:
        assert np.array_equal(weights, np.full(case.n_sources, case.weight))


@EVERY_CASE
def test_codes_are_distinct_where_promised(case: Case):
    n_distinct = len(np.unique(drawn(case).bits, axis=0))
    assert n_distinct == case.n_sources or not case.distinct


@EVERY_CASE
def test_splits_differ_by_no_more_than_promised(case: Case):
    loads = drawn(case).bits.sum(axis=0)
    if case.spread is not None:
        assert loads.max() - loads.min() <= case.spread


@EVERY_CASE
def test_any_few_sources_leave_as_many_members_as_promised(case: Case):
    bits = drawn(case).bits
    for n_ablated, least in case.survivors.items():
        survivors = [
            int((~bits[list(ablated)].any(axis=0)).sum())
            for ablated in combinations(range(case.n_sources), n_ablated)
        ]
        assert min(survivors) >= least


@EVERY_CASE
@pytest.mark.parametrize("option", ["weight", "removable", "survivors"])
def test_an_option_without_effect_is_refused(case: Case, option: str):
    if option not in DESIGNS[case.design].options:
        with pytest.raises(BadInput, match=f"splits.{option} has no effect"):
            draw(case.design, case.n_sources, case.n_members, **{option: 2})


@EVERY_CASE
def test_a_salt_without_effect_is_refused(case: Case):
    if "salt" not in DESIGNS[case.design].options:
        with pytest.raises(BadInput, match="splits.salt has no effect"):
            draw(case.design, case.n_sources, case.n_members, salt="sea")


@EVERY_CASE
def test_another_salt_draws_another_book(case: Case):
    if "salt" in DESIGNS[case.design].options:
        other = {**case.options, "salt": "another"}
        book = draw(case.design, case.n_sources, case.n_members, **other)
        assert book.digest() != drawn(case).digest()


@pytest.mark.parametrize(
    ("design", "option"),
    [
        (name, option)
        for name in DESIGNS
        for option in DESIGNS[name].options
        if option != "salt"
    ],
)
def test_an_option_below_one_is_refused(design: str, option: str):
    with pytest.raises(BadInput, match=f"splits.{option} is 0"):
        draw(design, 30, 16, **{option: 0})


def test_a_seed_names_the_same_book_for_ever():
    assert draw("balanced", 20, 8, None, 7).digest() == (
        "6835be48309ae8f58eb4fdcd0983d88febce02c27790d352557ae05776f884e3"
    )


@pytest.mark.parametrize(
    ("design", "digest"),
    [
        (
            "numbered",
            "a17da67f256187dd2ef386b6a86a0c3fcf49bb50282b7d45f680d8235750dbe7",
        ),
        ("named", "8cc9b5ceb11d154665c6d57c3e0701ba5e06325784d1d386518a1f0013c5f40c"),
        (
            "rendezvous",
            "f5c448b429a072f89514b89aff7a37863dfe4d38d1490e887b0cb973ae994117",
        ),
    ],
)
def test_a_salt_names_the_same_book_for_ever(design: str, digest: str):
    assert draw(design, 20, 8, salt="sea").digest() == digest


def test_an_unknown_design_is_answered_with_the_nearest_and_all():
    with pytest.raises(BadInput, match="hadamard.*Did you mean 'balanced'"):
        draw("balancd", 20, 8)


@pytest.mark.parametrize(("n_sources", "n_members"), [(0, 8), (8, 0)])
def test_a_book_without_sources_or_members_is_refused(n_sources: int, n_members: int):
    with pytest.raises(BadInput, match="make no code book"):
        draw("balanced", n_sources, n_members)


def test_a_negative_seed_is_refused():
    with pytest.raises(BadInput, match="seed is -1"):
        draw("balanced", 20, 8, seed=-1)


def test_half_of_an_odd_member_count_is_refused():
    with pytest.raises(BadInput, match="odd member count, 9"):
        draw("balanced", 20, 9)


def test_codes_that_all_members_see_are_refused():
    with pytest.raises(BadInput, match="it can be 1 to 7"):
        draw("balanced", 20, 8, weight=8)


def test_more_sources_than_codes_are_refused():
    with pytest.raises(BadInput, match=r"C\(8, 4\) = 70 codes"):
        draw("balanced", 71, 8)


def test_sources_that_cannot_fill_all_splits_are_refused():
    with pytest.raises(BadInput, match="cannot fill the splits of 16 members"):
        draw("balanced", 3, 16, weight=5)


@given(
    n_members=st.integers(3, 40),
    removable=st.integers(1, 6),
    survivors=st.integers(1, 6),
)
def test_sparse_codes_are_as_heavy_as_their_promise_allows(
    n_members: int, removable: int, survivors: int
):
    assume(n_members >= removable + survivors)
    options = {"removable": removable, "survivors": survivors}
    weight = int(draw("sparse", n_members, n_members, **options).bits[0].sum())
    assert removable * weight <= n_members - survivors
    assert removable * (weight + 1) > n_members - survivors


@pytest.mark.parametrize("design", ["sparse", "hybrid"])
def test_an_ensemble_too_small_for_what_is_removed_is_refused(design: str):
    with pytest.raises(BadInput, match="ask for less"):
        draw(design, 30, 8, removable=6, survivors=3)


def test_no_pairs_safe_code_is_the_complement_of_another():
    bits = draw("pairs_safe", 126, 10).bits
    both = np.concatenate([bits, ~bits])
    assert np.array_equal(np.sort(rank(both)), np.arange(252))


def test_more_sources_than_pairs_of_complements_are_refused():
    with pytest.raises(BadInput, match=r"C\(8, 4\) / 2 = 35 codes"):
        draw("pairs_safe", 36, 8)


def test_pairs_safe_refuses_an_odd_member_count():
    with pytest.raises(BadInput, match="odd member count, 9"):
        draw("pairs_safe", 20, 9)


def test_pairs_safe_refuses_sources_that_cannot_fill_all_splits():
    with pytest.raises(BadInput, match="cannot fill the splits of 16 members"):
        draw("pairs_safe", 1, 16)


def test_a_hybrid_is_a_balanced_book_beside_a_partition():
    bits = draw("hybrid", 30, 13, removable=2, survivors=2).bits
    dense, dealt = bits[:, :9], bits[:, 9:]
    assert np.array_equal(dense.sum(axis=1), np.full(30, 4))
    assert np.array_equal(dealt.sum(axis=1), np.full(30, 1))
    assert len(np.unique(dense, axis=0)) == 30
    for block in (dense, dealt):
        loads = block.sum(axis=0)
        assert loads.max() - loads.min() <= 1


@pytest.mark.parametrize(
    ("n_sources", "q", "n_blocks", "n_coefficients"),
    [(25, 5, 5, 2), (25, 5, 3, 2), (26, 5, 3, 3), (343, 7, 7, 3), (13, 13, 2, 1)],
)
def test_reed_solomon_sources_meet_in_fewer_blocks_than_coefficients(
    n_sources: int, q: int, n_blocks: int, n_coefficients: int
):
    bits = draw("reed_solomon", n_sources, q * n_blocks).bits
    in_block = bits.reshape(n_sources, n_blocks, q).sum(axis=2)
    assert np.array_equal(in_block, np.ones((n_sources, n_blocks)))
    overlap = bits.astype(int) @ bits.T.astype(int)
    np.fill_diagonal(overlap, 0)
    assert overlap.max() <= n_coefficients - 1


def test_a_full_reed_solomon_book_holds_every_pair_of_blocks_equally_often():
    bits = draw("reed_solomon", 49, 21).bits.astype(int)
    both = (bits.T @ bits).reshape(3, 7, 3, 7)
    for first, second in combinations(range(3), 2):
        assert np.array_equal(both[first, :, second], np.ones((7, 7)))


@pytest.mark.parametrize(("n_members", "near"), [(8, 9), (16, 20), (24, 25), (50, 51)])
def test_reed_solomon_names_a_number_of_members_that_fits(n_members: int, near: int):
    with pytest.raises(BadInput, match=f"{n_members} members do not fit.*as {near}"):
        draw("reed_solomon", 30, n_members)
    assert draw("reed_solomon", 17, near).n_members == near


def test_reed_solomon_refuses_more_sources_than_polynomials():
    with pytest.raises(BadInput, match=r"7\^3 = 343 codes"):
        draw("reed_solomon", 344, 21)


def test_reed_solomon_refuses_sources_that_cannot_fill_all_splits():
    with pytest.raises(BadInput, match="cannot fill the splits of 21 members"):
        draw("reed_solomon", 6, 21)


def test_leave_one_out_leaves_the_one_member_that_lacks_the_source():
    assert np.array_equal(draw("leave_one_out", 7, 7).bits, ~np.eye(7, dtype=bool))


@pytest.mark.parametrize(("n_sources", "n_members"), [(7, 8), (1, 1)])
def test_leave_one_out_needs_a_member_for_every_source(n_sources: int, n_members: int):
    with pytest.raises(BadInput, match="as many members as sources"):
        draw("leave_one_out", n_sources, n_members)


def test_partition_refuses_more_members_than_sources():
    with pytest.raises(BadInput, match="cannot be dealt out to 6 members"):
        draw("partition", 5, 6)


@pytest.mark.parametrize(("n_sources", "n_members"), [(5, 8), (15, 16), (40, 64)])
def test_two_hadamard_codes_agree_on_each_pair_of_bits_in_a_quarter_of_the_members(
    n_sources: int, n_members: int
):
    bits = draw("hadamard", n_sources, n_members, seed=3).bits
    for first, second in combinations(bits, 2):
        counts = np.bincount(2 * first + second, minlength=4)
        assert np.array_equal(counts, np.full(4, n_members // 4))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("n_sources", "n_members"), [(4, 8), (7, 8), (9, 64)])
def test_no_hadamard_member_sees_every_source_or_none(
    n_sources: int, n_members: int, seed: int
):
    loads = draw("hadamard", n_sources, n_members, seed=seed).bits.sum(axis=0)
    assert 0 < loads.min() <= loads.max() < n_sources


@pytest.mark.parametrize("n_members", [4, 8, 32])
def test_a_quarter_of_the_hadamard_members_sees_all_of_three_sources(n_members: int):
    loads = draw("hadamard", 3, n_members).bits.sum(axis=0)
    n_seeing = np.bincount(loads, minlength=4)
    assert np.array_equal(n_seeing, [0, 3 * n_members // 4, 0, n_members // 4])


@pytest.mark.parametrize("n_members", [1, 2, 12])
def test_hadamard_refuses_what_is_no_power_of_two(n_members: int):
    with pytest.raises(BadInput, match="power of two, at least 4"):
        draw("hadamard", 3, n_members)


@pytest.mark.parametrize("n_sources", [2, 16])
def test_hadamard_refuses_sources_beyond_its_rows(n_sources: int):
    with pytest.raises(BadInput, match="codes for 3 to 15 sources"):
        draw("hadamard", n_sources, 16)


OWNER_OF = np.arange(60) % 12


def test_an_owner_of_products_is_removed_at_the_price_of_his_own_code():
    bits = draw("product", 60, 24, removable=3, survivors=3, owner_of=OWNER_OF).bits
    owners = [bits[owner == OWNER_OF].any(axis=0) for owner in range(12)]
    assert max(int(code.sum()) for code in owners) <= 7
    for ablated in combinations(owners, 3):
        assert (~np.logical_or.reduce(ablated)).sum() >= 3


def test_a_member_sees_a_product_only_with_the_bit_of_its_owner_and_evenly():
    bits = draw("product", 60, 24, removable=3, survivors=3, owner_of=OWNER_OF).bits
    for owner in range(12):
        own = bits[owner == OWNER_OF]
        assert len(np.unique(own, axis=0)) == len(own)
        loads = own.sum(axis=0)[own.any(axis=0)]
        assert loads.max() - loads.min() <= 1


def test_a_product_without_owners_is_refused():
    with pytest.raises(BadInput, match="must know whose each source is"):
        draw("product", 60, 24)


def test_an_item_heavier_than_its_owner_is_refused():
    with pytest.raises(BadInput, match="weight is 8, but an owner has only 7 members"):
        draw("product", 40, 16, weight=8, owner_of=np.arange(40) // 5)


def test_an_owner_of_more_products_than_codes_is_refused():
    with pytest.raises(BadInput, match=r"each owner has C\(7, 1\) = 7 codes"):
        draw("product", 40, 16, weight=1, owner_of=np.arange(40) // 10)


@pytest.mark.parametrize("n_sources", [2, 21, 40])
def test_each_random_subset_is_half_of_the_sources(n_sources: int):
    loads = draw("random_subsets", n_sources, 10).bits.sum(axis=0)
    assert np.array_equal(loads, np.full(10, n_sources // 2))


def test_each_source_is_in_half_of_the_random_subsets_within_five_sigma():
    weights = draw("random_subsets", 100, 1000).bits.sum(axis=1)
    assert np.abs(weights - 500).max() < 5 * math.sqrt(1000 / 4)


def test_a_single_source_has_no_random_half():
    with pytest.raises(BadInput, match="cannot be halved"):
        draw("random_subsets", 1, 10)


def test_all_balanced_codes_of_a_small_space_are_drawn_when_all_are_wanted():
    bits = draw("balanced", 70, 8).bits
    assert np.array_equal(np.sort(rank(bits)), np.arange(70))


def test_balanced_codes_are_uniform_within_five_sigma():
    counts = np.zeros(20)
    for seed in range(400):
        counts += np.bincount(
            rank(draw("balanced", 10, 6, seed=seed).bits), minlength=20
        )
    assert np.abs(counts - 200).max() < 5 * math.sqrt(400 / 4)


@EVERY_CASE
def test_placebos_are_distinct_codes_of_no_source_with_the_weights_of_sources(
    case: Case,
):
    codes = drawn(case)
    found = placebos(codes, 40, seed=1)
    both = np.concatenate([np.unique(codes.bits, axis=0), found])
    assert len(np.unique(both, axis=0)) == len(both)
    assert set(found.sum(axis=1)) <= set(codes.bits.sum(axis=1))


def test_owners_without_effect_are_refused():
    with pytest.raises(BadInput, match="data.owner has no effect on the design"):
        draw("balanced", 60, 24, owner_of=OWNER_OF)
