"""Clauses (a) and (b) of the images: how they were read, and whether any comes twice."""

from collections.abc import Iterator

import numpy as np

from ensemble.certificate.subject import (
    Finding,
    Subject,
    broken,
    noted,
    some,
)
from splits import duplicates

# What stands in for a rule that is known, by `data.kind`: none of them looks at more
# than one image. A kind of data that is not here has no such sentence.
RULES = {
    "digits": "16 shades of grey become -1 to 1",
    "folder": "each file alone is decoded, cut and scaled, and 0 to 255 become -1 to 1",
    "shards": "each sample alone is decoded, cut and scaled, and 0 to 255 become -1 to 1; "
    "arrays are taken as they are",
}


def mapping(subject: Subject) -> Iterator[Finding]:
    """Was anything fitted to map images to what members see?"""
    settings = subject.run.config.data
    rule = RULES.get(settings.kind)
    if rule is None:
        yield noted(
            "b",
            f"Not checked: how images of data.kind {settings.kind!r} become what "
            "members see",
        )
        return
    yield Finding(
        "b",
        f"{len(subject.plan.source_of)} images were read again by the rule of data.kind "
        f"{settings.kind} ({rule}; data.size {settings.size}, data.channels "
        f"{settings.channels}), and are those that the run was made with: nothing is "
        "fitted",
    )
    if settings.n_images is not None:
        yield noted(
            "b",
            f"data.n_images keeps the first {settings.n_images} images by name. `A run "
            "that never held a source' means one of the same images without those of "
            "the source, not one in which the next images took their places",
        )


def identical(subject: Subject) -> Iterator[Finding]:
    """Identical images in sources with different codes: removing one is not enough.

    Images of removed sources are blank, and like no picture.
    """
    plan, found, concerned = subject.plan, 0, 0
    for same in _copies(subject):
        owners = np.unique(plan.source_of[same]).tolist()
        if len(np.unique(plan.codes.bits[owners], axis=0)) == 1:
            continue
        found += 1
        called = [f"{image} ({plan.data.names[image]})" for image in same]
        text = (
            f"images {', '.join(called[:-1])} and {called[-1]} are identical but belong "
            f"to {plan.called.these(owners)}, whose codes differ: without one, the "
            "other stays"
        )
        if subject.asked and not _stays(subject, owners):
            yield noted("a", text, tuple(owners))
        else:
            concerned += 1
            yield broken("a", text, _together(owners), tuple(owners))
    yield from _twins_of_removed(subject)
    if not found:
        yield Finding(
            "a", "no two sources with different codes have an identical image"
        )
    elif not concerned:
        yield Finding("a", "no image of these sources is identical to one that stays")


def _copies(subject: Subject) -> Iterator[list[int]]:
    """Images that are the same, bit by bit: several at a time, in order."""
    there = np.flatnonzero(subject.there)
    images = (subject.plan.data.images[image] for image in there.tolist())
    same: dict[int, list[int]] = {}
    for first, other in duplicates.identical(images).tolist():
        same.setdefault(first, [first]).append(other)
    for copies in same.values():
        yield there[copies].tolist()


def _stays(subject: Subject, owners: list[int]) -> bool:
    """Whether a picture of the sources asked about is in members that they leave."""
    if not set(owners) & set(subject.asked):
        return False
    bits = subject.plan.codes.bits
    return bool((bits[owners] & ~bits[subject.asked].any(axis=0)).any())


def _together(owners: list[int]) -> str:
    return (
        "Identical images of several sources are exact only together: ablate or remove "
        f"all of them (sources {','.join(map(str, owners))}), delete all files but one "
        "and train a new run, or train a new run with data.source=near_duplicates, "
        "which makes them one source."
    )


def _twins_of_removed(subject: Subject) -> Iterator[Finding]:
    """Pictures of removed sources that another source has too."""
    number_of = {name: image for image, name in enumerate(subject.plan.data.names)}
    for removed, twin in subject.twins:
        image = number_of.get(twin)
        if image is None or not subject.there[image]:
            continue
        source = int(subject.plan.source_of[image])
        yield broken(
            "a",
            f"{removed} was removed, but the same picture stays as {twin}, of "
            f"{subject.plan.called.these([source])}",
            f"Remove source {source} too, and repair the run.",
            (source,),
        )


def near(subject: Subject) -> Iterator[Finding]:
    """Images that differ in some byte but hardly to the eye, with different codes."""
    plan, within = subject.plan, subject.run.config.data.near
    there = np.flatnonzero(subject.there)
    if len(there) > duplicates.MOST_IMAGES:
        yield noted(
            "",
            f"Not checked: near-duplicates among more than {duplicates.MOST_IMAGES:,} "
            "images.",
        )
        return
    pairs, distances = duplicates.near_pairs(plan.data.pictures()[there], within)
    pairs = there[pairs].reshape(-1, 2)
    owners = plan.source_of[pairs]
    codes = plan.codes.bits[owners]
    apart = (codes[:, 0] != codes[:, 1]).any(axis=1)
    if subject.asked:
        # Of others it is asked without --sources.
        apart &= np.isin(owners, subject.asked).sum(axis=1) == 1
    chosen = np.flatnonzero(apart)
    if not chosen.size:
        whose = "of these sources and of others " if subject.asked else ""
        yield Finding(
            "a",
            f"no two images {whose}at a distance of {within:g} or less sit in sources "
            "with different codes. Not checked: crops and mirror images",
        )
        return
    first, second = pairs[chosen[0]]
    concerned = np.unique(owners[chosen]).tolist()
    yield noted(
        "",
        f"Warning: (a) {chosen.size} pairs of images at a distance of {within:g} or less "
        f"sit in sources with different codes ({some(concerned)}), the closest being "
        f"{plan.data.names[first]} and {plan.data.names[second]} "
        f"({distances[chosen[0]]:.4f}): without one, the other stays. Make them one "
        "source (data.source: near_duplicates), or remove both",
        tuple(concerned),
    )
