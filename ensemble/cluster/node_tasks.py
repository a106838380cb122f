"""What a node of a cluster does: it opens the run folder, and works there as one machine."""

import contextlib
import functools
import platform
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ensemble.ablation import exact
from ensemble.ablation.measurement_names import chosen_measurements
from ensemble.provenance import plans
from ensemble.provenance.plans import Plan
from ensemble.run import voters
from ensemble.run.folder import Run, Trainable, open_run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.scorers import runner
from ensemble.training import members
from ensemble.training.process import Interrupted, Stopping, prepared
from ensemble.training.trainer import Diverged
from splits.errors import BadInput


@dataclass(frozen=True)
class Place:
    """Where a task finds a run.

    Attributes:
        run: The run folder.
        cwd: The folder that relative paths in its config start from.
        membership: Digest of the members that must vote; empty: those that may.
    """

    run: str
    cwd: str
    membership: str = ""


@contextlib.contextmanager
def _opened(place: Place) -> Iterator[tuple[Run, Plan]]:
    """On a node: the run and its plan, from the folder that its paths start from.

    Raises:
        BadInput: If this node does not see the folder.
    """
    for folder in (place.run, place.cwd):
        if not Path(folder).is_dir():
            raise BadInput(
                f"The node {platform.node()} does not see {folder}. Every node needs the "
                "run folder, the data and the code under the same paths: put them on a "
                "file system that all of them share."
            )
    with contextlib.chdir(place.cwd):
        yield _plan(place.run)


@functools.lru_cache(maxsize=1)
def _plan(run: str) -> tuple[Run, Plan]:
    """Kept from one task to the next."""
    opened = open_run(run)
    return opened, plans.load(opened)


@functools.lru_cache(maxsize=1)
def _ensemble(run: str) -> EnsemblePipeline:
    """Kept from one task to the next, with one thread to each task."""
    pipe = EnsemblePipeline.from_pretrained(run)
    if torch.accelerator.is_available():
        return pipe.to(torch.accelerator.current_accelerator())
    torch.set_num_threads(1)
    return pipe


def _members(place: Place, run: Run, ready: Plan) -> EnsemblePipeline:
    """The members that a task is to be done with.

    Raises:
        BadInput: If others vote by now.
    """
    pipe = _ensemble(place.run)
    known = queries.membership_of(run, pipe)
    if place.membership not in ("", known.digest()):
        # What this process kept may be older than the task.
        _ensemble.cache_clear()
        pipe = _ensemble(place.run)
        known = queries.membership_of(run, pipe)
        if place.membership != known.digest():
            raise voters.membership_changed_error(run.path)
    plans.require_codes_of(run, ready, known)
    return pipe


def train_member(place: Place, member: Trainable) -> str | None:
    """Train one member; returns why it failed, if it did.

    Raises:
        Interrupted: If asked to stop; the checkpoint is written.
    """
    with _opened(place) as (run, ready), _stoppable() as stopping:
        accelerator = prepared(run.config.training)
        try:
            while not members.train_member(run, member, ready, accelerator, stopping):
                # The process of a node that was lost may outlive its node a little.
                if stopping.asked:
                    raise Interrupted
                time.sleep(1)
        except Diverged as error:
            return str(error)
    return None


@contextlib.contextmanager
def _stoppable() -> Iterator[Stopping]:
    """A task that is cancelled, or whose node shuts down, is asked to stop."""
    stopping = Stopping()
    before = {
        number: signal.signal(number, stopping)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def measure_block(
    place: Place,
    name: str,
    measurements: tuple[str, ...],
    max_memory_mb: int,
    of_query: np.ndarray,
    votes: np.ndarray,
) -> tuple[np.ndarray, int]:
    """One block of a landscape: values, and work."""
    with _opened(place) as (run, ready):
        pipe = _members(place, run, ready)
        exact.block_size(pipe, max_memory_mb)
        readings = exact.readings_of(chosen_measurements(measurements, ready))
        return exact.measured(
            pipe, queries.load(run, name, pipe.membership), readings, of_query, votes
        )


def score_by(place: Place, name: str, method: str, options: dict[str, Any]) -> Path:
    """Score by one method; returns the file."""
    with _opened(place) as (run, ready):
        pipe = _members(place, run, ready)
        return runner.score(run, pipe, ready, name, method, **options)
