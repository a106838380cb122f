"""Rules for the names of sets of queries, which are also names of folders in a run.

Queries, ablation tables, scores and evaluations lie in folders with the name of the
queries. So a name must be valid on every file system, must not leave the run folder,
and must not look like one of this project's temporary files.
"""

from splits.errors import BadInput

# A file system allows 255 bytes; endings, the machine's name and a process number are
# added to the name.
MOST_BYTES = 100
# Endings of temporary folders, of replaced ones, of partial work, and of locks.
ENDINGS = (".part", ".old", ".work", ".lock")


def checked(name: str) -> str:
    """The name of a set of queries, unchanged, if it is valid.

    Raises:
        BadInput: If it cannot be the name of a folder of a run.

    Examples:
        >>> checked("demo")
        'demo'
    """
    wrong = _objection(name)
    if wrong:
        raise BadInput(
            f"A set of queries cannot be called {name!r}: {wrong}. Choose a name of at "
            f"most {MOST_BYTES} bytes without slashes, control characters and blanks at "
            "its ends, that does not begin with a dot or a hyphen."
        )
    return name


def _objection(name: str) -> str:
    """Why a name is not valid; empty text if it is valid."""
    if not name.strip():
        return "it is empty"
    # Invalid bytes of a command line arrive as surrogates, which need this error mode.
    n_bytes = len(name.encode(errors="surrogatepass"))
    if n_bytes > MOST_BYTES:
        return f"it has {n_bytes} bytes"
    if "/" in name or "\\" in name:
        return "it would be a path"
    if not name.isprintable():
        return "it has characters that cannot be shown"
    if name != name.strip():
        return "it begins or ends with a blank"
    if name[0] in ".-":
        return f"it begins with {name[0]!r}"
    for ending in ENDINGS:
        if name.endswith(ending):
            return f"folders whose names end in {ending} are this project's own"
    return ""
