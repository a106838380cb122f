"""Numbers are rounded for reading, and names cannot do anything but be read."""

import math

import pytest
from jinja2 import UndefinedError

from ensemble.report import page

FILTERS = page._environment().filters


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("decimals", 0.12349, "0.123"),
        ("p", 0.05, "0.050"),
        ("p", 0.0009, "< 0.001"),
        ("p", 1.0, "1.000"),
        ("duration", 59.94, "59.9 s"),
        ("duration", 90.0, "1.5 min"),
        ("duration", 5400.0, "1.5 h"),
        ("megabytes", 1_234_567_890, "1,235 MB"),
        ("cell", None, "\N{EN DASH}"),
        ("cell", True, "yes"),
        ("cell", 12345, "12,345"),
        ("cell", -0.123456, "\N{MINUS SIGN}0.1235"),
        ("cell", "text-with-dash", "text-with-dash"),
        ("cell", [1, {"a": None}], '[1, {"a": null}]'),
    ],
)
def test_numbers_are_rounded_for_reading(name, value, shown):
    assert FILTERS[name](value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12349, "+0.123"),
        (-0.5, "\N{MINUS SIGN}0.500"),
        (-0.0001, "+0.000"),
        (math.nan, "\N{EN DASH}"),
    ],
)
def test_signed_numbers_show_their_sign_unless_they_round_to_zero(value, shown):
    assert FILTERS["signed"](value, 3) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 sources"), (1, "1 source"), (1797, "1,797 sources")]
)
def test_only_one_is_singular(number, shown):
    assert page.counted(number, "source") == shown


def test_a_range_of_one_count_is_that_count():
    assert (page.span(8, 8), page.span(8, 1200)) == ("8", "8 to 1,200")


def test_what_a_template_is_not_given_is_an_error_not_a_gap():
    template = page._environment().from_string("{{ forgotten }}")
    with pytest.raises(UndefinedError, match="forgotten"):
        template.render()


def test_values_are_escaped_and_control_characters_spelled_out():
    template = page._environment().from_string("{{ name }}")
    assert template.render(name="<b>&\x07\u202e\ud800\n\xe9") == (
        "&lt;b&gt;&amp;\\x07\\u202e\\ud800\n\xe9"
    )
