"""Repair: train members again that saw removed sources, without them.

A repaired member starts from nothing, or from the last checkpoint of slices that knows
nothing of the sources, with the same keys as before; so it has the bits that it would
have, had the sources never been in its split. It takes the old one's place by being
renamed: whoever loads the ensemble finds the old one, which is silenced, or the new
one, which votes.
"""

import shutil
from collections.abc import Sequence

import numpy as np

from ensemble.run import files, manifest, removal_log, voters
from ensemble.run.folder import REFERENCE, Run, Trainable, codes_of


def affected(run: Run, gone: Sequence[int] | None = None) -> list[Trainable]:
    """Members that had a removed source in their split, repaired or not.

    Members with nothing left to train on are not among them; the reference is, if there
    is one.

    Args:
        run: The run folder.
        gone: The removed sources; None: all that are removed by now.
    """
    if gone is None:
        gone = removal_log.removed(run.path)
    if not gone:
        return []
    saw = np.flatnonzero(codes_of(run.path).bits[gone].any(axis=0))
    members = np.setdiff1d(saw, voters.retired_members(run.path)).tolist()
    return [*members, REFERENCE] if run.reference.exists() else members


def finish(run: Run, gone: Sequence[int] | None = None) -> str:
    """Delete weights that nobody needs any more, and record the repair.

    Args:
        run: The run folder.
        gone: The removed sources that members were trained without; None: all that are
            removed by now. More may have been asked for while members were trained.

    Returns:
        What it came to, for people.
    """
    for member in voters.retired_members(run.path):
        for folder in (run.member(member), run.member(member).with_suffix(".part")):
            shutil.rmtree(folder, ignore_errors=True)
    for outdated in [*run.members.glob("*.old"), *run.path.glob("*.old")]:
        shutil.rmtree(outdated)
    asked = removal_log.requests(run.path)
    gone = removal_log.of_requests(asked) if gone is None else gone
    heeded = [one for one in asked if set(one.sources) <= set(gone)]
    members = [member for member in affected(run, gone) if member != REFERENCE]
    n_steps = run.config.training.steps * len(members)
    n_repeated = n_steps - sum(_steps_kept(run, member) for member in members)
    with manifest.stage(run, f"repair {len(heeded)}") as facts:
        facts |= {"members": members, "steps": n_steps, "steps_repeated": n_repeated}
    more = ""
    if len(asked) > len(heeded):
        more = (
            " More was removed in the meantime; members that saw it are silenced until "
            f"they are trained again without: {voters.repair_command(run.path)}"
        )
    return (
        f"Members {members} of {run.path} know nothing of what was removed. Of their "
        f"{n_steps:,} steps of training, {n_repeated:,} were done again.{more}"
    )


def _steps_kept(run: Run, member: int) -> int:
    """Steps that a repaired member has from before its repair."""
    record = run.member(member) / "member.json"
    # Another process may still be at it.
    return files.read_json(record).get("steps_kept", 0) if record.exists() else 0
