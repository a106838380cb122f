"""The verification on record: what the certificate said of a run folder, and of what.

`attribute.py RUN verify` writes `certificate.json` into the run folder: when the folder
was verified, what was found, and the digest of all files that it was found of. Whoever
reads it compares that digest with the files of now, so that nothing is claimed of a
folder that has changed since. Nothing here needs torch.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from ensemble.run import files, removal_log
from ensemble.run.folder import PIPELINE, REFERENCE, Run
from ensemble.system import environment

FILE = "certificate.json"
# What a verification is about, besides the members and the manifest's facts.
FILES = ("config.yaml", "codes.npy", "source_of.npy", "sources.json", removal_log.LOG)
MOST_REASONS = 5


@runtime_checkable
class Found(Protocol):
    """A sentence of the certificate; `clauses.subject.Finding` is one."""

    @property
    def line(self) -> str:
        """The sentence."""
        ...

    @property
    def holds(self) -> bool | None:
        """False contradicts the certificate; None neither supports nor contradicts."""
        ...

    @property
    def remedy(self) -> str:
        """What to do about a contradiction."""
        ...

    @property
    def sources(self) -> tuple[int, ...]:
        """Sources that it is about; none: all of them."""
        ...


@dataclass(frozen=True)
class Reason:
    """Why an ablation is not exact, or may not be.

    Attributes:
        line: The sentence.
        holds: False contradicts the certificate; None does not.
        remedy: What to do about it.
        sources: Sources that it is about; none: all of them.
    """

    line: str
    holds: bool | None
    remedy: str
    sources: tuple[int, ...]

    def concerns(self, removed: Sequence[int]) -> bool:
        """Whether the ablation of these sources together is not exact because of it.

        What two sources share is gone if both are.
        """
        if not self.sources:
            return self.holds is False
        theirs = set(self.sources)
        both = theirs & set(removed)
        return bool(both) and (len(theirs) == 1 or both != theirs)


@dataclass(frozen=True)
class Verification:
    """What is known of a run folder's certificate.

    Attributes:
        state: `holds`, `fails`, `changed` (the folder has changed since), or
            `unchecked`.
        time: When it was verified, in UTC; empty if never.
        about: The digest of what was verified; empty if nothing was.
        reasons: What contradicts it, or makes the ablation of some sources less than
            exact.
    """

    state: Literal["holds", "fails", "changed", "unchecked"]
    time: str = ""
    about: str = ""
    reasons: tuple[Reason, ...] = ()

    @property
    def contradictions(self) -> list[Reason]:
        """What contradicts the certificate."""
        return [reason for reason in self.reasons if reason.holds is False]

    @property
    def proven(self) -> bool:
        """Whether an ablation of which no reason speaks is known to be exact."""
        if self.state == "holds":
            return True
        return self.state == "fails" and all(one.sources for one in self.contradictions)

    def against(self, removed: Sequence[int]) -> list[Reason]:
        """Why the ablation of these sources, together, is not exact."""
        if self.state not in ("holds", "fails"):
            return []
        return [reason for reason in self.reasons if reason.concerns(removed)]

    @property
    def remedies(self) -> list[str]:
        """What to do about the contradictions, each remedy once."""
        return list(dict.fromkeys(one.remedy for one in self.contradictions))

    def said(self, command: str) -> list[str]:
        """Its state in sentences, the first of which says the most.

        Args:
            command: What verifies the folder.
        """
        if self.state == "unchecked":
            return [
                "The certificate has not been checked, so nothing here is known to be "
                f"exact. Check it: {command}"
            ]
        if self.state == "changed":
            return [
                "The certificate has not been checked since this folder was changed "
                f"(last at {self.time}), so nothing here is known to be exact. Check "
                f"it: {command}"
            ]
        checked = f"checked at {self.time}, of files with the digest {self.about[:12]}"
        if self.state == "holds":
            notes = [one.line for one in self.reasons]
            return [f"The certificate holds ({checked}).", *_first(notes)]
        found = [one.line for one in self.contradictions]
        return [
            f"The certificate does not hold ({checked}).",
            *_first(found),
            *self.remedies,
        ]


def record(run: Run, about: str, findings: Iterable[Found]) -> None:
    """Put on record what was found of the whole run folder.

    Args:
        run: The run folder.
        about: What `digest` said of it before anything was looked at.
        findings: What the certificate says, sentence by sentence.
    """
    kept = [
        {
            "line": one.line,
            "holds": one.holds,
            "remedy": one.remedy,
            "sources": list(one.sources),
        }
        for one in findings
    ]
    holds = all(one["holds"] is not False for one in kept)
    facts = {
        "checked": environment.now(),
        "holds": holds,
        "about": about,
        "findings": kept,
    }
    files.write_json(run.path / FILE, facts)


def read(run: Run) -> Verification:
    """What is on record of a run folder, compared with its files of now.

    Raises:
        BadInput: If the record is damaged.
    """
    path = run.path / FILE
    if not path.exists():
        return Verification("unchecked")
    kept = files.read_json(path)
    time, about = kept["checked"], kept["about"]
    if about != digest(run):
        return Verification("changed", time, about)
    reasons = tuple(
        Reason(one["line"], one["holds"], one["remedy"], tuple(one["sources"]))
        for one in kept["findings"]
        if one["holds"] is False or (one["holds"] is None and one["sources"])
    )
    return Verification("holds" if kept["holds"] else "fails", time, about, reasons)


def digest(run: Run) -> str:
    """The sha256 of every file that a verification looks at, of members and plan.

    Training images are not among them: the manifest holds their fingerprint, which is
    compared with them whenever they are read.
    """
    manifest = files.read_json(run.manifest) if run.manifest.exists() else {}
    facts: dict[str, Any] = {
        name: value for name, value in manifest.items() if name != "stages"
    }
    facts["files"] = {
        str(path.relative_to(run.path)): files.sha256(path) for path in _files(run.path)
    }
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """Everything that a verification looks at, in a fixed order."""
    named = [folder / name for name in (*FILES, *PIPELINE)]
    yield from (path for path in named if path.is_file())
    for part in ("members", REFERENCE):
        for path in sorted((folder / part).rglob("*")):
            hidden = any(
                one[0] == "." or one.endswith((".part", ".old"))
                for one in path.relative_to(folder).parts
            )
            if path.is_file() and not hidden:
                yield path


def _first(lines: list[str]) -> list[str]:
    """The first few of many sentences, and how many more there are."""
    more = len(lines) - MOST_REASONS
    return lines[:MOST_REASONS] + (
        [f"And {more} more such findings."] if more > 0 else []
    )
