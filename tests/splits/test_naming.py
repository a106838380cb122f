"""Numbers and names of sources are never mixed up."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splits import naming
from splits.errors import BadInput
from splits.naming import SourceNames

PEOPLE = SourceNames(5, ["Eve", "Adam", "Smith, John", "Smith", "Eve; Adam"])
SHARED = dataclasses.replace(
    PEOPLE, owners={"Eve": [0, 4], "Adam": [1, 4], "Smith": [3], "Cain": [2]}
)
# Artists called by numbers, in numeric order: number 1 is called 3.
NUMBERS = SourceNames(4, ["1", "3", "7", "12"])
DIGITS = SourceNames(3, ["0", "1", "2"])


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (3, [3]),
        (np.int64(3), [3]),
        ("3", [3]),
        (" 3 ", [3]),
        ("number:3", [3]),
        ("Smith, John", [2]),
        ("name:Eve", [0]),
        ({4, 1, "Eve"}, [0, 1, 4]),
        (("Adam", 1, "1"), [1]),
        (range(2), [0, 1]),
        (np.array([2, 0]), [0, 2]),
        (np.array(["Eve", "Adam"]), [0, 1]),
        ([], []),
    ],
)
def test_a_source_goes_by_its_number_or_its_name(asked, meant):
    assert PEOPLE.chosen(asked, "ablate") == meant


@pytest.mark.parametrize(
    "asked", [True, 3.0, None, {"Eve": 1}, [[1]], [1.5], np.array([True]), b"Eve"]
)
def test_anything_else_is_refused(asked):
    with pytest.raises(BadInput, match="ablate is .*; allowed: the number or the name"):
        PEOPLE.chosen(asked, "ablate")


@pytest.mark.parametrize("number", [5, -1, "5", "number:5"])
def test_a_number_that_no_source_has_is_refused(number):
    with pytest.raises(
        BadInput, match=r"Source -?\d does not exist: ablate takes .* 0 to 4"
    ):
        PEOPLE.chosen([0, number], "ablate")


@pytest.mark.parametrize(
    "text", ["-1", "007", "1_0", "٣", "3.0", "+3", "number:", "#3", "name:3"]
)
def test_what_only_looks_like_a_number_is_none(text):
    with pytest.raises(BadInput, match="but no source is called so"):
        SourceNames(20, ["a"] * 20).chosen(text, "ablate")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("eve", "mean 'Eve'"),
        ("Smit", "in double quotes, such as '\"Smith, John\"'"),
        ("Adm", "mean 'Adam'"),
        ("0,1", "give several as a list"),
        ("xyz", "Give a number, or a name as sources.json has it"),
    ],
)
def test_a_name_that_nobody_has_is_answered_with_close_ones(text, advice):
    with pytest.raises(BadInput, match=f"ablate names '{text}', but .*{advice}"):
        PEOPLE.chosen(text, "ablate")


def test_close_names_are_found_among_very_many():
    names = [f"photo {number}" for number in range(naming._N_COMPARED + 5)]
    many = SourceNames(len(names), names)
    with pytest.raises(BadInput, match="Did you mean 'photo 20004'"):
        many.chosen("Photo 20004 ", "ablate")
    with pytest.raises(BadInput, match="Give a number"):
        many.chosen("nothing of this kind", "ablate")


@pytest.mark.parametrize("digits", ["1", "3", "7", "12", "0", "99"])
def test_digits_alone_are_refused_where_names_are_other_digits(digits):
    with pytest.raises(BadInput):
        NUMBERS.chosen(digits, "ablate")
    if digits in NUMBERS.names:
        assert NUMBERS.chosen(f"name:{digits}", "ablate") == [
            NUMBERS.names.index(digits)
        ]
    if int(digits) < 4:
        assert NUMBERS.chosen(f"number:{digits}", "ablate") == [int(digits)]
        assert NUMBERS.chosen(int(digits), "ablate") == [int(digits)]


def test_a_refusal_says_all_meanings_and_how_to_write_each():
    with pytest.raises(
        BadInput,
        match=r"'1'.* Write name:1 for source 0 \(1\), or number:1 for source 1 \(3\)\.",
    ):
        NUMBERS.chosen("1", "ablate")
    with pytest.raises(
        BadInput, match=r"Write number:0 for source 0 \(1\); nothing is called '0'"
    ):
        NUMBERS.chosen("0", "ablate")
    with pytest.raises(
        BadInput, match=r"Write name:12 for source 3 \(12\); no source has"
    ):
        NUMBERS.chosen("12", "ablate")


def test_digits_that_are_the_number_of_their_source_are_both():
    assert DIGITS.chosen(["2", "0"], "ablate") == [0, 2]


def test_names_that_look_like_forms_are_not_mistaken():
    odd = SourceNames(4, ["number:1", "name:Bob", "Bob", "c"])
    with pytest.raises(
        BadInput, match=r"name:number:1 for source 0 \(number:1\), or name:name:Bob for"
    ):
        odd.chosen("number:1", "ablate")
    with pytest.raises(
        BadInput, match=r"for source 1 \(name:Bob\), or number:2 for source 2"
    ):
        odd.chosen("name:Bob", "ablate")
    assert odd.chosen(["name:number:1", "name:name:Bob"], "ablate") == [0, 1]


def test_two_sources_of_one_name_are_told_apart_by_number():
    twins = SourceNames(3, ["a", "b", "a"])
    with pytest.raises(
        BadInput, match=r"Write number:0 for source 0 \(a\), or number:2 for source 2"
    ):
        twins.chosen("a", "ablate")


def test_two_unicode_spellings_are_one_name():
    one, other = "Jos\u00e9", "Jose\u0301"
    assert SourceNames(2, [one, "b"]).chosen(other, "ablate") == [0]
    assert SourceNames(2, [other, "b"]).chosen(one, "ablate") == [0]


def test_an_owner_stands_for_all_that_he_has_a_part_in():
    assert SHARED.chosen("owner:Eve", "ablate") == [0, 4]
    assert SHARED.chosen("Cain", "ablate") == [2]
    assert SHARED.chosen("name:Eve", "ablate") == [0]
    assert SHARED.chosen("Smith", "ablate") == [3]  # both readings mean the same
    with pytest.raises(
        BadInput,
        match=r"Write name:Eve for source 0 \(Eve\), or owner:Eve for sources 0 \(Eve\), 4",
    ):
        SHARED.chosen("Eve", "ablate")


def test_sources_are_allowed_by_number_by_name_or_by_owner():
    assert PEOPLE.allowed([3, "Adam"]) == [1, 3]
    assert SHARED.allowed([]) == []
    assert SHARED.allowed("Cain") == [2]
    with pytest.raises(BadInput, match="allowed names 'Kain'.*Did you mean 'Cain'"):
        SHARED.allowed(["Kain"])
    with pytest.raises(
        BadInput, match="Source 7 does not exist: allowed takes numbers"
    ):
        PEOPLE.allowed([7])


def test_a_source_of_several_owners_needs_all_of_them():
    assert SHARED.allowed(["Eve"]) == [0]
    assert SHARED.allowed(["Eve", "Adam"]) == [0, 1, 4]
    assert SHARED.allowed(["name:Eve", "Adam"]) == [0, 1]
    assert SHARED.allowed(["owner:Eve", "owner:Adam"]) == [0, 1, 4]


def test_an_owner_called_by_a_number_is_no_number():
    names = SourceNames(3, ["a", "b", "c"], {"1": [0, 2]})
    for chosen in (lambda one: names.chosen(one, "allowed"), names.allowed):
        with pytest.raises(
            BadInput, match=r"owner:1 for sources 0 \(a\), 2 \(c\), or number:1 for"
        ):
            chosen("1")
        with pytest.raises(BadInput, match="number:0 for source 0"):
            chosen("0")


@pytest.mark.parametrize(
    ("texts", "meant"),
    [
        (["3,1"], [1, 3]),
        (["3, Eve"], [0, 3]),
        (["Smith, John"], [2]),
        (['"Smith, John",Eve'], [0, 2]),
        (["Eve; Adam", "number:1"], [1, 4]),
    ],
)
def test_the_command_line_takes_names_with_commas_between_them(texts, meant):
    assert PEOPLE.of_text(texts, "--sources") == meant


@pytest.mark.parametrize("text", ["", " ", "3,", ",", '"Eve', "3,,4", "Eve\nAdam"])
def test_a_text_with_a_gap_is_refused(text):
    with pytest.raises(BadInput, match="--sources is .*names of sources with commas"):
        PEOPLE.of_text([text], "--sources")


def test_a_name_that_is_cut_at_its_comma_is_pointed_out():
    names = SourceNames(2, ["Smith, John", "Eve"])
    with pytest.raises(BadInput, match="--sources names 'Smith', .*in double quotes"):
        names.of_text(["Eve,Smith, John"], "--sources")


def test_one_name_that_is_also_two_is_refused():
    names = SourceNames(3, ["a,b", "a", "b"])
    with pytest.raises(
        BadInput, match="'a,b', which is one name .*'a', 'b'.* in double"
    ):
        names.of_text(["a,b"], "--sources")
    assert names.of_text(['"a,b"'], "--sources") == [0]
    assert names.of_text(["a", "b"], "--sources") == [1, 2]


def test_messages_have_number_and_name():
    assert PEOPLE.called(1) == "1 (Adam)"
    assert DIGITS.called(1) == SourceNames(3).called(1) == "1"
    assert PEOPLE.these([0, 3]) == "sources 0 (Eve), 3 (Smith)"
    assert PEOPLE.these([0]) == "source 0 (Eve)"
    assert PEOPLE.these([]) == "no source"
    assert SourceNames(12).listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7 and 4 more"


def test_sources_are_written_as_they_are_read_again():
    for names in (PEOPLE, NUMBERS, DIGITS, SourceNames(4)):
        text = names.written([0, 2])
        assert names.of_text([text], "--sources") == [0, 2]
    assert PEOPLE.written([0, 2]) == "0,2"
    assert NUMBERS.written([0, 2]) == "number:0,number:2"


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="There are 1 names for 2 sources"):
        SourceNames(2, ["a"])
    with pytest.raises(
        BadInput, match="Owner 'a' has a part in sources .2., but there"
    ):
        SourceNames(2, [], {"a": [2]})


NAMES = st.text(alphabet='0127#:,"nameowr ', max_size=8).filter(str.strip)


def meant(names: SourceNames, text: str) -> list[int] | None:
    """What a text means; None if it was refused for having several meanings."""
    quoted = '"' + text.replace('"', '""') + '"'
    try:
        found = names.chosen(text, "ablate")
    except BadInput as error:
        if "can be taken for" not in str(error):
            raise
        return None
    assert names.of_text([quoted], "--sources") == found
    return found


@given(st.lists(NAMES, min_size=2, max_size=6, unique_by=lambda name: name.strip()))
def test_whatever_the_names_no_text_means_another_source(called: list[str]):
    names = SourceNames(len(called), called)
    for source, name in enumerate(called):
        assert names.chosen(source, "ablate") == [source]
        for text in (f"number:{source}", name, f"name:{name}"):
            assert meant(names, text) in (None, [source])
