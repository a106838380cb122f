"""The environment of a command: versions, commit, processor, peak memory, the time."""

import contextlib
import datetime
import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path

PACKAGES = ("torch", "diffusers", "accelerate", "webdataset", "numpy", "scikit-learn")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def commit() -> str | None:
    """The git commit of this project's checkout; None outside of one."""
    # Named outright: an installed copy may lie inside somebody else's checkout.
    checkout = Path(__file__).parents[2] / ".git"
    command = ["git", "--git-dir", str(checkout), "rev-parse", "HEAD"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return finished.stdout.strip() or None


def processor() -> str:
    """The processor's name, as the system reports it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# The peak memory of this process at each call of `begin_peak_memory`.
_peaks: list[int] = []


def begin_peak_memory() -> None:
    """Reset the peak that `recent_peak_memory_bytes` reports, if Linux allows it."""
    _peaks[:] = [peak_memory_bytes()]
    with contextlib.suppress(OSError):
        # See proc(5), clear_refs: 5 resets the peak to the current memory.
        Path("/proc/self/clear_refs").write_text("5", "utf-8")


def peak_memory_bytes() -> int:
    """The most memory that this process has ever held at once."""
    return max([recent_peak_memory_bytes(), *_peaks])


def recent_peak_memory_bytes() -> int:
    """The peak memory since the last call of `begin_peak_memory`.

    If the peak cannot be reset, it is the peak since the process started.
    """
    # On Linux, getrusage also counts the memory of the parent at the time of the fork.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
