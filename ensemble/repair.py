"""Repair: train members again that saw removed sources, without them.

A repaired member starts from nothing, with the same keys as before, so it has the bits
that it would have, had the sources never been in its split. It takes the old one's
place by being renamed: whoever loads the ensemble finds the old one, which is silenced,
or the new one, which votes.

Before: removal.py, training.py. After: certificate.py.
"""

import shutil

import numpy as np

from ensemble import silence, store
from ensemble.store import REFERENCE, Run, Trainable


def affected(run: Run) -> list[Trainable]:
    """Members that had a removed source in their split, repaired or not.

    Members with nothing left to train on are not among them; the reference is, if there
    is one.
    """
    gone = silence.removed(run.path)
    if not gone:
        return []
    saw = np.flatnonzero(store.codes_of(run.path).bits[gone].any(axis=0))
    members = np.setdiff1d(saw, silence.retired(run.path)).tolist()
    return [*members, REFERENCE] if run.reference.exists() else members


def finish(run: Run) -> str:
    """Delete weights that nobody needs any more, and record the repair.

    Returns:
        What it came to, for people.
    """
    for member in silence.retired(run.path):
        shutil.rmtree(run.member(member), ignore_errors=True)
    for outdated in [*run.members.glob("*.old"), *run.path.glob("*.old")]:
        shutil.rmtree(outdated)
    members = [member for member in affected(run) if member != REFERENCE]
    with store.stage(run, f"repair {len(silence.requests(run.path))}") as facts:
        facts["members"] = members
    return f"Members {members} of {run.path} know nothing of what was removed."
