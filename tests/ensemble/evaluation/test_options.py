"""Options that make no sense are refused before anything is trained."""

import pytest

from ensemble.evaluation import EVALUATIONS
from ensemble.evaluation.options import LEAST, LOOKED_AT, Options, from_flags
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
    flags = {"name": "mine", "method": None, "subsets": None, "seeds": 5, "what": "lds"}
    assert from_flags(flags) == Options(name="mine", n_seeds=5)
    flags = {"name": "mine", "method": "trak,das", "damping": "0.1,1", "what": "lds"}
    flags["measure"] = "displacement"
    assert from_flags(flags) == Options(
        name="mine",
        methods=("trak", "das"),
        measure="displacement",
        dampings=(0.1, 1.0),
    )
    flags = {"name": "mine", "top": "2,8", "what": "deletion"}
    assert from_flags(flags) == Options(name="mine", top=(2, 8))


@pytest.mark.parametrize(("what", "flag"), [("deletion", "top"), ("lds", "damping")])
def test_lists_of_something_else_are_refused(what, flag):
    with pytest.raises(BadInput, match=f"--{flag} is 'x': numbers with commas"):
        from_flags({"name": "demo", "what": what, flag: "x"})


@pytest.mark.parametrize(
    ("what", "flag", "whose"),
    [
        ("far", "measure", "lds"),
        ("lds", "top", "deletion"),
        ("quality", "method", "lds or deletion or far"),
        ("far", "seeds", "lds or deletion or quality"),
        ("deletion", "images", "quality"),
    ],
)
def test_a_flag_that_an_evaluation_does_not_look_at_is_refused(what, flag, whose):
    wanted = f"--{flag} is for --what {whose}; {what} does not look at it"
    with pytest.raises(BadInput, match=wanted):
        from_flags({"name": "demo", "what": what, flag: "3"})


def test_every_flag_belongs_to_an_evaluation():
    flags = {option.removeprefix("n_") for option in LEAST}
    assert LOOKED_AT.keys() == flags | {"method", "measure", "top", "damping"}
    assert {what for whose in LOOKED_AT.values() for what in whose} <= set(EVALUATIONS)
