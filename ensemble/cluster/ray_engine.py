"""The Ray engine: members, blocks of ablations and scores as tasks on a cluster.

A task is a run folder and what is to be done in it. Whichever node takes it up opens
the folder and does it by the functions that do it on one machine, so the bits are the
same. A task whose node dies is taken up by another; a member goes on from its last
checkpoint. Every node needs the run folder, the data and this code under the same paths.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ensemble.ablation import exact, influence
from ensemble.ablation.influence_request import Asked
from ensemble.cluster import node_tasks, ray_cluster
from ensemble.cluster.node_tasks import Place
from ensemble.cluster.ray_cluster import Cluster
from ensemble.run.folder import Run, Trainable, called
from ensemble.sampling import queries


def train(run: Run, members: Sequence[Trainable], cluster: Cluster) -> int:
    """Train each member as a task; returns the exit code.

    Raises:
        KeyboardInterrupt: If asked to stop; the checkpoints are written.
    """
    code, threads = 0, run.config.training.threads
    with cluster.connected() as tasks:
        member_of: dict[Any, Trainable] = {
            tasks.start(
                node_tasks.train_member, _place(run), member, cpus=threads
            ): member
            for member in members
        }
        for n_done in range(1, len(members) + 1):
            done = tasks.next_done()
            name = called(member_of[done])
            try:
                state = ray_cluster.result_of(done) or f"{name}: trained"
            except ray_cluster.RayError as error:
                state = f"{name} was lost too often: {error}"
            if state != f"{name}: trained":
                code = 1
            print(f"{state} ({n_done} of {len(members)})", flush=True)
    return code


def ablate(
    asked: Asked,
    cluster: Cluster,
    n_placebos: int | None = None,
    max_memory_mb: int = 1024,
) -> Path:
    """`influence.measure_exactly`, with each block of pictures as a task.

    Args:
        asked: What to measure.
        cluster: Where.
        n_placebos: Placebos to run beside the units; None: enough for p = 0.05.
        max_memory_mb: Bound on the memory of a task; less of it makes smaller blocks.

    Returns:
        The folder of the tables.

    Raises:
        BadInput: If they are there without some of the measurements.
        KeyboardInterrupt: If asked to stop; finished blocks are kept.
    """
    place = dataclasses.replace(
        _place(asked.run),
        membership=queries.membership_of(asked.run, asked.pipe).digest(),
    )
    what = (place, asked.name, tuple(asked.measurements), max_memory_mb)
    with cluster.connected() as tasks:

        def computed(blocks: Iterable[exact.Block]) -> Iterator[exact.Measured]:
            return tasks.in_order(
                node_tasks.measure_block, ((*what, *block) for block in blocks)
            )

        return influence.measure_exactly(asked, n_placebos, max_memory_mb, computed)


def score(
    run: Run,
    name: str,
    methods: Sequence[str],
    cluster: Cluster,
    **options: Any,
) -> list[Path]:
    """Score by each method as a task; returns the files.

    Args:
        run: The run folder.
        name: The queries.
        methods: Their names.
        cluster: Where.
        options: Further options of `runner.score`.

    Raises:
        BadInput: If a method is unknown, or refuses.
        KeyboardInterrupt: If asked to stop; gradients that were kept are kept.
    """
    with cluster.connected() as tasks:
        calls = ((_place(run), name, method, options) for method in methods)
        return list(tasks.in_order(node_tasks.score_by, calls))


def _place(run: Run) -> Place:
    return Place(str(run.path.resolve()), str(Path.cwd()))
