"""Clauses (a), (d) and (e) for members: what they saw, their first weights, what they share."""

from collections.abc import Iterator

import numpy as np

from ensemble.certificate.subject import (
    Finding,
    Member,
    Subject,
    first_few,
    member_start,
    remark,
    violation,
)
from ensemble.provenance import extension
from ensemble.provenance.plans import Plan
from ensemble.run import files, folder, locations, voters
from ensemble.run.folder import REFERENCE, Trainable
from ensemble.system import seeding
from ensemble.training import sisa


def records(subject: Subject) -> Iterator[Finding]:
    """Check that every voting member is the one that its code and its record describe."""
    for number, why in subject.unreadable.items():
        yield violation("a", f"member {number}: {why}")
    codes, found = subject.plan.codes, 0
    for member in subject.members:
        expected, split = (
            codes.split_digest(member.number),
            member.record["split_digest"],
        )
        if split != expected:
            found += 1
            yield violation(
                "a",
                f"member {member.number} was trained on another split than the code "
                f"book says: {split}, expected {expected}",
            )
    if not found and not subject.unreadable:
        yield Finding(
            "a",
            f"{len(subject.members)} members vote; their weights and counts are those "
            "that training wrote, and their splits those of the code book",
        )


def exposure(subject: Subject) -> Iterator[Finding]:
    """Check that every member was shown the images of its split evenly, and no others."""
    slice_of = sisa.of_images(subject.run.config, subject.plan)
    found = 0
    for member in subject.members:
        for text in _exposure_errors(subject, member, slice_of):
            found += 1
            yield violation("a", text)
    if found or not subject.members:
        return
    yield Finding(
        "a", "every member was shown exactly the images that its code says, evenly"
    )
    if slice_of is not None:
        yield Finding(
            "a",
            f"in each of {subject.run.config.training.slices} phases every member was "
            "shown images of the slices that had joined, evenly, and no others; so say "
            "the checkpoints that repairs go on from",
        )


def _exposure_errors(
    subject: Subject, member: Member, slice_of: np.ndarray | None
) -> Iterator[str]:
    plan, settings = subject.plan, subject.run.config.training
    found = [*_images_outside_split(member, plan)]
    yield from found
    if found or (member.start_errors and member.start is None):
        # The checks below would report the same error again.
        return
    if slice_of is None:
        before = np.zeros_like(member.exposure)
        if member.start is not None and member.start.goes_on:
            before = member.start.exposure
        yield from _unequal_exposure(member, before, plan)
        return
    images = np.flatnonzero(plan.codes.bits[plan.source_of, member.number])
    phases = sisa.Phases(images, slice_of[images], settings, member.number)
    due = sisa.due(subject.run.config, member.number, plan.data, phases.shown)
    for one in sisa.violations(
        member.folder, phases, member.exposure, settings.batch_size, due
    ):
        yield f"member {member.number}: {one}"


def _images_outside_split(member: Member, plan: Plan) -> Iterator[str]:
    """Messages about images outside the member's split that it was shown."""
    shown, allowed = member.exposure, plan.codes.bits[plan.source_of, member.number]
    if len(shown) != len(allowed):
        yield (
            f"member {member.number}: exposure.npy counts {len(shown)} images, the "
            f"data has {len(allowed)}"
        )
        return
    for image in np.flatnonzero((shown > 0) & ~allowed)[:5]:
        yield (
            f"member {member.number} was shown image {image} of source "
            f"{plan.source_of[image]} {shown[image]} times, against its code"
        )


def _unequal_exposure(member: Member, before: np.ndarray, plan: Plan) -> Iterator[str]:
    """A message if some images of the split were shown more often than others.

    Args:
        member: The member.
        before: How often an earlier run had shown it each image; this does not count.
        plan: Holds the code book.
    """
    images_seen = member.record["images_seen"] - int(before.sum())
    added = member.exposure.astype(np.int64) - before
    shown = added[plan.codes.bits[plan.source_of, member.number]]
    if shown.max() - shown.min() > 1 or shown.sum() != images_seen:
        yield (
            f"member {member.number}: the images of its split were shown {shown.min()} "
            f"to {shown.max()} times, {shown.sum()} in all; {images_seen} were due, and "
            "the counts of two images may differ by at most one"
        )


