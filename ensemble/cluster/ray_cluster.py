"""A Ray cluster: connecting to it, and dealing tasks out to its nodes in order."""

import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ensemble.training.process import Interrupted
from splits.errors import BadInput

try:
    import ray
    from ray.exceptions import RayError as RayError
    from ray.exceptions import RayTaskError
except ModuleNotFoundError:
    raise BadInput(
        "--engine ray needs Ray, which is not installed. Install the extra `ray` "
        "(`pip install -e .[ray]`), or leave --engine out."
    ) from None


# Nodes that a task may lose. It counts crashes too, which would not end by themselves.
RETRIES = 16
# Results that may wait for those before them; so many tasks an elastic cluster sees.
AHEAD = 256
# How long a machine may take to answer, a Ray cluster to say that it is one, and tasks
# to wait before somebody is told that no node can take them.
ANSWER_SECONDS = 10
HEALTH_SECONDS = 45
PATIENCE_SECONDS = 10


@dataclass(frozen=True)
class Cluster:
    """A cluster, and the GPUs of each task.

    Attributes:
        address: `auto`, `local` or HOST:PORT; None: the one that is running here, else
            one of its own on this machine.
        gpus: GPUs of each task, such as 0.25; None: one if the cluster has any.

    Raises:
        BadInput: If the GPUs are negative, or neither a share of one nor whole.
    """

    address: str | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.gpus is not None and self.gpus < 0:
            raise BadInput(
                f"A task cannot have {self.gpus} GPUs: 0 or more are wanted."
            )
        if self.gpus is not None and self.gpus > 1 and self.gpus % 1:
            raise BadInput(
                f"A task cannot have {self.gpus} GPUs: a share of one, such as 0.25, or "
                "a whole number is wanted."
            )

    @contextlib.contextmanager
    def connected(self) -> Iterator["Tasks"]:
        """Use the cluster until the block ends, and whatever still runs there with it.

        Raises:
            BadInput: If there is none at the address.
        """
        # Ray sends no usage statistics.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = _connect(self.address or os.environ.get("RAY_ADDRESS"))
        # Ray would end this process at once; so tasks can write their checkpoints.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        tasks = Tasks(self.gpus, own)
        try:
            yield tasks
        finally:
            tasks.stop()
            ray.shutdown()
            signal.signal(signal.SIGTERM, before)


def _connect(address: str | None) -> bool:
    """Connect to a cluster; without an address to one that runs here, else to a new one.

    Returns:
        Whether this process started the cluster, so that no node can join it.

    Raises:
        BadInput: If there is none at the address.
    """
    if address is None:
        try:
            _initialise("auto")
        except BadInput:
            address = "local"
        else:
            return False
    if address not in ("auto", "local"):
        _require_answer(address)
    _initialise(address)
    return address == "local"


def _initialise(address: str) -> None:
    """Connect Ray.

    Raises:
        BadInput: If there is no cluster at the address.
    """
    try:
        ray.init(
            address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, ValueError) as error:
        raise _no_cluster(address, str(error)) from None


def _require_answer(address: str) -> None:
    """Ask whether a cluster is there: Ray itself would try for ever.

    Raises:
        BadInput: If nobody listens at the address, or whoever does is no Ray cluster.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        raise _no_cluster(address, "it is not of the form HOST:PORT")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from None
    if address.startswith("ray://"):
        return
    question = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    try:
        found = subprocess.run(
            [*question, "--address", address],
            capture_output=True,
            timeout=HEALTH_SECONDS,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        found = 1
    if found:
        raise _no_cluster(address, "whoever listens there is no Ray cluster")


def _no_cluster(address: str, why: str) -> BadInput:
    return BadInput(
        f"There is no Ray cluster at {address!r} ({why}). Start one with "
        "`ray start --head`, or say --address local."
    )


class Tasks:
    """Tasks on a connected cluster.

    Args:
        gpus: GPUs of each; None: one if the cluster has any.
        own: Whether this process started the cluster, so that no node can join it.
    """

    def __init__(self, gpus: float | None, own: bool = False) -> None:
        there = ray.cluster_resources().get("GPU", 0.0)
        self.gpus = min(1.0, there) if gpus is None else gpus
        self.own = own
        self.told = False
        self.cpus = 1
        self.waiting: list[Any] = []

    def require_room(self, cpus: int) -> None:
        """Refuse a task that no node of a cluster of this process's own can take.

        Raises:
            BadInput: If there is none.
        """
        if self.own and not self.room(cpus):
            raise BadInput(
                f"No node of the cluster has {self.wanted(cpus)}, which each task needs. "
                "Lower --gpus-per-task or training.threads, or name another cluster "
                "with --address."
            )

    def room(self, cpus: int) -> bool:
        """Whether some node has what a task needs, busy or not."""
        return any(
            node["Resources"].get("GPU", 0.0) >= self.gpus
            and node["Resources"].get("CPU", 0.0) >= cpus
            for node in ray.nodes()
            if node["Alive"]
        )

    def wanted(self, cpus: int) -> str:
        """What a task needs, in words."""
        cores = f"{cpus} core{'s' if cpus > 1 else ''}"
        gpus = f"{self.gpus:g} GPU{'s' if self.gpus > 1 else ''} and "
        return (gpus if self.gpus else "") + cores

    def start(self, function: Callable, *arguments: Any, cpus: int = 1) -> Any:
        """Let a node call a function; returns the reference to its result.

        Raises:
            BadInput: If no node can take it, and none can join.
        """
        self.require_room(cpus)
        self.cpus = cpus
        task = ray.remote(function).options(
            num_cpus=cpus,
            num_gpus=self.gpus,
            max_retries=RETRIES,
            retry_exceptions=[Interrupted],
        )
        reference = task.remote(*arguments)
        self.waiting.append(reference)
        return reference

    def next_done(self) -> Any:
        """The reference of some task that has ended."""
        self._tell_if_stuck(self.waiting)
        (done,), self.waiting = ray.wait(self.waiting)
        return done

    def _tell_if_stuck(self, references: list[Any]) -> None:
        """Tell the user once, after some seconds, that no node can take the tasks."""
        if self.told:
            return
        done, _ = ray.wait(references, timeout=PATIENCE_SECONDS)
        if not done and not self.room(self.cpus):
            self.told = True
            print(
                f"No node of the cluster has {self.wanted(self.cpus)}, which each task "
                "needs: the tasks wait until one joins. Interrupt to give up.",
                file=sys.stderr,
                flush=True,
            )

    def in_order(
        self, function: Callable, calls: Iterable[Sequence[Any]]
    ) -> Iterator[Any]:
        """The result of each call, in order."""
        ahead = iter(calls)
        for call in itertools.islice(ahead, AHEAD):
            self.start(function, *call)
        while self.waiting:
            self._tell_if_stuck(self.waiting[:1])
            result = result_of(self.waiting[0])
            del self.waiting[0]
            for call in itertools.islice(ahead, 1):
                self.start(function, *call)
            yield result

    def stop(self) -> None:
        """Cancel what still runs, and wait until it has saved what it saves."""
        for reference in self.waiting:
            ray.cancel(reference)
        if self.waiting:
            ray.wait(self.waiting, num_returns=len(self.waiting))


def result_of(reference: Any) -> Any:
    """The result of a task; what it raised is raised here."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error
