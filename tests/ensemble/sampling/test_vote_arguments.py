"""Whose predictions count is said in one way, and in a form that is known, or refused."""

import numpy as np
import pytest
import torch

from ensemble.sampling import vote_arguments
from splits.errors import BadInput
from splits.naming import SourceNames

NAMES = SourceNames(4, ["Eve", "Adam", "Cain", "Abel"])


@pytest.mark.parametrize(
    "votes",
    [
        [0.25, 0.75],
        np.array([[0.25, 0.75], [0.25, 0.75]]),
        torch.tensor([0.25, 0.75], requires_grad=True),
        torch.tensor([0.25, 0.75], dtype=torch.bfloat16),
    ],
    ids=repr,
)
def test_votes_come_as_rows_from_any_form(votes):
    found = vote_arguments.checked_votes(votes, 2, 2)
    assert np.array_equal(found, [[0.25, 0.75], [0.25, 0.75]])
    assert found.dtype == np.float64


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ("all", "votes is 'all'; allowed: numbers of shape"),
        ([[1], [1, 0]], "votes is .*allowed: numbers of shape"),
        ({0: 1.0}, "votes is .*allowed: numbers of shape"),
        ([True, False], "votes is .*allowed: numbers of shape"),
        ([1j, 0], "votes is .*allowed: numbers of shape"),
        (1.0, r"votes have shape \(\)"),
        ([np.nan, 1], "finite and non-negative"),
        ([np.inf, 1], "finite and non-negative"),
    ],
)
def test_votes_that_are_none_are_refused(votes, message):
    with pytest.raises(BadInput, match=message):
        vote_arguments.checked_votes(votes, 2, 2)


@pytest.mark.parametrize(
    ("ablate", "meant"),
    [
        (3, [[3], [3]]),
        ("Eve", [[0], [0]]),
        ({3, "Eve"}, [[0, 3], [0, 3]]),
        ([], [[], []]),
        ([3, 3, "Abel"], [[3], [3]]),
        ([[0], ["Adam"]], [[0], [1]]),
        ([{0, 2}, ()], [[0, 2], []]),
        (np.array([[0, 1], [2, 3]]), [[0, 1], [2, 3]]),
        (torch.tensor([1]), [[1], [1]]),
        ((range(2), []), [[0, 1], []]),
    ],
)
def test_ablated_sources_are_one_collection_or_one_for_each_image(ablate, meant):
    assert vote_arguments.ablated_sources(ablate, NAMES, 2) == meant


@pytest.mark.parametrize(
    ("ablate", "message"),
    [
        ([3, [3]], "single sources beside lists"),
        ([[3]], "1 lists for 2 images"),
        ([[[3]], [[3]]], "ablate is .*; allowed: the number or the name of a source"),
        (None, "ablate is None; allowed"),
        (3.0, "ablate is 3.0; allowed"),
        ({"Eve": 1}, "ablate is .*; allowed"),
        (np.array([True, False]), "ablate is .*; allowed"),
        (["Ever"], "Did you mean 'Eve'"),
        (4, "Source 4 does not exist"),
        ([[0], [-1]], "Source -1 does not exist"),
    ],
)
def test_what_is_no_source_is_refused(ablate, message):
    with pytest.raises(BadInput, match=message):
        vote_arguments.ablated_sources(ablate, NAMES, 2)
