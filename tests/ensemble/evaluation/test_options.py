"""Options that make no sense are refused before anything is trained."""

import pytest

from ensemble.evaluation.options import LEAST, Options, from_flags
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
        ({"measure": "size"}, "--measure is 'size'; allowed: loss, displacement"),
        ({"top": ()}, "--top is empty"),
        ({"dampings": (1.0, 0.0)}, "--damping has 0.0"),
        ({"dampings": (1.0, float("nan"))}, "--damping has nan"),
    ],
)
def test_other_options_out_of_range_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        Options(**changes)


def test_flags_that_are_not_given_keep_their_defaults():
    flags = {"name": "mine", "method": None, "subsets": None, "seeds": 5}
    assert from_flags(flags) == Options(name="mine", n_seeds=5)
    flags = {"name": "mine", "method": "trak,das", "top": "2,8", "damping": "0.1,1"}
    flags["measure"] = "displacement"
    assert from_flags(flags) == Options(
        name="mine",
        methods=("trak", "das"),
        measure="displacement",
        top=(2, 8),
        dampings=(0.1, 1.0),
    )


@pytest.mark.parametrize("flag", ["top", "damping"])
def test_lists_of_something_else_are_refused(flag):
    with pytest.raises(BadInput, match=f"--{flag} is 'x': numbers with commas"):
        from_flags({"name": "demo", flag: "x"})
