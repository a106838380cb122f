"""Tar archives: what lies where in one, once it is known to be whole and plain."""

import lzma
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from splits.errors import BadInput
from splits.unreadable import unreadable

# What an archive may ask of memory, in bytes: names and comments of a member; a member.
MOST_OF_HEADER = 2**20
MOST_OF_MEMBER = 2**28
# All members together, where the archive is packed: so much, or so many times its size.
MOST_UNPACKED = 2**26
MOST_GROWTH = 100
# What Python raises at bytes that are no archive, or one compressed or nested badly.
_NO_TAR = (
    tarfile.TarError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
    lzma.LZMAError,
    zlib.error,
)


class Place(NamedTuple):
    """Where a field of a sample lies in its shard.

    Attributes:
        name: Of the file in the archive, such as `000417.png`.
        offset: The byte of the archive at which its content begins.
        size: Bytes of its content.
    """

    name: str
    offset: int
    size: int


def inspect(path: Path, name: str, alone: bool = True) -> list[Place]:
    """Read a tar file from end to end, and refuse what is cut short or not plain.

    The tar readers of Python and WebDataset take a damaged header for the end of the
    archive and skip links without a word: samples would be lost silently.

    Args:
        path: The tar file, compressed or not.
        name: What to call it in a message.
        alone: Whether anything but zeros behind its end mark is refused: archives that
            were joined byte by byte look so, and only the first of them is ever read.

    Returns:
        Where every file lies in the archive, once it is unpacked.

    Raises:
        BadInput: If the archive ends early or cannot be read, or goes on behind its
            end, or if a member is a link or a device, lies outside of the folder that
            it is unpacked in, or unpacks to far more than it was.
    """
    found = []
    allowed = max(MOST_UNPACKED, MOST_GROWTH * path.stat().st_size)
    try:
        with tarfile.open(path, tarinfo=_Header) as tar:
            for member in tar:
                _refuse_outlaw(member, name)
                _refuse_bomb(member, name, allowed)
                if member.isreg():
                    found.append(Place(member.name, member.offset_data, member.size))
            complete = _end_is_marked(tar)
            if complete and alone:
                _refuse_joined(tar, name, allowed)
    except BadInput:
        raise
    except _NO_TAR as error:
        # What is wrong with the bytes has no number of the system.
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from None
        raise BadInput(
            f"{name} cannot be read as a tar file ({error}). It is damaged or was cut "
            "short: restore it from a copy."
        ) from None
    if not complete:
        raise BadInput(
            f"{name} has no end mark: it is damaged or was cut short, and samples are "
            "missing. Restore it from a copy."
        )
    return found


class _Header(tarfile.TarInfo):
    """A header that is refused before what it announces is read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        header = super().frombuf(buf, encoding, errors)
        extends = header.type not in tarfile.REGULAR_TYPES
        if header.size < 0 or (extends and header.size > MOST_OF_HEADER):
            raise tarfile.ReadError(f"a header announces {header.size} bytes")
        return header


def _refuse_bomb(member: tarfile.TarInfo, name: str, allowed: int) -> None:
    end = member.offset_data + member.size
    if member.size > MOST_OF_MEMBER or end > allowed:
        raise BadInput(
            f"{name} unpacks to {max(member.size, end):,} bytes at least, of which "
            f"{member.name!r} takes {member.size:,}; allowed are {MOST_OF_MEMBER:,} for "
            f"one file, and {allowed:,} for all. Pack smaller images, or without "
            "compression."
        )


def _refuse_outlaw(member: tarfile.TarInfo, name: str) -> None:
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise BadInput(
            f"{name} has the member {member.name!r}, which is a link or a device, "
            "or a file with holes. Shards hold plain files only: pack the file itself."
        )
    if not is_inside(member.name):
        raise BadInput(
            f"{name} has the member {member.name!r}, whose path is absolute or leads "
            "to a parent folder. Pack it again with relative paths."
        )


def _refuse_joined(tar: tarfile.TarFile, name: str, allowed: int) -> None:
    """Read what follows the end mark: zeros up to a whole number of blocks."""
    assert tar.fileobj is not None
    n_read = tar.offset
    while n_read <= allowed and (block := tar.fileobj.read(2**16)):
        if block.strip(b"\0"):
            raise BadInput(
                f"{name} goes on behind its end mark: archives were joined byte by "
                "byte, and only the first would be read. Join them with tar "
                "--concatenate, or list each archive by itself."
            )
        n_read += len(block)
    if n_read > allowed:
        raise BadInput(
            f"{name} unpacks to {n_read:,} bytes at least, most of them zeros behind "
            f"its end mark; allowed are {allowed:,}. Pack it again."
        )


def is_inside(name: str) -> bool:
    """Whether a path is relative and leads to no parent folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


def _end_is_marked(tar: tarfile.TarFile) -> bool:
    """Whether iteration stopped at a block of zeros, as every finished tar file has."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    return tar.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
