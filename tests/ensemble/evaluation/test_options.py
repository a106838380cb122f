"""Options that make no sense are refused before anything is trained."""

import pytest

from ensemble.evaluation.options import LEAST, Options
from splits.errors import BadInput


@pytest.mark.parametrize("option", LEAST)
def test_numbers_that_are_too_small_are_refused(option):
    Options(**{option: LEAST[option]})
    flag = option.removeprefix("n_")
    with pytest.raises(BadInput, match=f"--{flag} is {LEAST[option] - 1}"):
        Options(**{option: LEAST[option] - 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top": (4, 0)}, "--top is 4,0"),
        ({"top": ()}, "--top is empty"),
        ({"dampings": (1.0, 0.0)}, "--damping has 0.0"),
    ],
)
def test_other_options_out_of_range_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        Options(**changes)
