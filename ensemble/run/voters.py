"""Voters: the members that were never shown a removed source.

There is no switch that silences a member. A member is silenced as long as its record
says that it was trained on a removed source; once a repaired member has taken its
place, the record says otherwise. All code that loads members asks this module first.

A removal or a repair can happen at any moment. So a command reads the `Membership` once
and uses it until its end. The record of a result describes the membership that made it,
never a second reading of the folder.
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
    """The members that may vote, their codes and their weights, at one point in time.

    Attributes:
        members: Numbers of the members that may vote, or of those that were loaded.
        silenced: Members that may not vote, because they saw a removed source.
        removed: Sources that were removed, ascending.
        codes: The code book of `members`, column by column, without removed sources.
        weights: The sha256 of the weights of each of `members`, by number. Members that
            are not trained, or whose record is damaged, are left out.
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
            # A request that arrived during the reading belongs to another membership.
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
            raise no_voters_error(folder)
        return cls(
            members=members,
            silenced=tuple(silent),
            removed=tuple(gone),
            codes=CodeBook(remaining_bits(bits, gone)[:, members]),
            weights={
                member: record["weights_sha256"]
                for member in members
                if (record := records[member]) and "weights_sha256" in record
            },
            drawn=book.digest(),
        )

    def only(self, members: Sequence[int]) -> "Membership":
        """The membership of some of the members, in the given order.

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
        """The sha256 of everything that determines these members' pictures."""
        return removal_log.digest_of(f"{self.codes.digest()} {self.weights_digest}")

    def facts(self) -> dict[str, Any]:
        """The facts about these members in the record of each of their results."""
        return {
            "code_book_digest": self.codes.digest(),
            "weights_digest": self.weights_digest,
        }

    def made(self, record: Mapping[str, Any]) -> bool:
        """Whether these members, with these weights, made the result of a record.

        Version 0.1 did not record weights. Before removal existed, it did not record
        the code book either; all members voted then.
        """
        codes = record.get("code_book_digest") or self.drawn
        weights = record.get("weights_digest")
        known = len(self.weights) == len(self.members)
        other_weights = known and weights not in (None, self.weights_digest)
        return codes == self.codes.digest() and not other_weights

    def require_made(self, path: Path, record: Mapping[str, Any]) -> None:
        """Refuse a result that other members, or other weights, made.

        Args:
            path: The result.
            record: Its record.

        Raises:
            BadInput: If the result is out of date, or other members made it.
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


def remaining_bits(
    bits: Bool[np.ndarray, "sources members"], removed: Sequence[int]
) -> Bool[np.ndarray, "sources members"]:
    """The code book without the removed sources, as members are trained on it.

    A member whose sources were all removed keeps its split and is retired: it can never
    be trained again, and stays silenced.

    Examples:
        >>> remaining_bits(np.array([[1, 0], [1, 1]], dtype=bool), [1]).astype(int)
        array([[1, 0],
               [0, 1]])
    """
    left = bits.copy()
    left[list(removed)] = False
    emptied = ~left.any(axis=0)
    left[:, emptied] = bits[:, emptied]
    return left


def retired_members(folder: Path) -> list[int]:
    """Members whose sources were all removed."""
    gone = removal_log.removed(folder)
    if not gone:
        return []
    left = remaining_bits(codes_of(folder).bits, gone)
    return np.flatnonzero(left[gone].any(axis=0)).tolist()


def silenced_members(folder: Path) -> list[int]:
    """Members that may not vote, because they were trained on a removed source.

    Args:
        folder: A run folder. In any other folder of members nothing was removed.

    Raises:
        BadInput: If the log of removals or a member's record is damaged.
    """
    return silenced_by(folder, removal_log.removed(folder))


def silenced_by(folder: Path, gone: Sequence[int]) -> list[int]:
    """Members that may not vote if these sources are removed."""
    if not gone:
        return []
    bits = codes_of(folder).bits
    return _silenced(bits, gone, lambda member: _split(_record(folder, member)))


def _silenced(
    bits: Bool[np.ndarray, "sources members"],
    gone: Sequence[int],
    split_of: Callable[[int], str | None],
) -> list[int]:
    """Members whose weights were trained on one of these sources.

    Args:
        bits: The code book as it was drawn.
        gone: The removed sources.
        split_of: The digest of the split that a member was trained on; None if it is
            not trained.
    """
    if not gone:
        return []
    left = remaining_bits(bits, gone)
    affected = np.flatnonzero(bits[list(gone)].any(axis=0)).tolist()
    return [
        member
        for member in affected
        if left[list(gone), member].any()
        or split_of(member) != CodeBook(left[:, [member]]).split_digest(0)
    ]


def _record(folder: Path, member: int, needed: bool = True) -> dict[str, Any] | None:
    """The record of a member; None if the member is not trained.

    Args:
        folder: The run folder.
        member: The member's number.
        needed: Whether a damaged record is an error. It is one for a member that may
            have been repaired, which a lost record must not silence. For others the
            result is None, and the code that loads the member raises the error.

    Raises:
        BadInput: If the record is damaged and needed.
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


def voting_members(folder: Path, n_members: int) -> list[int]:
    """Members that may vote, ascending."""
    silent = silenced_members(folder)
    return [member for member in range(n_members) if member not in silent]


def voters_code_book(folder: Path) -> CodeBook:
    """The code book of the members that may vote, without the removed sources.

    Raises:
        BadInput: If no member may vote.
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
            f"removed. Load others, or train it again without: {repair_command(folder)}."
        )


def no_voters_error(folder: Path) -> BadInput:
    """The error for an ensemble in which every member is silenced."""
    return BadInput(
        f"No member of {folder} is left to vote: each saw a source that was removed. "
        f"Train them again without: {repair_command(folder)}."
    )


def membership_changed_error(folder: Path) -> BadInput:
    """The error for a command during which the membership changed."""
    return BadInput(
        f"While this command was at work, sources were removed from {folder}, or members "
        "were trained again. Nothing was written: run the command again, and it starts "
        "from what is there now."
    )


def repair_command(folder: Path) -> str:
    """The command that trains silenced members again."""
    return f"python train.py {folder / 'config.yaml'} --repair"
