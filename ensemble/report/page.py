"""How the report's page is rendered: the template, and how numbers and names look."""

import json
import math
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ensemble.system import text

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def render(**shown: Any) -> str:
    """The page as text; every value in it is escaped, and none may be missing."""
    return _environment().get_template("report.html").render(**shown)


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where the number asks for it."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def span(least: int, most: int) -> str:
    """A range of counts, or the one count that it is."""
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {
        "cell": _cell,
        "counted": counted,
        "decimals": lambda value: f"{value:.3f}",
        "duration": duration,
        "megabytes": lambda value: f"{value / 1e6:,.0f} MB",
        "p": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
        "signed": _signed,
    }
    return environment


def _visible(value: Any) -> Any:
    """Control characters spelled out in text that is not of this project."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return text.visible(value)


def _signed(value: float, decimals: int) -> str:
    """A number with its sign; a dash for what is not a number."""
    if math.isnan(value):
        return DASH
    return f"{value:+z.{decimals}f}".replace("-", MINUS)


def _cell(value: Any) -> str:
    """A value of somebody else's table, rounded for reading."""
    match value:
        case None:
            return DASH
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}".replace("-", MINUS)
        case str():
            return value
        case {"value": found, "low": low, "high": high}:
            return f"{_cell(found)} [{_cell(low)}, {_cell(high)}]"
    return json.dumps(value)


def duration(seconds: float) -> str:
    """A time in the unit that fits it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
