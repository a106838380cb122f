"""The page of errors: every message that the code can give, out of the code itself.

    python docs/errors.py

writes errors.md beside this file. A message says what came and what to do about it, in
this order, so its first sentence is the cause and the rest the remedy.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
HEAD = """\
# Errors

Whatever you can mend ends in one message and exit code 2: what came, what is allowed, what to do. This page lists every such message, module by module; words in
`code` are filled in. Other exit codes: 75 interrupted, the same command goes on; 1 a member's loss diverged (the message says what to lower), or a defect of this
project, with a traceback: please report it. It is made from the code by `python docs/errors.py`.
"""
# What an expression is about is not the function that is applied to it.
NOT_A_NAME = {"join", "len", "str", "max", "min", "sorted", "strerror", "tolist"}


def files() -> list[Path]:
    """All code of the project that users run."""
    folders = [ROOT / "splits", ROOT / "ensemble"]
    found = [path for folder in folders for path in folder.rglob("*.py")]
    return [ROOT / "train.py", ROOT / "attribute.py", *sorted(found)]


def messages(path: Path) -> list[str]:
    """Every message of a file, in the order of its lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [
        (call.lineno, text) for call in _calls(tree) for text in _texts(call, tree)
    ]
    return list(dict.fromkeys(text for _, text in sorted(calls)))


def parts(message: str) -> tuple[str, str]:
    """Cause and remedy; no remedy is empty."""
    for break_at in (r"(?<=[.)`])\s+(?=[A-Z`-])", r"(?<=;)\s", r"(?<=:)\s"):
        cause, *rest = re.split(break_at, message, maxsplit=1)
        if rest:
            return cause, rest[0]
    return message, ""


def page() -> str:
    """The page as text."""
    lines = [HEAD]
    for path in files():
        found = messages(path)
        if not found:
            continue
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        lines += [
            f"## {path.relative_to(ROOT).as_posix()}",
            "",
            str(docstring).splitlines()[0],
            "",
            "| Cause | Remedy |",
            "|---|---|",
        ]
        for message in found:
            cause, remedy = parts(message.replace("|", "\\|"))
            lines.append(f"| {cause} | {remedy} |")
        lines.append("")
    return "\n".join(lines)


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "BadInput":
            yield node


def _texts(call: ast.Call, tree: ast.Module) -> list[str]:
    """The message of a call; several if a function puts it together."""
    (given,) = call.args
    if isinstance(given, ast.Name):
        given = _assigned(given.id, tree)
    if isinstance(given, ast.Call) and isinstance(given.func, ast.Name):
        return [_text(value) for value in _returned(given.func.id, tree)]
    return [_text(given)]


def _assigned(name: str, tree: ast.Module) -> ast.expr:
    return next(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name
    )


def _returned(function: str, tree: ast.Module) -> Iterator[ast.expr]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for part in ast.walk(node):
                if isinstance(part, ast.Return) and part.value is not None:
                    yield part.value


def _text(node: ast.expr) -> str:
    """A text with the names of what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return " ".join(text.split("\n"))
        case ast.JoinedStr(values=values):
            return "".join(_text(value) for value in values)
        case ast.BinOp(left=left, right=right):
            return _text(left) + _text(right)
        case ast.FormattedValue(value=value):
            return f"`{_name(value)}`"
        case _:
            return f"`{_name(node)}`"


def _name(node: ast.expr) -> str:
    """What an expression is about: the last name in it that stands for a thing."""
    names = [
        part.attr if isinstance(part, ast.Attribute) else part.id
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute | ast.Name)
    ]
    things = [name.strip("_") for name in names if name not in NOT_A_NAME]
    things = things or ["number"]
    return things[0] if isinstance(node, ast.Attribute) else things[-1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
