"""Safe text: names that every terminal can show and every file system can store."""

import hashlib
import re


def visible(text: str) -> str:
    r"""Text with escaped control characters.

    Otherwise a name could hide or reorder other text, or control the terminal.

    Examples:
        >>> print(visible("a" + chr(27) + "b"))
        a\x1bb
    """
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def file_name(name: str) -> str:
    """A file name for any name; different names get different file names.

    Letters, digits, `_`, `-` and `.` stay. If other characters were replaced, eight
    digits of the name's digest follow.

    Examples:
        >>> file_name("trak"), file_name("mean of R/G")
        ('trak', 'mean-of-R-G-63a40ddc')
    """
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:100]
    return name if kept == name else f"{kept}-{digest(name)[:8]}"


def digest(text: str) -> str:
    """The sha256 of a text."""
    # Names of files need not be valid Unicode.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
