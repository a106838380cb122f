"""Launching of several processes, each of which trains a share of the members.

The processes get the environment that torchrun would set, from which Accelerate derives
their rank and device. (`accelerate launch` itself starts only one process if there is no
device.) So processes that are started here behave like those of `accelerate launch
train.py`.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splits.errors import BadInput

# Settings that a launcher can make by environment variables, but a run does not support:
# for each variable its meaning, and the values that are harmless.
REFUSED_SETTINGS = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient accumulation", ("1",)),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", ("false", "0")),
    "ACCELERATE_USE_FSDP": ("fully sharded training", ("false", "0")),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", ("false", "0")),
    "ACCELERATE_DYNAMO_BACKEND": ("a compiler", ("no",)),
}
PRECISION = "ACCELERATE_MIXED_PRECISION"
# The folder that contains this package.
ROOT = str(Path(__file__).parents[2])
# Interval at which the launcher checks whether a process has ended.
POLLING_SECONDS = 0.1


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the command-line options that choose between this machine and a cluster."""
    engine = parser.add_argument_group("many machines")
    engine.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="ray: tasks on a Ray cluster (needs the extra `ray`)",
    )
    engine.add_argument(
        "--address",
        metavar="WHERE",
        help="ray: auto (the cluster that is running), HOST:PORT, or local (one of its "
        "own on this machine); by default auto, else local",
    )
    engine.add_argument(
        "--gpus-per-task",
        "--gpus-per-member",
        type=float,
        metavar="SHARE",
        help="ray: such as 0.25, for four side by side on a GPU (default: 1 if the "
        "cluster has any)",
    )


def require_agreement(
    mixed_precision: str, environment: Mapping[str, str] = os.environ
) -> None:
    """Refuse launcher settings in the environment that contradict the config.

    A launcher sets the precision "no" if the user did not choose any, so it is ignored.

    Args:
        mixed_precision: `training.mixed_precision` of the config.
        environment: Variables that `accelerate launch` or the user's shell has set.

    Raises:
        BadInput: If the launcher asks for another precision than the config, or for
            what a run cannot do.
    """
    precision = environment.get(PRECISION, "no").lower()
    if precision not in ("no", "", mixed_precision):
        raise BadInput(
            f"The launcher asks for {precision} ({PRECISION}), but "
            f"training.mixed_precision is {mixed_precision}. Set that to "
            f"{precision}, or unset {PRECISION}."
        )
    for name, (what, nothing) in REFUSED_SETTINGS.items():
        asked = environment.get(name, "")
        if asked and asked.lower() not in nothing:
            raise BadInput(
                f"The launcher asks for {what} ({name}={asked}), which members are "
                f"never trained with. Unset {name}; the config's training section says "
                "all that can be chosen."
            )


def is_worker() -> bool:
    """Whether Accelerate started this process as one of several."""
    return "LOCAL_RANK" in os.environ


def is_launched() -> bool:
    """Whether `launch` started this process and waits for it."""
    return "ENSEMBLE_PARENT" in os.environ


def is_first() -> bool:
    """Whether this process reports for all processes when they are done."""
    return os.environ.get("RANK", "0") == "0" and not is_launched()


def n_processes(asked: int | None, n_members: int, per_member: int = 1) -> int:
    """The number of processes to start.

    It is the requested number, else one per device, else one per core. It is limited to
    what the members need, and is a multiple of `per_member`, at least once.

    Args:
        asked: The requested number; None if there is none.
        n_members: Number of members to train.
        per_member: Number of processes that train one member together.

    Examples:
        >>> n_processes(asked=5, n_members=16, per_member=2)
        4
    """
    wanted = asked or _n_devices() or os.cpu_count() or 1
    return max(1, min(wanted // per_member, n_members)) * per_member


def launch(
    arguments: Sequence[str], processes: int, threads: int, per_member: int = 1
) -> int:
    """Run a command in several processes and wait for all of them.

    A signal to stop is passed on, so that every process writes its checkpoint. If a
    process fails, those that train the same member are stopped, and no others.

    Returns:
        The exit code; 75 if the processes were asked to stop.
    """
    if is_launched():
        raise RuntimeError("A process that was launched may not launch others.")
    shared = {
        "ENSEMBLE_PARENT": str(os.getpid()),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": str(threads),
        # The processes import this package from the same place as this process.
        "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.getenv("PYTHONPATH")))),
    }
    children: list[subprocess.Popen] = []
    asked = False

    def pass_on(*_: Any) -> None:
        nonlocal asked
        asked = True
        for child in children:
            child.send_signal(signal.SIGTERM)

    before = {
        number: signal.signal(number, pass_on)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        for rank in range(processes):
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            child = subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **environment},
                start_new_session=True,
            )
            children.append(child)
        if asked:
            # A process that was just being started has not received the signal.
            pass_on()
        codes = _wait_for_exit(children, per_member)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 75 if asked else _combined_exit_code(codes)


def is_orphaned() -> bool:
    """Whether the process that launched this one is gone."""
    parent = os.environ.get("ENSEMBLE_PARENT")
    return parent is not None and os.getppid() != int(parent)


def _wait_for_exit(children: Sequence[subprocess.Popen], per_member: int) -> list[int]:
    """Wait until all processes have ended, and return their exit codes."""
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        time.sleep(POLLING_SECONDS)
        for rank, child in enumerate(children):
            if rank in codes or child.poll() is None:
                continue
            codes[rank] = child.returncode
            if child.returncode:
                # The other processes of this member would wait for the failed one; on a
                # GPU, for up to half an hour.
                first = rank - rank % per_member
                for mate in children[first : first + per_member]:
                    mate.send_signal(signal.SIGTERM)
    return [codes[rank] for rank in range(len(children))]


def _combined_exit_code(codes: Sequence[int]) -> int:
    """The worst of several exit codes."""
    for rank, code in enumerate(codes):
        if code < 0:
            print(
                f"Process {rank} was killed by signal {-code}; what it had checkpointed "
                "is kept. The same command goes on from there.",
                file=sys.stderr,
            )
    # A process that was stopped because another one failed is not the cause.
    failed = [code for code in codes if code not in (0, 75)] or list(codes)
    return next((code if code > 0 else 1 for code in failed if code), 0)


def _n_devices() -> int:
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
