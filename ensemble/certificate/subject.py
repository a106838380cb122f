"""The input and the output of every check: the run folder, and findings about it."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt32

from ensemble.provenance import extension
from ensemble.provenance.extension import Start
from ensemble.provenance.plans import Plan
from ensemble.run import files, records, removal_log
from ensemble.run.folder import Run
from splits.errors import BadInput

RESTORE = (
    "Restore what was there, or train again: until then no ablation of this run proves "
    "anything."
)


@dataclass(frozen=True)
class Finding:
    """One sentence of the certificate.

    Attributes:
        clause: Letters of the clauses (a) to (e) that it is about; empty for none.
        text: What was found.
        holds: True supports the certificate, False contradicts it. None does neither:
            something was not checked, or is worth knowing.
        remedy: What to do about a contradiction.
        sources: Sources whose ablation is not exact because of this; empty means that
            all sources are concerned.
    """

    clause: str
    text: str
    holds: bool | None = True
    remedy: str = RESTORE
    sources: tuple[int, ...] = ()

    @property
    def line(self) -> str:
        """The sentence, with the letter of its clause."""
        return f"({self.clause}) {self.text}" if self.clause else self.text


def violation(
    clause: str, text: str, remedy: str = RESTORE, sources: tuple[int, ...] = ()
) -> Finding:
    """A finding that contradicts the certificate.

    Examples:
        >>> violation("a", "member 3 saw source 7").line
        '(a) member 3 saw source 7'
    """
    return Finding(clause, text, False, remedy, sources)


def remark(clause: str, text: str, sources: tuple[int, ...] = ()) -> Finding:
    """A finding that neither supports the certificate nor contradicts it."""
    return Finding(clause, text, None, "", sources)


@dataclass(frozen=True, eq=False)
class Member:
    """A voting member as it is stored on the disk.

    Attributes:
        number: The member's number.
        folder: Its folder.
        record: Its `member.json`; all files that it lists have been compared with it.
        exposure: How often the member was shown each training image.
        start: The member of an earlier run from whose weights it began. None if it
            began from random weights, or if this is unknown (see `start_errors`).
        start_errors: Messages about a start that is not as it should be.
    """

    number: int
    folder: Path
    record: dict[str, Any]
    exposure: UInt32[np.ndarray, " counts"]
    start: Start | None
    start_errors: list[str]


@dataclass(frozen=True, eq=False)
class Subject:
    """A run folder that is verified; each part of it is read once.

    Attributes:
        run: The run folder.
        manifest: Its manifest.
        plan: Its plan for training all members without the removed sources, whose
            images are masked.
        drawn: Its code book as it was drawn.
        voting: Members that may vote, ascending.
        silenced: Members that may not vote.
        asked: Sources whose joint ablation is checked; empty: every source by itself.
    """

    run: Run
    manifest: dict[str, Any]
    plan: Plan
    drawn: Bool[np.ndarray, "sources members"]
    voting: list[int]
    silenced: list[int]
    asked: list[int] = field(default_factory=list)

    @functools.cached_property
    def present(self) -> Bool[np.ndarray, " images"]:
        """True for each image whose source was not removed."""
        return ~np.isin(self.plan.source_of, self.plan.removed)

    @functools.cached_property
    def requests(self) -> list[removal_log.Request]:
        """The recorded removals, in their order."""
        return removal_log.requests(self.run.path)

    @functools.cached_property
    def twins(self) -> list[tuple[str, str]]:
        """Removed images with an identical image of another source, pairs of names."""
        return [
            (name, twin) for request in self.requests for name, twin in request.twins
        ]

    @functools.cached_property
    def _checked_members(self) -> dict[int, Member | str]:
        return {number: self._member(number) for number in self.voting}

    @property
    def members(self) -> list[Member]:
        """The voting members whose files are intact."""
        return [
            one for one in self._checked_members.values() if isinstance(one, Member)
        ]

    @property
    def unreadable(self) -> dict[int, str]:
        """For each other voting member, by number: why its files cannot be used."""
        found = self._checked_members.items()
        return {number: one for number, one in found if isinstance(one, str)}

    def _member(self, number: int) -> Member | str:
        folder = self.run.member(number)
        try:
            record = records.check_done_mark(folder, "member.json")
            exposure = files.read_array(folder / "exposure.npy")
        except BadInput as error:
            return str(error)
        n_images = len(self.plan.source_of)
        start, start_errors = member_start(self.run, number, n_images)
        return Member(number, folder, record, exposure, start, start_errors)


def member_start(
    run: Run, member: int, n_images: int
) -> tuple[Start | None, list[str]]:
    """The member of an earlier run from which a member began, and errors about it.

    Args:
        run: The run folder.
        member: The member's number.
        n_images: Number of training images of the run.

    Returns:
        The earlier member, None if there is none or it is unknown; and one message for
        each thing that is not as it should be.
    """
    try:
        start = extension.start_of(run, member, n_images)
        record = files.read_json(run.member(member) / "member.json")
    except BadInput as error:
        return None, [f"member {member}: {error}"]
    began = record.get("went_on_from", record["weights_sha256"])
    if start is None or began == start.weights_sha256:
        return start, []
    return start, [
        f"member {member} began from weights {began}, not from those of "
        f"{start.folder}, {start.weights_sha256}"
    ]


@dataclass(frozen=True)
class Part:
    """A part of a run with the function that checks it.

    Attributes:
        name: The part's name.
        check: A function of the run folder that yields its findings.
    """

    name: str
    check: Callable[[Subject], Iterator[Finding]]


def first_few(numbers: list[int], most: int = 12) -> str:
    """The first few of some numbers as text, and how many more there are.

    Examples:
        >>> first_few([4, 5, 6], most=2)
        '4, 5 and 1 more'
    """
    shown = ", ".join(map(str, numbers[:most]))
    return shown + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
