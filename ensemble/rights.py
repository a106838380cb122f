"""Rights: generate only with members that saw nothing but what is allowed.

Ablation asks who never saw some sources; this asks who saw no others than some. A
licence that allows few sources needs members that trained on few: choose a design whose
splits follow the licences, such as `partition`.

Before: splits/codes.py. After: pipeline.py.
"""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from splits.codes import CodeBook, surviving_votes
from splits.errors import BadInput

N_SHOWN = 8


def sources_of(
    allowed: Sequence[int | str],
    n_sources: int,
    names: Sequence[str] = (),
    owners: Mapping[str, Sequence[int]] = {},  # noqa: B006 - never written to
) -> list[int]:
    """The sources that are allowed, ascending.

    Args:
        allowed: Numbers or names of sources, or names of owners.
        n_sources: How many sources there are.
        names: Of the sources.
        owners: The sources that each owner has a part in. Those of several owners are
            allowed if all of them are.

    Raises:
        BadInput: If there is no such source or owner.
    """
    asked = set(allowed)
    number_of = {name: source for source, name in enumerate(names)}
    known = [*number_of, *owners]
    for one in asked.difference(known, range(n_sources)):
        near = difflib.get_close_matches(str(one), known, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else "Give its number or name."
        raise BadInput(
            f"allowed names {one!r}, but there are sources 0 to {n_sources - 1}, and "
            f"{len(known)} names. {advice}"
        )
    found = {one for one in asked if isinstance(one, int)}
    found |= {source for name, source in number_of.items() if name in asked}
    owned, others = set(), set()
    for owner, parts in owners.items():
        (owned if owner in asked else others).update(parts)
    return sorted(found | (owned - others))


def allowed_votes(
    codes: CodeBook, allowed: Sequence[int], names: Sequence[str] = ()
) -> Float64[np.ndarray, " members"]:
    """Equal votes for the members that saw only allowed sources.

    With A the allowed sources and b the bits of the code book,

        votes[m] > 0 if and only if b[s, m] = 0 for all s outside A

    Args:
        codes: Who has seen what.
        allowed: Rows of the code book.
        names: Of the sources, for the error.

    Raises:
        BadInput: If every member saw something else; names the fewest sources that
            would have to be allowed too.
    """
    others = np.ones(codes.n_sources, dtype=bool)
    others[list(allowed)] = False
    conflicts = codes.bits & others[:, None]
    n_conflicts = conflicts.sum(axis=0)
    if n_conflicts.min() > 0:
        nearest = int(n_conflicts.argmin())
        missing = np.flatnonzero(conflicts[:, nearest]).tolist()
        called = [names[source] if names else str(source) for source in missing]
        shown = ", ".join(called[:N_SHOWN])
        more = f" and {len(called) - N_SHOWN} more" if len(called) > N_SHOWN else ""
        raise BadInput(
            f"Every member saw a source that is not allowed. The fewest that would have "
            f"to be allowed too are {len(called)}: {shown}{more}. Allow those, or train "
            "with a design whose members see less, such as splits.design=partition."
        )
    return surviving_votes(n_conflicts > 0)
