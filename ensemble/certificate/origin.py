"""Clause (a) of where models come from: were they trained for the run they lie in?

`lineage.py` compares what can be compared without the images, whenever a model is
loaded. Here the images are at hand too, so they are compared as well.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ensemble.certificate.subject import (
    Finding,
    Subject,
    broken,
    noted,
    some,
)
from ensemble.run import (
    files,
    lineage,
    records,
)
from ensemble.run.folder import (
    REFERENCE,
    Trainable,
)
from ensemble.run.lineage import Expected
from splits.errors import BadInput


def origin(subject: Subject) -> Iterator[Finding]:
    """Was every model, silenced ones and the reference too, trained for this run?"""
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
                # The files of members that vote are compared with everything else.
                records.check_sealed(place, "member.json")
        except BadInput as error:
            # Of members it is said with everything else that their records say.
            if which == REFERENCE:
                yield broken("a", f"the reference: {error}")
            continue
        if lineage.is_unrecorded(record):
            unknown.append(which)
        found = _contradictions(subject, expected, which, record)
        if found:
            n_foreign += 1
            yield broken("a", lineage.foreign(folder, which, found))
    if unknown:
        yield noted("a", _not_recorded(unknown))
    elif not n_foreign:
        yield Finding(
            "a",
            "every member's record names the options, the code book and the images that "
            "it was trained for: they are those of this run",
        )


def _contradictions(
    subject: Subject, expected: Expected, which: Trainable, record: dict[str, Any]
) -> list[str]:
    """Where a model's record is not that of this run's model, with both sides."""
    found = expected.contradictions(which, record)
    if which != REFERENCE:
        # The split of every member that votes is compared by itself.
        found = [one for one in found if not one.startswith(lineage.SPLIT)]
    current = record.get("split_digest") == expected.splits(which)[-1]
    if found or not current or "trained_for" not in record:
        return found
    images = np.flatnonzero(subject.there)
    if which != REFERENCE:
        plan = subject.plan
        images = np.flatnonzero(plan.codes.bits[plan.source_of, which])
    if not subject.there[images].all():
        # It trained on removed images alone, which are blank now, and never votes.
        return []
    labelled = subject.run.config.model.class_conditional
    wanted = {"images_digest": subject.plan.data.digest_of(images, labelled)}
    return lineage.differences(record["trained_for"], wanted)


def _not_recorded(unknown: list[Trainable]) -> str:
    members = [which for which in unknown if which != REFERENCE]
    named = [f"members {some(members)}"] if members else []
    named += ["the reference"] if REFERENCE in unknown else []
    return (
        f"Not recorded: what {' and '.join(named)} were trained for. They were begun by "
        "version 0.1, which wrote down their splits, seeds and counts only. Whether "
        "their options and images are those of this run was not checked"
    )
