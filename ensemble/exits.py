"""How a script ends: its exit code, one clear line, and soon after it is asked to stop.

Before: store.py. After: train.py, attribute.py, coded_shards.py.
"""

import contextlib
import errno
import io
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from safetensors import SafetensorError

from ensemble import store
from splits.errors import BadInput

# What the user can mend about a disk: no room, no permission, mounted read-only.
DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
# From the request to stop to the end, whatever the process is doing.
MOST_SECONDS = 8.0
GOES_ON = "Interrupted; the same command goes on from here."


def guarded(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a script's main; bad input and a full disk end in one clear line.

    Returns:
        The exit code: main's own, 2 for bad input, 75 if interrupted from outside.
    """
    _print_any_name()
    try:
        with _stoppable():
            return main(arguments)
    except BadInput as error:
        print(f"error: {store.visible(str(error))}", file=sys.stderr)
        return 2
    except (OSError, SafetensorError) as error:
        number = _number(error)
        if number not in DISK:
            raise
        # A write that finds no room does not know the name of its file.
        name = getattr(error, "filename", None)
        place = f" {name}" if name else ""
        print(
            f"error: cannot read or write{place}: {os.strerror(number)}. Make room or "
            "permit access, or choose another folder; what is done is kept.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(GOES_ON, file=sys.stderr)
        return 75


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
        return error.errno
    found = re.search(r"(?:os error|code:) (\d+)", str(error))
    return int(found[1]) if found else None


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
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(wakes)
        for number, handler in before.items():
            signal.signal(number, handler)
        told.close()
