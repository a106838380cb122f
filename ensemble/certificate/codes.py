"""Clause (c) for the code book: what determines the codes."""

from collections.abc import Iterator

import numpy as np

from ensemble.certificate.subject import Finding, Subject, remark, violation
from ensemble.provenance import drawing
from splits.codes import CodeBook
from splits.designs.registry import DESIGNS
from splits.errors import BadInput
from splits.sources import NEAR_DUPLICATES


def code_book(subject: Subject) -> Iterator[Finding]:
    """Check that the codes follow from names, numbers and a seed alone."""
    config = subject.run.config
    if config.extends is not None:
        yield remark(
            "c",
            "Not drawn again: the codes of a run that extends another. codes.npy is "
            "the one that the manifest has on record",
        )
        return
    try:
        again = drawing.codes_again(config, subject.plan)
    except BadInput as error:
        yield remark("c", f"Not drawn again: the code book ({error})")
        return
    if again is None:
        yield remark(
            "c",
            "Not drawn again: the code book, because whose the images of removed "
            "sources were is not known any more",
        )
        return
    yield _compared(subject, again)


def _compared(subject: Subject, again: CodeBook) -> Finding:
    """What it means that the code book drawn again is, or is not, the run's."""
    splits = subject.run.config.splits
    by_name = "names" in DESIGNS[splits.design].facts
    same = np.array_equal(again.bits, subject.drawn)
    if by_name and not same:
        wrong = np.flatnonzero((again.bits != subject.drawn).any(axis=1))
        return violation(
            "c",
            f"the codes of {len(wrong)} sources, the first {int(wrong[0])} "
            f"({subject.plan.source_names[wrong[0]]}), are not those that their names "
            "and the salt give",
        )
    if by_name:
        return Finding(
            "c",
            f"drawn again, the code book is the same: by the design {splits.design!r} "
            "every code follows from the salt and the source's own name, and from no "
            "other source",
        )
    if same:
        return Finding(
            "c",
            f"drawn again, the code book is the same: by the design {splits.design!r} "
            f"it follows from {_seed_option(subject)}, and from how many sources there are and "
            "the order of their names, whatever the images show. A source that had "
            "never been there, or had had another name, would have left others with "
            "other codes",
        )
    return remark(
        "c",
        f"Not confirmed: this version draws another code book by the design "
        f"{splits.design!r}. codes.npy is the one that the manifest has on record",
    )


def _seed_option(subject: Subject) -> str:
    """The option that the design draws codes from, as a message names it."""
    salted = "salt" in DESIGNS[subject.run.config.splits.design].options
    return "its salt" if salted else "splits.seed"


def clusters(subject: Subject) -> Iterator[Finding]:
    """State how far the grouping of similar images weakens the certificate."""
    if subject.run.config.data.source != NEAR_DUPLICATES:
        return
    sizes = np.bincount(subject.plan.source_of)
    by_name = "names" in DESIGNS[subject.run.config.splits.design].facts
    others = (
        ""
        if by_name
        else ", except that how many clusters there are, which decides about codes too, "
        "follows from all images"
    )
    yield remark(
        "c",
        f"holds for whole sources: {sizes[sizes > 1].sum()} of "
        f"{len(subject.plan.source_of)} images share theirs with images that they "
        f"resemble, at most {sizes.max()} together. Whose source one of those is depends "
        f"on the others of its cluster, and on no image outside{others}",
    )
