"""Asked to stop while a script is still importing what it needs: it stops at once.

Nothing has been written then. The usual way, an exception, would be a traceback out of
somebody's import, or an abort within the start of a library. The scripts call
`install` before they import anything else, so this module imports next to nothing.
"""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

GOES_ON = "Interrupted; the same command goes on from here."
NUMBERS = (signal.SIGINT, signal.SIGTERM)


def install() -> None:
    """From now on, a request to stop ends the process with exit code 75."""
    for number in NUMBERS:
        signal.signal(number, stop)


def stop(*_: Any) -> NoReturn:
    """End this process without raising anything; what was printed is shown."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"{GOES_ON}\n".encode())
    os._exit(75)


def importing(frame: FrameType | None) -> bool:
    """Whether what runs in a frame was called by an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
