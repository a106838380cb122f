"""Errors for files that cannot be read although they may be intact.

A file without read permission, on a missing disk, or larger than the memory may be
intact. A user who reads "damaged" would delete it, so these errors are different ones.
"""

from pathlib import Path

from splits.errors import BadInput


def unreadable(path: Path, error: OSError) -> BadInput:
    """The error for a file that the system refuses to read."""
    if path.is_dir():
        return BadInput(
            f"{path} is a folder, where a file is wanted. Move it away, and restore the "
            "file from a copy or run the stage that wrote it again."
        )
    return BadInput(
        f"Cannot read {path}: {error.strerror or error}. The file may be whole: permit "
        "access, or see to the disk, and give the same command again."
    )


def too_large(what: str | Path) -> BadInput:
    """The error for a file that does not fit into memory."""
    return BadInput(
        f"There is not enough memory to read {what}. It may be whole: end other "
        "programs, or take a machine with more memory, and give the same command again."
    )