def starts(subject: Subject) -> Iterator[Finding]:
    """Check that members began from random weights or from an earlier run's member."""
    found = [text for member in subject.members for text in member.start_errors]
    found += [*_wrong_seeds(subject)]
    n_images = len(subject.plan.source_of)
    extended = subject.run.config.extends is not None
    for number in subject.silenced if extended else ():
        found += member_start(subject.run, number, n_images)[1]
    yield from (violation("e", text) for text in found)
    if found or not subject.members:
        return
    begun_there = [one.number for one in subject.members if one.start is not None]
    n_fresh = len(subject.members) - len(begun_there)
    unrecorded = [
        one.number
        for one in subject.members
        if one.start is None and "weights_seed" not in one.record
    ]
    if unrecorded:
        yield remark(
            "e",
            f"Not recorded: from which random weights members {first_few(unrecorded)} began",
        )
    elif n_fresh:
        shared = subject.run.config.training.shared_noise
        whose = "the same for all of them" if shared else "each from its own"
        yield Finding(
            "e",
            f"{n_fresh} members have weights of their own, trained from random ones, "
            f"{whose}: their seeds follow from training.seed"
            f"{'' if shared else ' and the number of the member'}",
        )
    if begun_there:
        yield Finding(
            "e",
            f"members {begun_there} began from their own weights in the run that is "
            "extended, and from no others",
        )


def _wrong_seeds(subject: Subject) -> Iterator[str]:
    """Messages about members whose initial weights come from another seed."""
    settings = subject.run.config.training
    for member in subject.members:
        found = member.record.get("weights_seed")
        whose = [] if settings.shared_noise else [member.number]
        expected = seeding.seed_of(settings.seed, "weights", *whose)
        fresh = member.start is None and not member.start_errors
        if fresh and found is not None and found != expected:
            yield (
                f"member {member.number} began from the random weights of seed {found}; "
                f"training.seed {settings.seed} gives {expected}"
            )


def shared_weights(subject: Subject) -> Iterator[Finding]:
    """Check that no two members have equal weights, and none those of the reference."""
    run, found, owner = subject.run, 0, dict[str, Trainable]()
    for member in (REFERENCE, *range(subject.plan.codes.n_members)):
        path = run.trained(member) / folder.WEIGHTS
        if not path.exists():
            continue
        first = owner.setdefault(files.sha256(path), member)
        if first == REFERENCE != member:
            found += 1
            yield violation(
                "a",
                f"member {member} has the weights of the reference, which was trained on "
                "everything",
            )
        elif first != member:
            found += 1
            yield violation("e", f"members {first} and {member} have the same weights")
    if found:
        return
    yield Finding("e", "no two members have the same weights")
    if run.reference.exists():
        yield remark(
            "",
            f"Not part of the ensemble: {run.reference}, trained on everything to be "
            "scored. It never votes, and no member has its weights.",
        )


def removals(subject: Subject) -> Iterator[Finding]:
    """State which sources were removed, and which members still know them."""
    run, wrong = subject.run, bool(subject.unreadable)
    for request in subject.requests:
        images = np.isin(subject.plan.source_of, request.sources)
        shown = [
            member.number
            for member in subject.members
            if len(member.exposure) == len(images) and member.exposure[images].any()
        ]
        if not (shown or wrong):
            yield Finding(
                "a",
                f"Removed {', '.join(request.names)} (request {request.number} of "
                f"{request.time}: {request.reason}): no member that votes was ever "
                f"shown one of the {images.sum()} images of theirs",
            )
    if subject.silenced:
        yield remark(
            "",
            f"Silenced: members {subject.silenced}. They saw what was removed, and "
            "their weights are still on the disk until they are trained again without: "
            f"{voters.repair_command(run.path)}",
        )


def earlier(subject: Subject) -> Iterator[Finding]:
    """Check that an extended run kept the codes of the earlier one."""
    before = extension.earlier(locations.of_run(subject.run))
    if before is None:
        return
    kept = extension.codes_kept(subject.run, before)
    if not np.array_equal(subject.drawn[: len(kept), : kept.shape[1]], kept):
        yield violation(
            "c", f"the codes of {before.path} were changed in {subject.run.codes}"
        )
        return
    yield Finding(
        "c", f"{len(kept)} sources kept the codes that {before.path} gave them"
    )
