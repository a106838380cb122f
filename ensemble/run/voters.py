"""Who may vote: the members that no removed source has been shown to.

Nobody switches silence on or off. A member is silenced as long as its record says that
it was trained on a removed source; the moment that a repaired member takes its place,
the record says otherwise. Whatever loads members asks here first.

A removal or a repair may come at any moment, so a command asks once, and works by that:
`Membership` is what it was told. What is recorded of a result is the membership that
made it, never a second reading of the folder.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from ensemble.run import files, removal_log
from ensemble.run.folder import codes_of
from splits.codes import CodeBook
from splits.errors import BadInput


@dataclass(frozen=True, eq=False)
class Membership:
    """Who may vote, and what they know, as it was when the folder was read.

    Attributes:
        members: Those who may vote, by number; or those of them that were loaded.
        silenced: Those who may not, because they saw a removed source.
        removed: Sources that were removed, ascending.
        codes: The code book of `members`, column by column, without removed sources.
        weights: The sha256 of the weights of each of `members`, by number; those that
            are not there, or whose record is damaged, are missing.
        drawn: Digest of the code book of all members, as it was drawn.
    """

    members: tuple[int, ...]
    silenced: tuple[int, ...]
    removed: tuple[int, ...]
    codes: CodeBook
    weights: Mapping[int, str]
    drawn: str

    @classmethod
    def read(cls, folder: Path) -> "Membership":
        """The membership of a run folder, read in one go.

        Raises:
            BadInput: If nobody may vote, or the log of removals, the code book or the
                record of a member that saw a removed source is damaged.
        """
        while True:
            log = removal_log.lines_of(folder)
            found = cls._read(folder)
            # A request that came while records were read belongs to another membership.
            if removal_log.lines_of(folder) == log:
                return found

    @classmethod
    def _read(cls, folder: Path) -> "Membership":
        gone, book = removal_log.removed(folder), codes_of(folder)
        bits = book.bits
        records = {
            member: _record(folder, member, needed=bool(bits[gone, member].any()))
            for member in range(bits.shape[1])
        }
        silent = _silenced(bits, gone, lambda member: _split(records[member]))
        members = tuple(one for one in records if one not in silent)
        if not members:
            raise nobody(folder)
        return cls(
            members=members,
            silenced=tuple(silent),
            removed=tuple(gone),
            codes=CodeBook(kept(bits, gone)[:, members]),
            weights={
                member: record["weights_sha256"]
                for member in members
                if (record := records[member]) and "weights_sha256" in record
            },
            drawn=book.digest(),
        )

    def only(self, members: Sequence[int]) -> "Membership":
        """The same for some of the members, in this order.

        Raises:
            KeyError: If one of them may not vote.
        """
        column = {member: number for number, member in enumerate(self.members)}
        return dataclasses.replace(
            self,
            members=tuple(members),
            codes=CodeBook(self.codes.bits[:, [column[one] for one in members]]),
            weights={one: self.weights[one] for one in members if one in self.weights},
        )

    @property
    def weights_digest(self) -> str:
        """The sha256 of the members' numbers and of their weights' digests."""
        known = [[member, self.weights.get(member)] for member in self.members]
        return removal_log.digest_of(json.dumps(known))

    def digest(self) -> str:
        """The sha256 of all that decides what these members draw: codes and weights."""
        return removal_log.digest_of(f"{self.codes.digest()} {self.weights_digest}")

    def facts(self) -> dict[str, Any]:
        """What goes on record of whatever these members make."""
        return {
            "code_book_digest": self.codes.digest(),
            "weights_digest": self.weights_digest,
        }

    def made(self, record: Mapping[str, Any]) -> bool:
        """Whether these members, with these weights, made what a record is of.

        Version 0.1 did not write down weights, and no code book as long as nothing
        could be removed: all members voted then.
        """
        codes = record.get("code_book_digest") or self.drawn
        weights = record.get("weights_digest")
        known = len(self.weights) == len(self.members)
        other_weights = known and weights not in (None, self.weights_digest)
        return codes == self.codes.digest() and not other_weights

    def require_made(self, path: Path, record: Mapping[str, Any]) -> None:
        """Refuse results that others made than these members with these weights.

        Args:
            path: The result.
            record: What is on record of it.

        Raises:
            BadInput: If it is out of date, or the members are others.
        """
        if self.made(record):
            return
        if self.removed:
            raise BadInput(
                f"{path} is from before a removal or a repair: members had a part in it "
                "that are silenced now, or have been trained again since. Delete it, or "
                "use another --name. If neither happened, `attribute.py RUN verify` says "
                "which member was replaced."
            )
        raise BadInput(
            f"{path} was made by other members: their code book and weights have the "
            f"digests {record.get('code_book_digest')} and "
            f"{record.get('weights_digest')}, those of the members that are asked now "
            f"{self.codes.digest()} and {self.weights_digest}. Delete it, or use another "
            "--name."
        )


def kept(
    bits: Bool[np.ndarray, "sources members"], removed: Sequence[int]
) -> Bool[np.ndarray, "sources members"]:
    """What members are to be trained on without the removed sources.

    A member that would be left with nothing keeps its split, and is retired: it can
    never be trained again, and stays silent.
    """
    left = bits.copy()
    left[list(removed)] = False
    retired = ~left.any(axis=0)
    left[:, retired] = bits[:, retired]
    return left


def retired(folder: Path) -> list[int]:
    """Members of which every source was removed."""
    gone = removal_log.removed(folder)
    if not gone:
        return []
    left = kept(codes_of(folder).bits, gone)
    return np.flatnonzero(left[gone].any(axis=0)).tolist()


def silenced(folder: Path) -> list[int]:
    """Members that may not vote: they saw a removed source, and still know it.

    Args:
        folder: A run folder; any other folder of members has no log and no silence.

    Raises:
        BadInput: If the log of removals or a member's record is damaged.
    """
    return silenced_by(folder, removal_log.removed(folder))


def silenced_by(folder: Path, gone: Sequence[int]) -> list[int]:
    """Members that may not vote once these sources are removed."""
    if not gone:
        return []
    bits = codes_of(folder).bits
    return _silenced(bits, gone, lambda member: _split(_record(folder, member)))


def _silenced(
    bits: Bool[np.ndarray, "sources members"],
    gone: Sequence[int],
    split_of: Callable[[int], str | None],
) -> list[int]:
    """Members that still know one of these sources.

    Args:
        bits: The code book as it was drawn.
        gone: The removed sources.
        split_of: The digest of the split that a member was trained on; None if it is
            not trained.
    """
    if not gone:
        return []
    left = kept(bits, gone)
    affected = np.flatnonzero(bits[list(gone)].any(axis=0)).tolist()
    return [
        member
        for member in affected
        if left[list(gone), member].any()
        or split_of(member) != CodeBook(left[:, [member]]).split_digest(0)
    ]


def _record(folder: Path, member: int, needed: bool = True) -> dict[str, Any] | None:
    """What is on record of a member; None if it is not trained.

    Args:
        folder: The run folder.
        member: Its number.
        needed: Whether a damaged record is an error: one that is lost must not silence
            a member that was repaired. Else it is None too, and whoever loads the
            member says what is wrong.

    Raises:
        BadInput: If it is damaged and needed.
    """
    trained = folder / "members" / f"{member:03d}"
    if not trained.exists():
        return None
    try:
        return files.read_json(trained / "member.json")
    except BadInput:
        if needed:
            raise
        return None


def _split(record: dict[str, Any] | None) -> str | None:
    return None if record is None else record["split_digest"]


def voting(folder: Path, n_members: int) -> list[int]:
    """Members that may vote, ascending."""
    silent = silenced(folder)
    return [member for member in range(n_members) if member not in silent]


def book(folder: Path) -> CodeBook:
    """The code book of those that may vote, without the removed sources.

    Raises:
        BadInput: If nobody may vote.
    """
    return Membership.read(folder).codes


def require_voting(folder: Path, silent: Sequence[int], members: Sequence[int]) -> None:
    """Refuse to load members that are among the silenced ones.

    Raises:
        BadInput: If one of them is silenced.
    """
    found = sorted(set(silent) & set(members))
    if found:
        raise BadInput(
            f"Member {found[0]} of {folder} is silenced: it saw a source that was "
            f"removed. Load others, or train it again without: {repair(folder)}."
        )


def nobody(folder: Path) -> BadInput:
    """The error for an ensemble in which everybody is silenced."""
    return BadInput(
        f"No member of {folder} is left to vote: each saw a source that was removed. "
        f"Train them again without: {repair(folder)}."
    )


def changed(folder: Path) -> BadInput:
    """The error for a command that works by a membership that is over."""
    return BadInput(
        f"While this command was at work, sources were removed from {folder}, or members "
        "were trained again. Nothing was written: run the command again, and it starts "
        "from what is there now."
    )


def repair(folder: Path) -> str:
    """The command that lifts the silence."""
    return f"python train.py {folder / 'config.yaml'} --repair"
