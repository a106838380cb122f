"""Code-book extension: codes for new sources and members, without changing old bits.

Either the members stay the same and new sources get codes for them; or new members
join. New members are assigned old and new sources, and old members no new ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from splits.codes import CodeBook
from splits.errors import BadInput

Draw = Callable[[Sequence[str], int], CodeBook]


def extend(
    before: Bool[np.ndarray, "old members"],
    old: Sequence[str],
    new: Sequence[str],
    n_members: int,
    draw: Draw,
) -> CodeBook:
    """The code book of old and new sources; the codes of the old ones come first.

    Args:
        before: Codes of the old sources, whose bits stay as they are.
        old: Names of the old sources.
        new: Names of the new ones.
        n_members: The new number of members, at least the old one.
        draw: Draws a code book from the names of sources and the number of members.

    Returns:
        With as many members as before: the old codes, then new ones. With more members:
        old codes get drawn bits for new members; new codes are zero for old members.

    Raises:
        BadInput: If there are fewer members than before, or too few codes.
    """
    n_before = before.shape[1]
    if n_members < n_before:
        raise BadInput(
            f"splits.n_members is {n_members}, but the run that is extended has "
            f"{n_before} members. Set it to {n_before}, and they go on training; or to "
            "more, and others join."
        )
    if n_members == n_before:
        fresh = _new_codes(before, old, new, draw)
        return CodeBook(np.concatenate([before, fresh]))
    joined = draw([*old, *new], n_members - n_before).bits
    unseen = np.zeros((len(new), n_before), dtype=bool)
    return CodeBook(np.hstack([np.concatenate([before, unseen]), joined]))


def _new_codes(
    before: Bool[np.ndarray, "old members"],
    old: Sequence[str],
    new: Sequence[str],
    draw: Draw,
) -> Bool[np.ndarray, "new members"]:
    """Codes of the new sources, distinct from the old ones if the design's codes are.

    Codes are drawn for old and new sources together. A new source whose code is taken
    gets one that was drawn for an old source; there are enough of these.
    """
    pool = draw([*old, *new], before.shape[1]).bits
    own, others = pool[len(old) :].copy(), pool[: len(old)]
    if len(np.unique(pool, axis=0)) < len(pool):
        # The design gives one code to several sources.
        return own
    taken = {code.tobytes() for code in before}
    spare = (code for code in others if code.tobytes() not in taken)
    for code in own:
        if code.tobytes() in taken:
            code[:] = next(spare)
    return own
