"""Names of sets of queries: whoever chooses one chooses folders of a run with it.

Queries, ablation's tables, scores and evaluations lie in folders that are called like
the queries. So a name is one that every file system takes, that stays inside the run,
and that is mistaken for nothing that this project keeps beside it for a while.
"""

from splits.errors import BadInput

# A file system allows 255; endings, the machine's name and a process number go with it.
MOST_BYTES = 100
# What is being made, was replaced, is continued or is locked.
ENDINGS = (".part", ".old", ".work", ".lock")


def checked(name: str) -> str:
    """The name of a set of queries, as it is.

    Raises:
        BadInput: If it cannot be the name of a folder of a run.

    Examples:
        >>> checked("demo")
        'demo'
    """
    wrong = _wrong(name)
    if wrong:
        raise BadInput(
            f"A set of queries cannot be called {name!r}: {wrong}. Choose a name of at "
            f"most {MOST_BYTES} bytes without slashes, control characters and blanks at "
            "its ends, that does not begin with a dot or a hyphen."
        )
    return name


def _wrong(name: str) -> str:
    """What speaks against a name; empty if nothing does."""
    if not name.strip():
        return "it is empty"
    # Bytes that are no text come as characters that cannot be encoded.
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
