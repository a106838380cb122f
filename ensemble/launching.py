"""Several processes, each of which trains a share of the members.

Accelerate starts them and gives each its device. A process that Accelerate started, by
us or by `accelerate launch train.py`, finds its place in the environment.

Before: train.py. After: training.py.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from splits.errors import BadInput


def is_worker() -> bool:
    """Whether Accelerate started this process as one of several."""
    return "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this process speaks for all, once all are done."""
    return os.environ.get("RANK", "0") == "0" and (
        not is_worker() or "ENSEMBLE_PARENT" not in os.environ
    )


def guarded(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a script's main; bad input and a full disk end in one clear line.

    Returns:
        The exit code: main's own, 2 for bad input, 75 if interrupted from outside.
    """
    try:
        return main(arguments)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        print(
            f"error: cannot write {error.filename}: {error.strerror}. Make room, or "
            "choose a folder that can be written; what is done is kept.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 75


def n_processes(asked: int | None, n_members: int) -> int:
    """Processes to start: as asked; else one per device; else one per core."""
    return min(asked or _n_devices() or os.cpu_count() or 1, max(1, n_members))


def launch(arguments: Sequence[str], processes: int, threads: int) -> int:
    """Run a script in several processes under Accelerate, to their end.

    A request to stop is passed on, so that every process writes its checkpoint.

    Returns:
        The exit code; 75 if the processes were asked to stop.
    """
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--num_processes", str(processes), "--num_machines", "1"),
        *("--main_process_port", str(_free_port())),
        *("--num_cpu_threads_per_process", str(threads)),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *(["--multi_gpu"] if _n_devices() else ["--cpu"]),
        *arguments,
    ]
    ours = {"TORCH_CPP_LOG_LEVEL": "ERROR", "ENSEMBLE_PARENT": str(os.getpid())}
    child = subprocess.Popen(
        command, env={**os.environ, **ours}, start_new_session=True
    )
    asked = False

    def pass_on(*_: Any) -> None:
        nonlocal asked
        asked = True
        child.send_signal(signal.SIGTERM)

    before = {
        number: signal.signal(number, pass_on)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 75 if asked else code


def _n_devices() -> int:
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
