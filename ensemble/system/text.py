"""Text for people: names that a terminal can show and a file system can hold."""

import hashlib
import re


def visible(text: str) -> str:
    """Text with control characters spelled out.

    Otherwise a name could hide or reorder other text, or steer a terminal.
    """
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def file_name(name: str) -> str:
    """A name under which a thing can be kept anywhere; different ones stay different.

    Letters, digits, `_`, `-` and `.` stay; where others had to go, eight digits of the
    name's digest follow.
    """
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:100]
    return name if kept == name else f"{kept}-{digest(name)[:8]}"


def digest(text: str) -> str:
    """The sha256 of a text."""
    # Names of files need not be valid Unicode.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
