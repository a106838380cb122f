"""Removal: record that sources must go, and say what that means for the run.

From the moment that a request is recorded, nobody who saw one of its sources votes, and
the sources' images are left blank wherever training images are read, whether their
files are deleted or not.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.data import masking
from ensemble.provenance import classes, plans
from ensemble.provenance.plans import Plan
from ensemble.run import files, removal_log, voters
from ensemble.run.folder import Run
from ensemble.run.removal_log import Request
from ensemble.run.voters import Membership
from ensemble.system import locks
from splits.errors import BadInput


def request(
    run: Run, sources: Sequence[int | str], reason: str, force: bool = False
) -> Request | None:
    """Record that sources are to be removed; silences all who saw them.

    Args:
        run: The run folder.
        sources: Their numbers or names; those that are removed already are passed over.
        reason: Why, for the record.
        force: Record it even if nobody is left to vote until members are repaired.

    Returns:
        What was recorded; None if all of them had been removed before.

    Raises:
        BadInput: If a source does not exist, all sources would be gone, or nobody would
            be left to vote. Nothing is written then.
    """
    with locks.exclusive(run.path / "removals"):
        plan, before = plans.checked(run), removal_log.removed(run.path)
        removal_log.note_lines(run)
        sources = plan.called.chosen(sources, "sources")
        added = sorted(set(sources) - set(before))
        if not added:
            return None
        gone = sorted({*before, *added})
        _require_some_left(run, plan, gone, force)
        return removal_log.append(run, {"reason": reason, **_facts(plan, added, gone)})


def announced(run: Run, sources: Sequence[int | str]) -> Iterator[str]:
    """What a request will do, line by line for people, before it is recorded.

    Raises:
        BadInput: If a source does not exist.
    """
    plan, before = plans.checked(run), removal_log.removed(run.path)
    sources = plan.called.chosen(sources, "sources")
    added = sorted(set(sources) - set(before))
    gone_before = sorted(set(sources) & set(before))
    if gone_before:
        yield f"Removed before: {plan.called.these(gone_before)}."
    if not added:
        return
    silent = voters.silenced_by(run.path, before)
    after = voters.silenced_by(run.path, sorted({*before, *added}))
    n_members = plan.codes.n_members
    yield (
        f"To be removed: {plan.called.these(added)}. Members that this silences: "
        f"{len(set(after) - set(silent))}; left to vote: {n_members - len(after)} of "
        f"{n_members}."
    )
    yield from _same_pictures(plan, sources, before)


def consequences(run: Run) -> Iterator[str]:
    """What the removals mean now, line by line, for people."""
    plan, gone = plans.checked(run), removal_log.removed(run.path)
    n_members = plan.codes.n_members
    silent = voters.silenced_by(run.path, gone)
    yield (
        f"{len(gone)} of {plan.codes.n_sources} sources removed; {len(silent)} of "
        f"{n_members} members silenced, {n_members - len(silent)} vote."
    )
    retired = voters.retired_members(run.path)
    if retired:
        yield f"Members {retired} trained on nothing else, and are silenced for good."
    if classes.follow_from_labels(run.config) and (lost := classes.of_nobody(plan)):
        yield (
            f"The members still know the classes {', '.join(lost)}, which no image has "
            "any more: data.classes is null, so they are those of all images that there "
            "were. A repair does not change that; a new run does."
        )
    left = leftovers(run)
    if left:
        yield (
            "Silenced members had a part in these; delete them if the removal is meant "
            "for them too:"
        )
        yield from (f"  {path}" for path in left)
    if set(silent) - set(retired):
        yield f"Next: {voters.repair_command(run.path)}"


def _same_pictures(
    plan: Plan, sources: Sequence[int], before: Sequence[int]
) -> Iterator[str]:
    """Images of these sources that others hold too, byte by byte, before they go."""
    for gone, stays in _twins(plan, sources, [*before, *sources]):
        yield (
            f"Warning: {plan.data.names[gone]} stays in the ensemble as "
            f"{plan.data.names[stays]}, of "
            f"{plan.called.these([int(plan.source_of[stays])])}. Remove that too."
        )


def _twins(
    plan: Plan, sources: Sequence[int], gone: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Images of these sources, each with an identical one of a source that stays."""
    first_of = {
        plan.data.images[image].tobytes(): image
        for image in np.flatnonzero(np.isin(plan.source_of, list(sources))).tolist()
    }
    for image in np.flatnonzero(~np.isin(plan.source_of, list(gone))).tolist():
        twin = first_of.get(plan.data.images[image].tobytes())
        if twin is not None:
            yield twin, image


def leftovers(run: Run) -> list[Path]:
    """Results in the run folder in which members had a part that are silenced now."""
    n_members = files.read_json(run.manifest)["n_members"]
    anyone = voters.voting_members(run.path, n_members)
    known = Membership.read(run.path) if anyone else None
    kept = [
        (path, files.read_json(path))
        for kind, pattern in (
            ("queries", "*/info.json"),
            ("influence", "*/info.json"),
            ("influence", "*/*/info.json"),
            ("scores", "*/*.json"),
        )
        for path in sorted((run.path / kind).glob(pattern))
    ]
    found = [
        path.parent if path.name == "info.json" else path
        for path, facts in kept
        # No member had a part in images that were given.
        if not facts.get("held_out") and not (known and known.made(facts))
    ]
    if found:
        also = (run.path / "report.html", run.evaluation)
        found += [path for path in also if path.exists()]
    return found + sorted(run.members.glob("*.old"))


def _require_some_left(run: Run, plan: Plan, gone: list[int], force: bool) -> None:
    n_members, n_gone = plan.codes.n_members, len(gone)
    if n_gone == plan.codes.n_sources:
        raise BadInput(
            f"These are all {n_gone} sources of {run.path}: without them there is "
            "nothing to train on. Delete the run instead."
        )
    if len(voters.silenced_by(run.path, gone)) == n_members and not force:
        raise BadInput(
            f"None of the {n_members} members would be left to vote: each saw one of "
            f"the {n_gone} removed sources, or is silenced already. Nothing was "
            f"recorded. Remove fewer, repair ({voters.repair_command(run.path)}) and remove "
            "the rest; or record it with --force, and the ensemble refuses to load "
            "until it is repaired."
        )


def _facts(plan: Plan, added: list[int], gone: list[int]) -> dict[str, Any]:
    images = np.flatnonzero(np.isin(plan.source_of, gone)).tolist()
    names = {image: plan.data.names[image] for image in images}
    label_names = list(plan.data.label_names)
    blank = masking.mask_images(plan.data, names, len(plan.source_of), label_names)
    return {
        "sources": added,
        "names": [plan.source_names[source] for source in added],
        "images": {str(image): name for image, name in names.items()},
        "label_names": label_names,
        "data_fingerprint": blank.fingerprint(),
        "twins": [
            [plan.data.names[one], plan.data.names[other]]
            for one, other in _twins(plan, added, gone)
        ],
    }
