"""Locks: who comes second waits, or does something else, and is told for whom.

A lock is a file `.NAME.lock` beside what is made. The system's own lock on it (flock)
counts, not that the file is there: it ends with the process that holds it, however that
ends. Between machines that share a folder it works where the file system passes locks
on, as NFS 4, CephFS and Lustre (`-o flock`) do; the server takes the lock back from a
machine that is gone, after its lease. Where a file system has no such locks, the file
itself is the lock, with process and machine in it: a later process breaks it if the
holder was killed on the same machine; of another one, it must be deleted by hand.
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


# A wait that is shorter is not worth a word.
PATIENCE_SECONDS = 1


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Be the only one who makes something; wait for whoever is at it already.

    Args:
        path: What is made.

    Raises:
        BadInput: If the file system refuses locks.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_locked(path, PATIENCE_SECONDS))
        except filelock.Timeout:
            text = f"Waiting for {path}: {holder(path)} is making it."
            print(text, file=sys.stderr, flush=True)
            held.enter_context(_locked(path, timeout=-1))
        yield


@contextlib.contextmanager
def alone_now(path: Path) -> Iterator[bool]:
    """Be the only one who makes something, unless somebody is at it already.

    Args:
        path: What is made.

    Yields:
        Whether nobody else is.

    Raises:
        BadInput: If the file system refuses locks.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_locked(path, timeout=0))
        except filelock.Timeout:
            free = False
        else:
            free = True
        yield free


def holder(path: Path) -> str:
    """Who makes something, as its lock says, and where that lock is."""
    file = lock_file(path)
    with contextlib.suppress(OSError, ValueError):
        process, machine, *_ = file.read_text(encoding="utf-8").splitlines()
        return f"process {process} on {machine} (lock {file})"
    return f"another process (lock {file})"


def lock_file(path: Path) -> Path:
    """The lock of what is made."""
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def _locked(path: Path, timeout: int) -> Iterator[None]:
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
        # A lock that is a file has its holder in it already.
        if not isinstance(lock, filelock.SoftFileLock):
            lock_file(path).write_text(f"{os.getpid()}\n{platform.node()}\n", "utf-8")
        yield
    finally:
        lock.release()
