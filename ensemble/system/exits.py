"""How a script ends: its exit code, one clear line, and soon after it is asked to stop."""

import contextlib
import errno
import io
import os
import re
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from safetensors import SafetensorError

from ensemble.system import early
from ensemble.system.early import GOES_ON
from ensemble.system.text import visible
from splits.errors import BadInput

# What the user can mend about a disk: no room, no permission, mounted read-only.
DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
# A folder where a file is wanted, or the other way round.
MISPLACED = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)
# From the request to stop to the end, whatever the process is doing.
MOST_SECONDS = 8.0


def guarded(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a script's main; bad input and a full disk end in one clear line.

    Returns:
        The exit code: main's own, 2 for bad input, 75 if interrupted from outside, as
        it is if nobody reads its output any more.
    """
    _print_any_name()
    try:
        with _stoppable():
            code = main(arguments)
    except BadInput as error:
        code = _complain(f"error: {visible(str(error))}")
    except MemoryError:
        code = _complain(
            "error: there is not enough memory. End other programs, take a machine "
            "with more, or ask for less at once; what is done is kept."
        )
    except BrokenPipeError:
        if not _unread():
            raise
        code = 75
    except (OSError, SafetensorError) as error:
        said = _said_of(error)
        if said is None:
            raise
        code = _complain(said)
    except KeyboardInterrupt:
        _complain(GOES_ON)
        code = 75
    _flush()
    return code


def _complain(text: str) -> int:
    """Say on the terminal what went wrong; returns the exit code for bad input."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)
    return 2


def _flush() -> None:
    """Print what is still to be printed, or drop it where nobody reads it.

    Otherwise Python tries once more when it ends, and complains of that.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _unread() -> bool:
    """Whether the reader of what is printed is gone, as `head` is after ten lines."""
    watched = select.poll()
    for stream in (sys.stdout, sys.stderr):
        # What a test has put in their place may be no file.
        with contextlib.suppress(OSError, ValueError):
            watched.register(stream.fileno(), 0)
    return any(
        events & (select.POLLERR | select.POLLHUP) for _, events in watched.poll(0)
    )


def _said_of(error: OSError | SafetensorError) -> str | None:
    """What a user can mend about an error of the system; None: it is a defect."""
    number = _number(error)
    # A write that finds no room does not know the name of its file.
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    place = f" {name}" if name else ""
    if number in DISK:
        return (
            f"error: cannot read or write{place}: {os.strerror(number)}. Make room or "
            "permit access, or choose another folder; what is done is kept."
        )
    if number in MISPLACED and name:
        return (
            f"error: cannot read or write{place}: {os.strerror(number)}. A folder stands "
            "where a file is wanted, or a file where a folder is: move it away, or "
            "restore what was there; what is done is kept."
        )
    return None


def _print_any_name() -> None:
    """Spell out what the terminal has no letter for, instead of failing at it.

    Names of files need not be valid Unicode, and not every terminal shows Unicode.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _number(error: OSError | SafetensorError) -> int | None:
    """The system's number of an error; safetensors only writes it into its text."""
    if isinstance(error, OSError):
        # numpy says what it could not write, and not why: there was no room.
        short = re.fullmatch(r"\d+ requested and \d+ written", str(error))
        return errno.ENOSPC if short else error.errno
    found = re.search(r"(?:os error|code:) (\d+)", str(error))
    return int(found[1]) if found else None


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Libraries in the middle of their start do not stand an exception.
    if early.importing(frame):
        early.stop()
    signal.default_int_handler(number, frame)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM asks to stop as Ctrl-C does, and neither waits longer than that.

    Python answers a signal between two of its instructions, and one of them may be an
    hour of linear algebra. So a thread listens too. It may end the process at any
    point, because whatever is on the disk is whole at any point.
    """
    ended = threading.Event()
    heard, told = socket.socketpair()
    told.setblocking(False)

    def listen() -> None:
        while number := heard.recv(1):
            asked = number[0] in before
            if asked and not ended.wait(MOST_SECONDS):
                os.write(2, f"{GOES_ON}\n".encode())
                os._exit(75)

    wakes = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, _interrupt) for number in early.NUMBERS}
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(wakes)
        for number, handler in before.items():
            signal.signal(number, handler)
        told.close()
