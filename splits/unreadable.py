"""Files that cannot be read though nothing is wrong with them.

A file without permission, on a disk that is gone, or larger than the memory may be
whole. Whoever is told that it is damaged deletes it, so those are told apart.
"""

from pathlib import Path

from splits.errors import BadInput


def unreadable(path: Path, error: OSError) -> BadInput:
    """The error for a file that the system does not let us read."""
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
    """The error for something that the memory does not hold."""
    return BadInput(
        f"There is not enough memory to read {what}. It may be whole: end other "
        "programs, or take a machine with more memory, and give the same command again."
    )
