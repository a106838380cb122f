"""Config files: strict reading of YAML, writing, and comparison of two configs.

A config file holds only what differs from the defaults in `ensemble.run.config`. A
resolved config, with every default filled in, is kept in the run folder, and replays
the run.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

from ensemble.run.config import Config
from splits.errors import BadInput

# Deeply nested YAML takes quadratic time: with a larger file, reading would seem to hang.
MOST_BYTES = 2**14


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses features which no config needs.

    It refuses repeated keys, of which other YAML readers silently take the last;
    anchors and aliases, with which a short file can expand to a huge one; tags, which
    can construct any type; and whole numbers of more than 64 bits.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        for part in ("anchor", "tag"):
            if getattr(event, part, None) is not None:
                _refuse(f"a config has no anchors, aliases or tags, here {part}", event)
        return super().compose_node(parent, index)  # type: ignore[arg-type]

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse("a key must be a word", key)
            if key.value in seen:
                _refuse(f"the key {key.value!r} stands twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if abs(number) >= 2**64:
            _refuse("a whole number of more than 64 bits", node)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _refuse(what: str, at: Any) -> typing.NoReturn:
    raise yaml.constructor.ConstructorError(None, None, what, at.start_mark)


def _parse_yaml(text: str, name: str) -> Any:
    """The content of a YAML text.

    Raises:
        BadInput: If it is not YAML, or has features that no config needs.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - derives from SafeLoader
    # The loader raises ValueError at an impossible date, such as 2024-02-31.
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(
            f"{name} is not valid YAML: {error}. Mend it there; plain `key: value` lines "
            "are all that is needed."
        ) from None
    except RecursionError:
        raise BadInput(
            f"{name} is not valid YAML: it is nested too deeply. Options are two deep: "
            "sections and their keys."
        ) from None


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a YAML file, with `section.key=value` overrides applied.

    Raises:
        BadInput: If the file cannot be read, or a key, type or value is wrong.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"Cannot read the config {path}: {error}. Name a YAML file in UTF-8."
        ) from None
    if len(content) > MOST_BYTES:
        raise BadInput(
            f"The config {path} is longer than {MOST_BYTES} bytes; every option with its "
            "default fits into a fifth of that. Name another file."
        )
    tree = _parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise BadInput(f"{path} holds no options. Write `run: runs/NAME` at least.")
    for override in overrides:
        _apply(tree, override)
    try:
        return from_dict(tree)
    except BadInput as error:
        raise BadInput(f"In the config {path}: {error}") from None


def from_dict(tree: dict[str, Any]) -> Config:
    """A checked config from nested dictionaries.

    Raises:
        BadInput: If a key, type or value is wrong, or `run` is missing.

    Examples:
        >>> config = from_dict({"run": "runs/mine", "splits": {"n_members": 8}})
        >>> config.splits.n_members, config.data.kind
        (8, 'digits')
    """
    if tree.get("run") in (None, ""):
        raise BadInput("The config has no `run`: write the run folder's path there.")
    return _build(Config, tree, "")


def to_dict(config: Config) -> dict[str, Any]:
    """Nested dictionaries with every default filled in."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """The text of a config file with every default filled in."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line `key: old -> new` for every option in which two configs differ.

    Examples:
        >>> old, new = ({"training": {"steps": steps}} for steps in (100, 200))
        >>> differences(old, new)
        ['training.steps: 100 -> 200']
    """
    return [
        f"{key}: {before!r} -> {after!r}" for key, before, after in changes(old, new)
    ]


def changes(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Every option in which two configs differ: its name, the old and the new value."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from changes(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}", before, after


def _apply(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise BadInput(
            f"Override {override!r} has no '='. Write section.key=value, such as "
            "training.steps=500."
        )
    *sections, key = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise BadInput(
                f"Override {override!r}: {section!r} is not a section. Write "
                "section.key=value, such as training.steps=500."
            )
    tree[key] = _parse_yaml(text, f"Override {override!r}")


def _build(cls: type, tree: Any, prefix: str) -> Any:
    """An instance of a config dataclass; unknown keys and wrong types are refused."""
    if not isinstance(tree, dict):
        raise BadInput(
            f"{prefix.rstrip('.')} is {tree!r}: a section with keys is wanted."
        )
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            raise BadInput(_unknown_key_text(str(key), list(hints), prefix))
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            values[key] = _build(typing.cast(type, hint), value, f"{prefix}{key}.")
        else:
            values[key] = _convert(f"{prefix}{key}", value, hint)
    return cls(**values)


def _unknown_key_text(key: str, known: list[str], prefix: str) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    advice = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
    place = f"Section {prefix.rstrip('.')!r}" if prefix else "The config"
    return f"{place} has no key {key!r}. {advice}"


def _convert(name: str, value: Any, hint: Any) -> Any:
    """The value, converted to the type that the field declares.

    Raises:
        BadInput: If it has another type.
    """
    alternatives = (
        typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    )
    if isinstance(value, str) and "\0" in value:
        raise BadInput(f"{name} is {value!r}: no name has a zero in it. Remove it.")
    for alternative in alternatives:
        if _matches(value, alternative):
            return float(value) if alternative is float else value
    wanted = " or ".join(_type_text(alternative) for alternative in alternatives)
    advice = _number_hint(value) if float in alternatives else ""
    if isinstance(value, float) and not math.isfinite(value):
        advice = " It must be finite."
    raise BadInput(f"{name} is {value!r}: {wanted} is wanted.{advice}")


def _matches(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is list:
        (item,) = typing.get_args(hint)
        return isinstance(value, list) and all(_matches(entry, item) for entry in value)
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _type_text(hint: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        types.NoneType: "null",
    }
    if typing.get_origin(hint) is list:
        return f"a list, each entry {_type_text(typing.get_args(hint)[0])},"
    return names[hint]


def _number_hint(value: Any) -> str:
    """Advice for a number such as `1e-4`, which YAML 1.1 reads as text; else empty."""
    if not isinstance(value, str):
        return ""
    try:
        mantissa, *exponent = f"{Decimal(value):e}".split("e")
    except InvalidOperation:
        return ""
    if not exponent:  # not a number, or infinity
        return ""
    point = "" if "." in mantissa else ".0"
    return (
        f" YAML reads {value} as text; with a decimal point and a sign it is a number: "
        f"{mantissa}{point}e{exponent[0]}."
    )
