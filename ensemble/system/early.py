"""Signal handling during imports: a request to stop ends the script immediately.

Nothing has been written at that time. An exception would end in a traceback from some
import, or abort the start of a library. Scripts call `install` before they import
anything else, so this module imports next to nothing.
"""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

RESUME_MESSAGE = "Interrupted; the same command goes on from here."
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def install() -> None:
    """Install signal handlers that end the process with exit code 75."""
    for number in SIGNALS:
        signal.signal(number, stop)


def stop(*_: Any) -> NoReturn:
    """Flush the output and end this process without raising an exception."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"{RESUME_MESSAGE}\n".encode())
    os._exit(75)


def is_importing(frame: FrameType | None) -> bool:
    """Whether the code of a frame was called by an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
