"""Rights: generate only with members that saw nothing but what is allowed.

Ablation asks who never saw some sources; this asks who saw no others than some. A
licence that allows few sources needs members that trained on few: choose a design whose
splits follow the licences, such as `partition`.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from splits.codes import CodeBook, surviving_votes
from splits.errors import BadInput
from splits.naming import SourceNames


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
        listed = SourceNames(codes.n_sources, names).listed(missing)
        raise BadInput(
            f"Every member saw a source that is not allowed. The fewest that would have "
            f"to be allowed too are {len(missing)}: {listed}. Allow those, or train "
            "with a design whose members see less, such as splits.design=partition."
        )
    return surviving_votes(n_conflicts > 0)
