"""Growth: codes for new sources and new members, without changing a bit of old codes.

Either members stay the same and new sources get codes among them; or new members join,
who are given all sources, and old members see none of the new ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from splits.codes import CodeBook
from splits.errors import BadInput

Draw = Callable[[Sequence[str], int], CodeBook]


def extended(
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
        n_members: As many as before, or more: the others join.
        draw: Draws codes for sources of these names, with so many bits.

    Returns:
        As many members as before: old codes, then fresh ones. More members: old codes
        go on with drawn bits, new ones are zero for old members.

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
        fresh = _fresh(before, old, new, draw)
        return CodeBook(np.concatenate([before, fresh]))
    joined = draw([*old, *new], n_members - n_before).bits
    unseen = np.zeros((len(new), n_before), dtype=bool)
    return CodeBook(np.hstack([np.concatenate([before, unseen]), joined]))


def _fresh(
    before: Bool[np.ndarray, "old members"],
    old: Sequence[str],
    new: Sequence[str],
    draw: Draw,
) -> Bool[np.ndarray, "new members"]:
    """Codes of the new sources; distinct from the old ones if the design's codes are.

    All sources are drawn again, old and new. A new one whose code is taken gets a code
    that was drawn for an old one: there are as many of both at least.
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
