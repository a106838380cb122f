"""Several processes, each of which trains a share of the members.

They are started with the environment that torchrun would give them, which Accelerate
reads to give each its place and device (`accelerate launch` itself starts only one
process where there is no device). So a process that was started here and one that was
started by `accelerate launch train.py` are alike.
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

# What a launcher may ask for by the environment, which a run decides otherwise or
# cannot do at all: what it is, and the values that ask for nothing.
LAUNCHER = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient accumulation", ("1",)),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", ("false", "0")),
    "ACCELERATE_USE_FSDP": ("fully sharded training", ("false", "0")),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", ("false", "0")),
    "ACCELERATE_DYNAMO_BACKEND": ("a compiler", ("no",)),
}
PRECISION = "ACCELERATE_MIXED_PRECISION"
# Between two looks at whether a process has ended.
# Where this package lies.
HOME = str(Path(__file__).parents[2])
POLLING_SECONDS = 0.1


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The options that say which machines do the work."""
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
    """Refuse what a launcher asks for by the environment against the config.

    Of precision, "no" is what launchers say when nobody asked them for any.

    Args:
        mixed_precision: `training.mixed_precision` of the config.
        environment: What `accelerate launch`, or the user's shell, has set.

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
    for name, (what, nothing) in LAUNCHER.items():
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
    """Whether `launch` started this process, and waits for it."""
    return "ENSEMBLE_PARENT" in os.environ


def is_first() -> bool:
    """Whether this process speaks for all, once all are done."""
    return os.environ.get("RANK", "0") == "0" and not is_launched()


def n_processes(asked: int | None, n_members: int, per_member: int = 1) -> int:
    """Processes to start: as asked; else one per device; else one per core.

    Never more than the members need, always whole teams, and at least one of them.
    """
    wanted = asked or _n_devices() or os.cpu_count() or 1
    return max(1, min(wanted // per_member, n_members)) * per_member


def launch(
    arguments: Sequence[str], processes: int, threads: int, per_member: int = 1
) -> int:
    """Run a command in several processes, to their end.

    A request to stop is passed on, so that every process writes its checkpoint. A
    process that fails stops those that train its member with it, and no others.

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
        # They find this package wherever this process found it.
        "PYTHONPATH": os.pathsep.join(filter(None, (HOME, os.getenv("PYTHONPATH")))),
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
            # Whoever was being started then has not been told.
            pass_on()
        codes = _ended(children, per_member)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 75 if asked else _joint(codes)


def orphaned() -> bool:
    """Whether the process that launched this one is gone."""
    parent = os.environ.get("ENSEMBLE_PARENT")
    return parent is not None and os.getppid() != int(parent)


def _ended(children: Sequence[subprocess.Popen], per_member: int) -> list[int]:
    """The exit codes of processes, once all have ended."""
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        time.sleep(POLLING_SECONDS)
        for rank, child in enumerate(children):
            if rank in codes or child.poll() is None:
                continue
            codes[rank] = child.returncode
            if child.returncode:
                # They would wait for it; on a GPU, for as long as half an hour.
                first = rank - rank % per_member
                for mate in children[first : first + per_member]:
                    mate.send_signal(signal.SIGTERM)
    return [codes[rank] for rank in range(len(children))]


def _joint(codes: Sequence[int]) -> int:
    """One exit code for several processes: the worst of them."""
    for rank, code in enumerate(codes):
        if code < 0:
            print(
                f"Process {rank} was killed by signal {-code}; what it had checkpointed "
                "is kept. The same command goes on from there.",
                file=sys.stderr,
            )
    # Whoever was asked to stop because another failed is not the reason.
    failed = [code for code in codes if code not in (0, 75)] or list(codes)
    return next((code if code > 0 else 1 for code in failed if code), 0)


def _n_devices() -> int:
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
