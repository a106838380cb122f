"""The code book: which members train on which sources.

A source is the smallest thing whose influence we ask for: one training image, or
everything by one artist. Each source owns a code, one bit per member; a set bit means
that the member trains on the source. A row of the book is a code, a column is a
member's split. (Dai & Gifford 2023, https://arxiv.org/abs/2306.02174)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from splits.errors import BadInput


@dataclass(frozen=True, eq=False)
class CodeBook:
    """Which members train on which sources.

    Attributes:
        bits: bits[s, m] is True if member m trains on source s. Read-only.

    Raises:
        BadInput: If there is no source or no member, or a member's split is empty.

    Examples:
        >>> book = CodeBook(np.array([[1, 0], [1, 1], [0, 1]], dtype=bool))
        >>> book.n_sources, book.n_members
        (3, 2)
        >>> book.split(1).tolist()
        [1, 2]
    """

    bits: Bool[np.ndarray, "sources members"]

    def __post_init__(self) -> None:
        bits = np.array(self.bits, dtype=bool)
        if bits.ndim != 2 or not bits.size:
            raise BadInput(
                f"A code book of shape {bits.shape} holds no code: bits (sources, "
                "members) are wanted, at least one of each."
            )
        idle = np.flatnonzero(~bits.any(axis=0))
        if idle.size:
            raise BadInput(
                f"The splits of members {idle.tolist()} are empty: no source sets "
                "their bit. Use fewer members, more sources or another design."
            )
        bits.setflags(write=False)
        object.__setattr__(self, "bits", bits)

    @property
    def n_sources(self) -> int:
        """The number of sources."""
        return self.bits.shape[0]

    @property
    def n_members(self) -> int:
        """The number of members."""
        return self.bits.shape[1]

    def split(self, member: int) -> Int[np.ndarray, " split"]:
        """Sources that the member trains on, in ascending order."""
        return np.flatnonzero(self.bits[:, member])

    def digest(self) -> str:
        """The sha256 of the book, the same on every platform."""
        return _digest(self.bits)

    def split_digest(self, member: int) -> str:
        """The sha256 of one member's split, the same on every platform."""
        return _digest(self.bits[:, member])


def full_votes(n_members: int) -> Float64[np.ndarray, " members"]:
    """Equal votes for all members.

    Examples:
        >>> full_votes(4).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    return np.full(n_members, 1 / n_members)


def ablated_votes(
    codes: CodeBook, sources: Sequence[int] | Int[np.ndarray, " ablated"]
) -> Float64[np.ndarray, " members"]:
    """Silence every member that has seen any of the sources.

    With S the ablated sources and b the bits of the code book,

        survives[m] = 1 if b[s, m] = 0 for all s in S, else 0
        votes[m]    = survives[m] / sum over m' of survives[m']

    Args:
        codes: Which members saw which sources.
        sources: Rows of the code book; an empty sequence ablates nothing.

    Returns:
        Non-negative votes that sum to one.

    Raises:
        BadInput: If a source does not exist, or no member survives.

    Examples:
        >>> codes = CodeBook(np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]],
        ...     dtype=bool))
        >>> ablated_votes(codes, [0]).tolist()
        [0.0, 0.0, 0.5, 0.5]
    """
    chosen = np.asarray(list(sources), dtype=np.int64)
    unknown = chosen[(chosen < 0) | (chosen >= codes.n_sources)]
    if unknown.size:
        raise BadInput(
            f"Source {unknown[0]} does not exist: this code book has sources 0 to "
            f"{codes.n_sources - 1}."
        )
    return surviving_votes(np.logical_or.reduce(codes.bits[chosen]))


def surviving_votes(
    silenced: Bool[np.ndarray, " members"],
) -> Float64[np.ndarray, " members"]:
    """Equal votes for every member that is not silenced.

    Raises:
        BadInput: If every member is silenced.

    Examples:
        >>> surviving_votes(np.array([True, False, False])).tolist()
        [0.0, 0.5, 0.5]
    """
    survives = ~silenced
    if not survives.any():
        raise BadInput(
            f"None of the {len(silenced)} members is left to vote: each has seen some "
            "of the ablated sources. Ablate fewer, or draw codes with fewer set bits."
        )
    return survives / survives.sum()


def _digest(bits: np.ndarray) -> str:
    head = f"bits {bits.shape} ".encode()
    return hashlib.sha256(head + np.packbits(bits).tobytes()).hexdigest()
