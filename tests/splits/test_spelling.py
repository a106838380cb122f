"""Two spellings of one name never become two sources in silence."""

import unicodedata

import pytest

from splits import spelling
from splits.errors import BadInput

ZOE = "Zo\u00eb"
APART = unicodedata.normalize("NFD", ZOE)


@pytest.mark.parametrize("other", ["Eve ", " Eve", "\u00a0Eve", "Eve\t"])
def test_blanks_around_a_name_make_no_other_name(other):
    assert spelling.same(["Eve", "Adam", other]) == [tuple(sorted(["Eve", other]))]


def test_unicode_forms_and_blanks_within_make_no_other_name():
    assert spelling.same([ZOE, APART]) == [(APART, ZOE)]
    assert spelling.same(["Ann Lee", "Ann  Lee"]) == [("Ann  Lee", "Ann Lee")]


def test_names_that_differ_are_not_the_same():
    assert spelling.same(["Eve", "Eva", "eve", "EVE", ZOE, "Zoe"]) == []


def test_capitals_and_wide_letters_are_similar_and_not_the_same():
    assert spelling.similar(["Eve", "eve", "Adam"]) == [("Eve", "eve")]
    assert spelling.similar(["Eve", "\uff25ve"]) == [("Eve", "\uff25ve")]
    assert spelling.similar(["Eve", "Eve "]) == []


def test_one_name_in_two_spellings_is_refused_with_both():
    with pytest.raises(BadInput, match=r"'artist' .* 'Zoe\\u0308' and 'Zo\\xeb' \(1 "):
        spelling.require_one(["Adam", ZOE, APART], "artist")
    spelling.require_one(["Adam", ZOE], "artist")
