"""Clauses (a) and (b) for images: how they were read, and whether any occurs twice."""

from collections.abc import Iterator

import numpy as np

from ensemble.certificate.subject import Finding, Subject, first_few, remark, violation
from splits import duplicates

# How images of each `data.kind` are mapped to [-1, 1]. Every rule looks at one image
# at a time. For a kind that is not listed here, the certificate says "not checked".
RULES = {
    "digits": "16 shades of grey become -1 to 1",
    "folder": "each file alone is decoded, cut and scaled, and 0 to 255 become -1 to 1",
    "shards": "each sample alone is decoded, cut and scaled, and 0 to 255 become -1 to 1; "
    "arrays are taken as they are",
}


def mapping(subject: Subject) -> Iterator[Finding]:
    """State by which fixed rule images become tensors, so that nothing was fitted."""
    settings = subject.run.config.data
    rule = RULES.get(settings.kind)
    if rule is None:
        yield remark(
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
        yield remark(
            "b",
            f"data.n_images keeps the first {settings.n_images} images by name. `A run "
            "that never held a source' means one of the same images without those of "
            "the source, not one in which the next images took their places",
        )


def identical(subject: Subject) -> Iterator[Finding]:
    """Look for identical images in sources with different codes.

    Removing one of such sources leaves the same picture in the other. Images of
    removed sources are masked, so they are left out of the comparison.
    """
    plan, found, concerned = subject.plan, 0, 0
    for same in _groups_of_copies(subject):
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
        if subject.asked and not _picture_stays(subject, owners):
            yield remark("a", text, tuple(owners))
        else:
            concerned += 1
            yield violation("a", text, _remedy_for_copies(owners), tuple(owners))
    yield from _twins_of_removed(subject)
    if not found:
        yield Finding(
            "a", "no two sources with different codes have an identical image"
        )
    elif not concerned:
        yield Finding("a", "no image of these sources is identical to one that stays")


def _groups_of_copies(subject: Subject) -> Iterator[list[int]]:
    """Groups of images that are equal bit by bit, each group in ascending order."""
    there = np.flatnonzero(subject.present)
    images = (subject.plan.data.images[image] for image in there.tolist())
    same: dict[int, list[int]] = {}
    for first, other in duplicates.identical(images).tolist():
        same.setdefault(first, [first]).append(other)
    for copies in same.values():
        yield there[copies].tolist()


def _picture_stays(subject: Subject, owners: list[int]) -> bool:
    """Whether members that survive the ablation saw a picture of the ablated sources.

    Args:
        subject: What is checked; its `asked` sources are ablated together.
        owners: The sources that hold the same picture.
    """
    if not set(owners) & set(subject.asked):
        return False
    bits = subject.plan.codes.bits
    return bool((bits[owners] & ~bits[subject.asked].any(axis=0)).any())


def _remedy_for_copies(owners: list[int]) -> str:
    return (
        "Identical images of several sources are exact only together: ablate or remove "
        f"all of them (sources {','.join(map(str, owners))}), delete all files but one "
        "and train a new run, or train a new run with data.source=near_duplicates, "
        "which makes them one source."
    )


def _twins_of_removed(subject: Subject) -> Iterator[Finding]:
    """Look for pictures of removed sources that another source still holds."""
    number_of = {name: image for image, name in enumerate(subject.plan.data.names)}
    for removed, twin in subject.twins:
        image = number_of.get(twin)
        if image is None or not subject.present[image]:
            continue
        source = int(subject.plan.source_of[image])
        yield violation(
            "a",
            f"{removed} was removed, but the same picture stays as {twin}, of "
            f"{subject.plan.called.these([source])}",
            f"Remove source {source} too, and repair the run.",
            (source,),
        )


def near(subject: Subject) -> Iterator[Finding]:
    """Look for near-duplicate images in sources with different codes."""
    plan, within = subject.plan, subject.run.config.data.near
    there = np.flatnonzero(subject.present)
    if len(there) > duplicates.MOST_IMAGES:
        yield remark(
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
        # Pairs between other sources are reported by a check without --sources.
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
    yield remark(
        "",
        f"Warning: (a) {chosen.size} pairs of images at a distance of {within:g} or less "
        f"sit in sources with different codes ({first_few(concerned)}), the closest being "
        f"{plan.data.names[first]} and {plan.data.names[second]} "
        f"({distances[chosen[0]]:.4f}): without one, the other stays. Make them one "
        "source (data.source: near_duplicates), or remove both",
        tuple(concerned),
    )
