"""Exit handling of the commands: exit codes, one-line errors, and signals to stop."""

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
from ensemble.system.early import RESUME_MESSAGE
from ensemble.system.text import visible
from splits.errors import BadInput

# Disk errors that the user can fix: no room, no permission, mounted read-only.
DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
# Errors about a folder in the place of a file, or a file in the place of a folder.
MISPLACED = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)
# The longest time from a signal to stop until the process ends.
MOST_SECONDS = 8.0


def run_guarded(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a script's main function; bad input or a full disk ends in a one-line error.

    Returns:
        The exit code: main's own, 2 for bad input, 75 if a signal interrupted the
        command or the reader of its output is gone.
    """
    _escape_unprintable()
    try:
        with _signals_handled():
            code = main(arguments)
    except BadInput as error:
        code = _print_error(f"error: {visible(str(error))}")
    except MemoryError:
        code = _print_error(
            "error: there is not enough memory. End other programs, take a machine "
            "with more, or ask for less at once; what is done is kept."
        )
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        code = 75
    except (OSError, SafetensorError) as error:
        said = _user_message(error)
        if said is None:
            raise
        code = _print_error(said)
    except KeyboardInterrupt:
        _print_error(RESUME_MESSAGE)
        code = 75
    _flush()
    return code


def _print_error(text: str) -> int:
    """Print an error to stderr and return the exit code for bad input."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)
    return 2


def _flush() -> None:
    """Flush the output; drop it if its reader is gone.

    Otherwise Python tries to flush at exit, and prints an error about that.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _reader_is_gone() -> bool:
    """Whether the reader of the output is gone, such as `head` after ten lines."""
    watched = select.poll()
    for stream in (sys.stdout, sys.stderr):
        # A test may have replaced the stream by an object that is no file.
        with contextlib.suppress(OSError, ValueError):
            watched.register(stream.fileno(), 0)
    return any(
        events & (select.POLLERR | select.POLLHUP) for _, events in watched.poll(0)
    )


def _user_message(error: OSError | SafetensorError) -> str | None:
    """The message for a system error that the user can fix; None for a defect."""
    number = _errno_of(error)
    # The error of a write without room has no file name.
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


def _escape_unprintable() -> None:
    """Escape characters that the terminal cannot show, instead of raising an error.

    File names need not be valid Unicode, and not every terminal shows Unicode.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _errno_of(error: OSError | SafetensorError) -> int | None:
    """The system's error number, which safetensors only gives in the text."""
    if isinstance(error, OSError):
        # numpy's error about an incomplete write has no number; there was no room.
        short = re.fullmatch(r"\d+ requested and \d+ written", str(error))
        return errno.ENOSPC if short else error.errno
    found = re.search(r"(?:os error|code:) (\d+)", str(error))
    return int(found[1]) if found else None


def _interrupt(number: int, frame: FrameType | None) -> None:
    # An exception could break a library in the middle of its import.
    if early.is_importing(frame):
        early.stop()
    signal.default_int_handler(number, frame)


@contextlib.contextmanager
def _signals_handled() -> Iterator[None]:
    """Let SIGTERM interrupt like Ctrl-C, and end the process after `MOST_SECONDS`.

    Python handles a signal between two of its instructions, and a single instruction may
    be an hour of linear algebra. So a thread waits for signals too. It may end the
    process at any point, because files on the disk are complete at any point.
    """
    ended = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while number := reader.recv(1):
            asked = number[0] in before
            if asked and not ended.wait(MOST_SECONDS):
                os.write(2, f"{RESUME_MESSAGE}\n".encode())
                os._exit(75)

    wakes = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, _interrupt) for number in early.SIGNALS}
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(wakes)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
