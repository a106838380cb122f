"""Held-out queries: images that no source holds, asked about like generated ones.

They are kept as queries of their own, `queries/NAME`, with the given images in place of
generated ones and a seed that only keys noise. Everything that looks at a query's
picture, scorers and losses, takes them as they are. No noise leads to them, so nothing
samples them again: of ablation they have the influence on the denoiser's loss, which is
exact for every source, and no displacement.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from ensemble.ablation.influence_tables import quadratic_influence
from ensemble.ablation.measurements import denoising_loss_form
from ensemble.ablation.removal_sets import each_source, votes_without
from ensemble.models.objective import objective_of
from ensemble.provenance.plans import Plan
from ensemble.run import files, records, table_records
from ensemble.run.folder import Run
from ensemble.run.table_records import Kind
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries, on_device
from ensemble.system import locks
from splits.errors import BadInput

# Seeds of held-out images: no generated query's.
FIRST_SEED = 1_000_000_000
METHOD = "exact"


def write(
    run: Run,
    plan: Plan,
    name: str,
    images: Float32[np.ndarray, "queries channels height width"],
    labels: Int64[np.ndarray, " queries"] | None = None,
) -> Queries:
    """Keep images as queries under a name.

    Args:
        run: The run folder.
        plan: Its training images.
        name: What the queries are called.
        images: In [-1, 1], as large as the training images.
        labels: One each, for conditional members.

    Raises:
        BadInput: If one is a training image, or other queries have that name.
    """
    known = {image.tobytes() for image in plan.data.images}
    inside = [number for number, image in enumerate(images) if image.tobytes() in known]
    if inside:
        raise BadInput(
            f"Image {inside[0]} is a training image, so it is not held out. Give images "
            "that no source holds."
        )
    return keep(run, name, images, labels)


def keep(
    run: Run,
    name: str,
    images: Float32[np.ndarray, "queries channels height width"],
    labels: Int64[np.ndarray, " queries"] | None = None,
) -> Queries:
    """Keep any images as queries under a name, also training images.

    Args:
        run: The run folder.
        name: What the queries are called.
        images: In [-1, 1], as large as the training images.
        labels: One each, for conditional members.

    Raises:
        BadInput: If it is no name of queries, or other queries have it.
    """
    folder = run.queries(name)
    seeds = np.arange(FIRST_SEED, FIRST_SEED + len(images))
    with locks.exclusive(folder):
        if folder.exists():
            kept = queries.load(run, name)
            wanted = table_records.query_facts(images, seeds, labels)
            if table_records.first_difference(kept.facts(), wanted):
                raise BadInput(
                    f"Queries {name!r} exist with other images or labels. Choose another "
                    f"name, or delete {folder}."
                )
            return kept
        with files.atomic_folder(folder) as to:
            files.write_array(to / "seeds.npy", seeds)
            files.write_array(to / "images.npy", images)
            if labels is not None:
                files.write_array(to / "conditions.npy", labels)
            records.write_done_mark(
                to, "info.json", {"held_out": True, "seeds": seeds.tolist()}
            )
    return queries.load(run, name)


def ablate(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    name: str,
    n_draws: int = 128,
    sizes: Sequence[int | None] = (None,),
) -> list[Path]:
    """Influence of every source on the ensemble's loss at a query's image, exactly.

    Args:
        run: The run folder.
        pipe: The ensemble.
        plan: Its sources and codes.
        name: The queries, held out or generated.
        n_draws: (timestep, noise) pairs at which the loss is measured.
        sizes: As if the ensemble had only its first so many members, each in a folder
            of its own; None: all. All of them for the work of one.

    Returns:
        The folder of each table; where it was there already, nothing is computed.

    Raises:
        BadInput: If there are fewer members, the first ones all saw a source, or a table
            is there that was made with something else.
    """
    silenced = each_source(plan).silenced
    for n_members in sizes:
        _require_left(silenced, n_members)

    asked = queries.load(run, name, pipe.membership)
    facts = {**asked.facts(), **queries.drawn_by(run, pipe), "n_draws": n_draws}

    @functools.cache
    def form() -> Float32[np.ndarray, "queries members members"]:
        return denoising_loss_form(
            pipe.members,
            objective_of(run.config.model),
            on_device(pipe, asked.images),
            asked.condition(pipe),
            n_draws,
        ).numpy()

    folders = []
    for n_members in sizes:
        kind = Kind(table_records.LOSS, n_first=n_members)
        folder = table_records.folder_of(run, name, kind)
        with locks.exclusive(folder):
            if not folder.exists():
                folder = table_records.old_folder_of(run, name, kind) or folder
            if folder.exists():
                info = records.check_done_mark(folder, "info.json")
                remedy = f"Delete {folder}, or ask for the same."
                table_records.require_same(folder, info, facts, remedy)
            else:
                some = form()[:, :n_members, :n_members]
                _ablate(some, silenced[:, :n_members], facts, folder)
        folders.append(folder)
    return folders


def _require_left(
    silenced: Bool[np.ndarray, "sources members"], n_members: int | None
) -> None:
    """Refuse first members that are not there, or that leave nobody to vote.

    Raises:
        BadInput: If it is so.
    """
    n_known = silenced.shape[1]
    if n_members is not None and not 0 < n_members <= n_known:
        raise BadInput(
            f"The first {n_members} members cannot be asked alone: 1 to {n_known} can."
        )
    unheard = silenced[:, :n_members].all(axis=1)
    if unheard.any():
        raise BadInput(
            f"The first {n_members} members all saw source {int(unheard.argmax())}: "
            "none is left to vote without it. Ask for more members."
        )


def _ablate(
    form: Float32[np.ndarray, "queries members members"],
    silenced: Bool[np.ndarray, "sources members"],
    facts: dict[str, Any],
    folder: Path,
) -> None:
    table = quadratic_influence(form, votes_without(silenced)).astype(np.float32)
    with files.atomic_folder(folder) as to:
        files.write_array(to / "influence_denoising_loss.npy", table)
        what = {"method": METHOD, "units": "sources", "n_members": silenced.shape[1]}
        records.write_done_mark(to, "info.json", {**what, **facts})
