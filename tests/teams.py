"""Teams of real processes, forked from one that has imported everything already.

Each process runs train.py's main as one that was launched; it may be tampered with.
"""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.teams", "train", "ensemble.training.members"])


def undisturbed(rank: int) -> None:
    """Tamper with nothing."""


def train(
    folder: Path,
    arguments: Sequence[str],
    size: int = 2,
    tamper: Callable[[int], None] = undisturbed,
) -> list[tuple[int, str]]:
    """Train in several processes; the exit code of each and what it said.

    Args:
        folder: Where their output goes.
        arguments: Of train.py.
        size: Processes.
        tamper: Called in each process with its rank, before anything else.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    said = [folder / f"said_{rank}.txt" for rank in range(size)]
    processes = [
        SERVER.Process(
            target=_work, args=(rank, place, said[rank], list(arguments), tamper)
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    for process in processes:
        # Whoever still waits for another will wait for ever.
        process.kill()
    codes = [process.exitcode for process in processes]
    return [
        (-1 if code is None else code, path.read_text())
        for code, path in zip(codes, said, strict=True)
    ]


def _work(
    rank: int,
    place: dict[str, str],
    said: Path,
    arguments: list[str],
    tamper: Callable[[int], None],
) -> None:
    from ensemble.cli import train as script
    from ensemble.system import exits

    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ.update({**place, **own, "ENSEMBLE_PARENT": str(os.getppid())})
    tamper(rank)
    sys.exit(exits.run_guarded(script.main, arguments))


def _before_step(step: int, act: Callable) -> None:
    """Act before a member's step, in this process alone; act is told the trainer."""
    from ensemble.training.trainer import MemberTrainer

    real = MemberTrainer.step

    def tampered(trainer: MemberTrainer) -> float:
        if trainer.state.step == step:
            act(trainer)
        return real(trainer)

    MemberTrainer.step = tampered


def killed(rank: int) -> None:
    """The second process is killed in its sixth step."""
    if rank == 1:
        _before_step(5, lambda _: os.kill(os.getpid(), signal.SIGKILL))


def stopped(rank: int) -> None:
    """The second process alone is asked to stop in its sixth step."""
    if rank == 1:
        _before_step(5, lambda _: os.kill(os.getpid(), signal.SIGTERM))


def spoilt(rank: int) -> None:
    """The second process finds no number in a weight of member 0."""

    def spoil(trainer: object) -> None:
        if trainer.member == 0:
            next(trainer.network.parameters()).data.fill_(float("nan"))

    if rank == 1:
        _before_step(3, spoil)


def otherwise(rank: int) -> None:
    """The second process means another split of member 0."""
    from ensemble.training import members

    real = members.trains_on

    def other(codes: object, member: object, removed: Sequence[int] = ()) -> np.ndarray:
        return ~real(codes, member, removed)

    if rank == 1:
        members.trains_on = other


def forgetful(rank: int) -> None:
    """The second process finds no checkpoint."""
    from ensemble.training.trainer import MemberTrainer

    if rank == 1:
        MemberTrainer._go_on = lambda *_: None
