"""Locks: only one process at a time makes a file or folder.

The lock of a path NAME is a file `.NAME.lock` beside it. The system's lock on that file
(flock) counts, not the file's existence: the system releases it when the process that
holds it ends. Between machines that share a folder, this works if the file system
forwards locks, as NFS 4, CephFS and Lustre (`-o flock`) do; the server releases the lock
of a machine that is gone after its lease. On a file system without flock, the file
itself is the lock and holds the process and the machine: a later process breaks it if
the holder was killed on the same machine; that of another machine must be deleted by
hand.
"""

import contextlib
import errno
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock

from splits.errors import BadInput

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)


# A message is only printed if the wait is longer than this.
PATIENCE_SECONDS = 1


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of a path; wait as long as another process holds it.

    Args:
        path: The file or folder that is made within the block.

    Raises:
        BadInput: If the file system refuses locks.

    Examples:
        >>> with exclusive(Path("result")), try_exclusive(Path("result")) as free:
        ...     free
        False
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_file_lock(path, PATIENCE_SECONDS))
        except filelock.Timeout:
            text = f"Waiting for {path}: {holder(path)} is making it."
            print(text, file=sys.stderr, flush=True)
            held.enter_context(_file_lock(path, timeout=-1))
        yield


@contextlib.contextmanager
def try_exclusive(path: Path) -> Iterator[bool]:
    """Hold the lock of a path unless another process holds it; do not wait.

    Args:
        path: The file or folder that is made within the block.

    Yields:
        Whether this process holds the lock.

    Raises:
        BadInput: If the file system refuses locks.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_file_lock(path, timeout=0))
        except filelock.Timeout:
            free = False
        else:
            free = True
        yield free


def holder(path: Path) -> str:
    """The process that holds a path's lock, and the lock's file, as text."""
    file = lock_file(path)
    with contextlib.suppress(OSError, ValueError):
        process, machine, *_ = file.read_text(encoding="utf-8").splitlines()
        return f"process {process} on {machine} (lock {file})"
    return f"another process (lock {file})"


def lock_file(path: Path) -> Path:
    """The lock file of a path.

    Examples:
        >>> lock_file(Path("members") / "003").name
        '.003.lock'
    """
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def _file_lock(path: Path, timeout: int) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(lock_file(path), timeout=timeout)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise BadInput(
            f"The file system of {path.parent} refuses locks ({error.strerror}), so two "
            "processes could spoil each other's work. Mount it with locks, or put the "
            "run folder on another disk."
        ) from None
    try:
        # A SoftFileLock has written its holder into the file already.
        if not isinstance(lock, filelock.SoftFileLock):
            lock_file(path).write_text(f"{os.getpid()}\n{platform.node()}\n", "utf-8")
        yield
    finally:
        lock.release()
