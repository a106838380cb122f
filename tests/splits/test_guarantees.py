"""Promises are counted, so a naive count must find the same."""

import json
from itertools import combinations

import numpy as np
import pytest

from splits import guarantees
from splits.codes import CodeBook
from splits.designs.registry import draw
from splits.errors import BadInput
from splits.guarantees import count_guarantees, describe

BOOKS = [
    draw("balanced", 30, 8),
    draw("balanced", 60, 9, weight=4),
    draw("partition", 20, 6),
    draw("leave_one_out", 5, 5),
    draw("hadamard", 15, 16),
    draw("random_subsets", 25, 7),
]
EVERY_BOOK = pytest.mark.parametrize("codes", BOOKS)


@EVERY_BOOK
def test_promises_about_single_sources_are_those_of_a_naive_count(codes: CodeBook):
    found = count_guarantees(codes)
    weights = [int(code.sum()) for code in codes.bits]
    splits = [len(codes.split(member)) for member in range(codes.n_members)]
    survivors = [codes.n_members - weight for weight in weights]
    assert found["n_sources"] == len(weights)
    assert found["n_members"] == len(splits)
    assert (found["weight_min"], found["weight_max"]) == (min(weights), max(weights))
    assert (found["split_min"], found["split_max"]) == (min(splits), max(splits))
    assert found["split_mean"] == sum(splits) / len(splits)
    assert found["split_share"] == found["split_mean"] / len(weights)
    assert found["survivors_of_one_min"] == min(survivors)
    assert found["survivors_of_one_mean"] == pytest.approx(np.mean(survivors), 1e-12)
    assert found["never_ablated"] == survivors.count(0)
    assert found["never_trained"] == weights.count(0)


@EVERY_BOOK
def test_promises_about_pairs_are_those_of_a_naive_count(codes: CodeBook):
    found = count_guarantees(codes)
    pairs = list(combinations(codes.bits, 2))
    survivors = [int((~(first | second)).sum()) for first, second in pairs]
    distances = [int((first ^ second).sum()) for first, second in pairs]
    assert (found["pairs"], found["n_pairs"]) == ("exact", len(pairs))
    assert found["survivors_of_two_min"] == min(survivors)
    assert found["survivors_of_two_mean"] == sum(survivors) / len(pairs)
    assert found["no_survivor_of_two"] == survivors.count(0) / len(pairs)
    assert found["distance_min"] == min(distances)
    assert found["distance_mean"] == sum(distances) / len(pairs)


@EVERY_BOOK
def test_sources_that_share_a_code_are_those_of_a_naive_count(codes: CodeBook):
    listed = [tuple(code) for code in codes.bits.tolist()]
    shared = [code for code in listed if listed.count(code) > 1]
    assert count_guarantees(codes)["sources_sharing_a_code"] == len(shared)


@EVERY_BOOK
def test_promises_survive_json(codes: CodeBook):
    found = count_guarantees(codes)
    assert json.loads(json.dumps(found)) == found


def test_capacity_counts_the_codes_of_the_one_weight():
    assert count_guarantees(draw("balanced", 30, 8))["capacity"] == 70
    assert count_guarantees(BOOKS[-1])["capacity"] is None


def test_a_source_that_all_members_see_is_never_ablated():
    codes = CodeBook(np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=bool))
    found = count_guarantees(codes)
    assert found["never_ablated"] == 1
    assert found["survivors_of_one_min"] == 0
    assert found["no_survivor_of_two"] == 2 / 3


def test_pairs_of_many_sources_are_sampled_and_say_so(monkeypatch: pytest.MonkeyPatch):
    codes = draw("balanced", 600, 16)
    exact = count_guarantees(codes)
    monkeypatch.setattr(guarantees, "MOST_COMPARED", 300)
    sampled = count_guarantees(codes)
    assert (sampled["pairs"], sampled["n_pairs"]) == ("sampled", 300 * 299 // 2)
    assert sampled == count_guarantees(codes)
    # The band is five standard errors of a mean over 300 independent sources, each
    # pair's distance having the standard deviation of a hypergeometric variable.
    assert sampled["distance_mean"] == pytest.approx(
        exact["distance_mean"], abs=5 * 2 / np.sqrt(300)
    )
    for name in ("weight_min", "split_min", "survivors_of_one_mean", "capacity"):
        assert sampled[name] == exact[name]


def test_blocks_do_not_change_a_count(monkeypatch: pytest.MonkeyPatch):
    whole = count_guarantees(BOOKS[0])
    monkeypatch.setattr(guarantees, "_BLOCK", 7)
    assert count_guarantees(BOOKS[0]) == whole


def test_one_source_has_no_pairs_to_promise_about():
    with pytest.raises(BadInput, match="1 source promises nothing"):
        count_guarantees(CodeBook(np.ones((1, 3), dtype=bool)))


def test_the_description_names_every_number_once_and_says_how_it_was_found():
    lines = describe(count_guarantees(draw("balanced", 30, 8))).splitlines()
    assert lines[0].split() == ["sources", "30", "exact"]
    assert lines[3].split() == ["codes", "of", "that", "weight", "70", "exact"]
    assert len({line.split("  ")[0] for line in lines}) == len(lines)
    assert sum(line.endswith("exact, 435 pairs") for line in lines) == 3


def test_the_columns_of_a_description_are_aligned():
    lines = describe(count_guarantees(BOOKS[-1])).splitlines()
    starts = {line.index(line.split("  ")[-1].strip(), 40) for line in lines}
    assert len(starts) == 1


def test_a_range_of_weights_is_described_as_a_range():
    text = describe(count_guarantees(BOOKS[-1]))
    weights = BOOKS[-1].bits.sum(axis=1)
    assert f"{weights.min()} to {weights.max()}" in text
    assert "several weights" in text


def test_a_sampled_number_is_described_as_sampled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guarantees, "MOST_COMPARED", 10)
    assert describe(count_guarantees(BOOKS[0])).count("sampled, 45 pairs") == 3
