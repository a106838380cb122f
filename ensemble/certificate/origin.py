"""Clause (a) for the origin of models: each was trained for the run in which it lies.

Whenever a model is loaded, `lineage.py` compares its record with the run, as far as
that is possible without the images. The check here also compares the images.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ensemble.certificate.subject import Finding, Subject, first_few, remark, violation
from ensemble.run import files, lineage, records
from ensemble.run.folder import REFERENCE, Trainable
from ensemble.run.lineage import Expected
from splits.errors import BadInput


def origin(subject: Subject) -> Iterator[Finding]:
    """Check that every model was trained for this run, also if it does not vote."""
    folder, expected = subject.run.path, Expected.of(subject.run.path)
    everyone: list[Trainable] = [*range(subject.plan.codes.n_members), REFERENCE]
    n_foreign, unknown = 0, []
    for which in everyone:
        place = subject.run.trained(which)
        if not (place / "member.json").exists():
            continue
        try:
            record = files.read_json(place / "member.json")
            if which == REFERENCE:
                # `members.records` compares the files of members that vote.
                records.check_done_mark(place, "member.json")
        except BadInput as error:
            # `members.records` reports the members' damaged records.
            if which == REFERENCE:
                yield violation("a", f"the reference: {error}")
            continue
        if lineage.is_unrecorded(record):
            unknown.append(which)
        found = _contradictions(subject, expected, which, record)
        if found:
            n_foreign += 1
            yield violation("a", lineage.foreign_text(folder, which, found))
    if unknown:
        yield remark("a", _unrecorded_text(unknown))
    elif not n_foreign:
        yield Finding(
            "a",
            "every member's record names the options, the code book and the images that "
            "it was trained for: they are those of this run",
        )


def _contradictions(
    subject: Subject, expected: Expected, which: Trainable, record: dict[str, Any]
) -> list[str]:
    """Differences between a model's record and what this run would have recorded."""
    found = expected.contradictions(which, record)
    if which != REFERENCE:
        # `members.records` compares the splits of the members.
        found = [one for one in found if not one.startswith(lineage.SPLIT)]
    current = record.get("split_digest") == expected.splits(which)[-1]
    if found or not current or "trained_for" not in record:
        return found
    images = np.flatnonzero(subject.present)
    if which != REFERENCE:
        plan = subject.plan
        images = np.flatnonzero(plan.codes.bits[plan.source_of, which])
    if not subject.present[images].all():
        # The member trained on removed images alone. They are masked now, so their
        # digest cannot be computed any more, and the member never votes.
        return []
    labelled = subject.run.config.model.class_conditional
    wanted = {"images_digest": subject.plan.data.digest_of(images, labelled)}
    return lineage.differences(record["trained_for"], wanted)


def _unrecorded_text(unknown: list[Trainable]) -> str:
    """The remark about models of version 0.1, whose records are incomplete."""
    members = [which for which in unknown if which != REFERENCE]
    named = [f"members {first_few(members)}"] if members else []
    named += ["the reference"] if REFERENCE in unknown else []
    return (
        f"Not recorded: what {' and '.join(named)} were trained for. They were begun by "
        "version 0.1, which wrote down their splits, seeds and counts only. Whether "
        "their options and images are those of this run was not checked"
    )
