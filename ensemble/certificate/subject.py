"""What every clause of the certificate looks at, and what it answers."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt32

from ensemble.provenance import extension
from ensemble.provenance.extension import Start
from ensemble.provenance.plan import Plan
from ensemble.run import (
    files,
    records,
    removal_log,
)
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
        clause: Which of (a) to (e) it is about; empty: none of them.
        text: What was found.
        holds: False contradicts the certificate. None neither supports it nor
            contradicts it: something that was not checked, or that is worth knowing.
        remedy: What to do about a contradiction.
        sources: Sources whose ablation is not exact because of this; empty: of all.
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


def broken(
    clause: str, text: str, remedy: str = RESTORE, sources: tuple[int, ...] = ()
) -> Finding:
    """What contradicts the certificate."""
    return Finding(clause, text, False, remedy, sources)


def noted(clause: str, text: str, sources: tuple[int, ...] = ()) -> Finding:
    """What neither supports the certificate nor contradicts it."""
    return Finding(clause, text, None, "", sources)


@dataclass(frozen=True, eq=False)
class Member:
    """A member that votes, as it lies on the disk.

    Attributes:
        number: Of the member.
        folder: Its folder.
        record: Its `member.json`, all of whose files have been compared with it.
        exposure: Times that it was shown each training image.
        start: The member of an earlier run that it began as; None: it began as none,
            or `not_begun` says that this could not be found out.
        not_begun: What contradicts that it began as it should.
    """

    number: int
    folder: Path
    record: dict[str, Any]
    exposure: UInt32[np.ndarray, " counts"]
    start: Start | None
    not_begun: list[str]


@dataclass(frozen=True, eq=False)
class Subject:
    """A run folder that is verified, each part of it read once.

    Attributes:
        run: The run folder.
        manifest: Its manifest.
        plan: Its plan for training all members, without the removed sources, whose
            images are blank.
        drawn: Its code book as it was drawn.
        voting: Members that may vote, ascending.
        silenced: Members that may not.
        asked: Sources that are asked about; empty: all of them, one by one.
    """

    run: Run
    manifest: dict[str, Any]
    plan: Plan
    drawn: Bool[np.ndarray, "sources members"]
    voting: list[int]
    silenced: list[int]
    asked: list[int] = field(default_factory=list)

    @functools.cached_property
    def there(self) -> Bool[np.ndarray, " images"]:
        """Which images belong to sources that were not removed."""
        return ~np.isin(self.plan.source_of, self.plan.removed)

    @functools.cached_property
    def twins(self) -> list[tuple[str, str]]:
        """Images of removed sources, and the same pictures that others had then."""
        asked = removal_log.requests(self.run.path)
        return [(name, twin) for request in asked for name, twin in request.twins]

    @functools.cached_property
    def _looked_at(self) -> dict[int, Member | str]:
        return {number: self._member(number) for number in self.voting}

    @property
    def members(self) -> list[Member]:
        """The members that vote and whose files are whole."""
        return [one for one in self._looked_at.values() if isinstance(one, Member)]

    @property
    def unreadable(self) -> dict[int, str]:
        """Why the others are not, by their numbers."""
        found = self._looked_at.items()
        return {number: one for number, one in found if isinstance(one, str)}

    def _member(self, number: int) -> Member | str:
        folder = self.run.member(number)
        try:
            record = records.check_sealed(folder, "member.json")
            exposure = files.read_array(folder / "exposure.npy")
        except BadInput as error:
            return str(error)
        n_images = len(self.plan.source_of)
        start, not_begun = begun(self.run, number, n_images)
        return Member(number, folder, record, exposure, start, not_begun)


def begun(run: Run, member: int, n_images: int) -> tuple[Start | None, list[str]]:
    """Where a member began, and what contradicts that it did.

    Args:
        run: The run folder.
        member: Its number.
        n_images: Training images of the run.
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
    """A part of a run that states its own clause.

    Attributes:
        name: What it is.
        check: Looks at the run folder; yields what it found.
    """

    name: str
    check: Callable[[Subject], Iterator[Finding]]


def some(numbers: list[int], most: int = 12) -> str:
    """Numbers as text, the first few of many."""
    shown = ", ".join(map(str, numbers[:most]))
    return shown + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
