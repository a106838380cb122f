"""The page of options: every option of a config, out of the code itself.

    python -m docs.options

writes options.md beside this file: names, types and defaults from the dataclasses of
`ensemble/run/config.py`, and what they mean from their docstrings.
"""

import ast
import dataclasses
import inspect
import re
import typing
from pathlib import Path

import yaml

from ensemble.run.config import Config
from splits.designs.registry import DESIGNS

PAGE = Path(__file__).with_name("options.md")
HEAD = """\
# Every option

A config is a YAML file with what departs from the defaults below; `section.key=value` on the command line changes one option. Unknown names, wrong types and
values out of range are refused. The complete config is kept in the run folder as `config.yaml`, and replays the run. This page is made from the code by
`python -m docs.options`.
"""
TYPES = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
}
PLURALS = {"str": "texts", "int": "whole numbers", "float": "numbers"}


def meanings(section: type) -> dict[str, str]:
    """What each option of a section means, by its name.

    Raises:
        KeyError: If the docstring leaves an option out, or explains another.
    """
    text = inspect.getdoc(section) or ""
    listed = text.partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    for line in listed.splitlines():
        begun = re.match(r"    (\w+): (.*)", line)
        if begun:
            found[begun[1]] = begun[2]
        elif line.strip():
            *_, last = found
            found[last] += f" {line.strip()}"
    names = [one.name for one in dataclasses.fields(section)]
    if sorted(names) != sorted(found):
        raise KeyError(f"{section.__name__}: {set(names) ^ set(found)}")
    return {name: found[name] for name in names}


def page() -> str:
    """The page as text."""
    hints = typing.get_type_hints(Config)
    lines = [HEAD, *_table("At the top", Config, "")]
    for field in dataclasses.fields(Config):
        section = hints[field.name]
        if dataclasses.is_dataclass(section):
            lines += _table(f"`{field.name}`", typing.cast(type, section), field.name)
    return "\n".join(lines)


def _table(title: str, section: type, prefix: str) -> list[str]:
    """A section with a row for each of its options."""
    (about, *more) = (
        (inspect.getdoc(section) or "").partition("Attributes:")[0].split("\n\n")
    )
    known = _types(section)
    lines = [f"## {title}", "", " ".join([about, *more]).replace("\n", " ").strip(), ""]
    lines += ["| Option | Type | Default | Meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(typing.get_type_hints(section)[field.name]):
            continue
        name = f"{prefix}.{field.name}" if prefix else field.name
        meaning = meanings(section)[field.name].replace("|", "\\|")
        meaning = meaning[0].upper() + meaning[1:]
        known_designs = f"out of {', '.join(sorted(DESIGNS))} ([designs](designs.md))"
        meaning = meaning.replace("in `splits.designs.DESIGNS`", known_designs)
        cells = [f"`{name}`", known[field.name], _default(field), meaning]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _types(section: type) -> dict[str, str]:
    """The type of each option, as people of YAML call it."""
    (body,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for line in body.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            parts = ast.unparse(line.annotation).split(" | ")
            found[line.target.id] = " or ".join(
                "null" if part == "None" else _spelled(part) for part in parts
            )
    return found


def _spelled(annotation: str) -> str:
    inner = re.fullmatch(r"list\[(\w+)\]", annotation)
    return (
        f"list of {PLURALS[inner[1]]}" if inner else TYPES.get(annotation, annotation)
    )


def _default(field: "dataclasses.Field[typing.Any]") -> str:
    """The default as YAML writes it; a dash where there is none."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is dataclasses.MISSING:
        return "\N{EN DASH}"
    else:
        value = field.default
    text = yaml.safe_dump(value, default_flow_style=True)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
