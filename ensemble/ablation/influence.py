"""Influence: what each unit's removal does to each query, measured by one of three methods.

Two methods fill the same tables in `influence/NAME/METHOD`. Exact ablation samples every query
without every unit and beside it without placebos. Differential ablation finds how the
pictures move with the votes, reads all units and a great many placebos off that, and
recomputes the top units and a random sample exactly, to say how far it can be trusted.
The adjoint method follows one number read off the pictures, to first order.
"""

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ensemble.ablation import (
    adjoint,
    approximations,
    differential,
    exact,
    first_order,
    influence_request,
    influence_tables,
    placebo,
)
from ensemble.ablation.exact import Block, Measured
from ensemble.ablation.influence_request import Asked
from ensemble.ablation.influence_tables import Found
from ensemble.ablation.measurements import Images, Values
from ensemble.ablation.removal_sets import votes_in_blocks, votes_without
from ensemble.run import files, manifest, records, table_records
from ensemble.sampling import queries
from ensemble.sampling.queries import Queries
from ensemble.system import locks, text
from splits.errors import BadInput

MANY_PLACEBOS = 100_000
ACCURACY = 0.96
N_AUDIT = 32
# Computes the blocks of a landscape, elsewhere.
Computed = Callable[[Iterable[Block]], Iterable[Measured]]


def measure_exactly(
    asked: Asked,
    n_placebos: int | None = None,
    max_memory_mb: int = 1024,
    computed: Computed | None = None,
) -> Path:
    """Ablate every unit and every placebo from every query, exactly.

    Args:
        asked: What to measure.
        n_placebos: Placebos to run beside the units; None: enough for p = 0.05.
        max_memory_mb: Bound on the memory of activations and states.
        computed: What computes the blocks, as `exact.landscape` takes it.

    Returns:
        The folder of the tables; if they were there already, nothing is computed.

    Raises:
        BadInput: If the queries are held out, or the tables are there without some of
            the measurements, or from before a removal.
    """
    asked_for, folder = asked.queries(), asked.folder(table_records.EXACT)
    options = {"placebos": n_placebos}
    with locks.exclusive(folder):
        found = influence_request.standing(
            asked, asked_for, table_records.EXACT, options
        )
        if found is None:
            _measure_exactly(
                asked, asked_for, folder, n_placebos, max_memory_mb, computed
            )
        if found in (None, folder):
            manifest.note_stage(asked.run, influence_request.stage_name(asked, folder))
        shutil.rmtree(_unfinished(asked, folder), ignore_errors=True)
    return found or folder


def _unfinished(asked: Asked, folder: Path) -> Path:
    """Where the blocks of exact ablation are until all are there.

    What version 0.1 began goes on where it is.
    """
    kind = influence_request.kind_before(asked, asked.kind(table_records.EXACT))
    called = kind.old_folder_name(asked.name)
    begun = asked.run.influence(asked.name).with_name(f"{called}.work")
    return begun if begun.exists() else folder.with_name(folder.name + ".work")


def _measure_exactly(
    asked: Asked,
    asked_for: Queries,
    folder: Path,
    n_placebos: int | None,
    max_memory_mb: int,
    computed: Computed | None,
) -> None:
    run, pipe, units = asked.run, asked.pipe, asked.units
    if n_placebos is None:
        n_placebos = placebo.enough(len(units.sources))
    placebos = placebo.codes(asked.plan, units, n_placebos, run.config.splits.seed)
    votes = votes_without(np.concatenate([units.silenced, placebos]))
    began = time.perf_counter()
    with manifest.stage(run, influence_request.stage_name(asked, folder)) as record:
        landscape = exact.landscape(
            pipe,
            asked_for,
            votes,
            dict(asked.measurements),
            _unfinished(asked, folder),
            max_memory_mb,
            computed,
            queries.drawn_by(run, pipe),
        )
        options = {"placebos": n_placebos, "placebo_seed": run.config.splits.seed}
        found = _read_off(asked, asked_for, landscape, placebos, options, began)
        influence_tables.keep(asked, asked_for, folder, found)
        record["seconds"] = files.read_json(folder / "info.json")["seconds"]


def _read_off(
    asked: Asked,
    asked_for: Queries,
    landscape: exact.Landscape,
    placebos: Bool[np.ndarray, "placebos members"],
    options: dict[str, Any],
    began: float,
) -> Found:
    """What exact ablation found, units before placebos, since it began."""
    n_units = len(asked.units.sources)
    displacement = landscape.displacement[:, :n_units]
    influences = {
        name: landscape.full[name][:, None] - values[:, :n_units]
        for name, values in landscape.measured.items()
    }
    of_denoiser = influence_tables.of_denoiser(asked, asked_for)
    top = differential.largest(displacement, influence_tables.N_TOP)
    generation = influence_tables.generation(asked.pipe, asked_for)
    top_images = influence_tables.top_images(asked.pipe, asked_for, asked.units, top)
    seconds = landscape.seconds_before + time.perf_counter() - began
    return Found(
        displacement=displacement,
        placebo=landscape.displacement[:, n_units:],
        placebos=placebos,
        influences={**influences, **of_denoiser},
        top_units=top,
        top_images=top_images,
        facts={
            "method": table_records.EXACT,
            "options": options,
            "seconds": round(seconds, 3),
            "member_forwards": landscape.member_forwards,
            "generations": landscape.member_forwards / generation,
        },
    )


def measure_differentially(
    asked: Asked,
    accuracy: float | None = None,
    n_placebos: int | None = None,
    n_audit: int | None = None,
    seed: int | None = None,
) -> Path:
    """Read every unit and many placebos off the sensitivity; recompute a few exactly.

    Real codes and placebos are read off the same matrix, and compared by that, so the
    p-values are as honest as those of exact ablation. Roads are tried from cheap to
    dear until one orders half of the audited units as exact ablation does; the other
    half says how far it can be trusted. Where exact ablation of all units costs less,
    all are ablated exactly.

    Args:
        asked: What to measure.
        accuracy: Rank correlation with exact displacement that a road must reach, from
            0 to 1; None: 0.96, and a table that is there may have another.
        n_placebos: Placebo codes; None: 100,000, or as many as a table that is there
            has.
        n_audit: Units of each query drawn at random to be recomputed; None: 32, or as
            many as a table that is there has.
        seed: Draws design, followed members and audit; None: 0, or that of a table
            that is there.

    Returns:
        The folder of the tables; if they were there already, nothing is computed.

    Raises:
        BadInput: If the accuracy is not between 0 and 1, the queries are held out, or
            the tables that are there were made with something else.
    """
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise BadInput(
            f"--accuracy is {accuracy}: a rank correlation from 0 to 1 is wanted."
        )
    options: dict[str, Any] = {
        "accuracy": accuracy,
        "placebos": n_placebos,
        "n_audit": n_audit,
        "seed": seed,
    }
    asked_for, folder = asked.queries(), asked.folder(table_records.DIFFERENTIAL)
    with locks.exclusive(folder):
        found = influence_request.standing(
            asked, asked_for, table_records.DIFFERENTIAL, options
        )
        if found is None:
            _measure_differentially(
                asked,
                folder,
                ACCURACY if accuracy is None else accuracy,
                MANY_PLACEBOS if n_placebos is None else n_placebos,
                N_AUDIT if n_audit is None else n_audit,
                seed or 0,
            )
        if found in (None, folder):
            manifest.note_stage(asked.run, influence_request.stage_name(asked, folder))
    return found or folder


def _measure_differentially(
    asked: Asked,
    folder: Path,
    accuracy: float,
    n_placebos: int,
    n_audit: int,
    seed: int,
) -> None:
    run, pipe, units = asked.run, asked.pipe, asked.units
    asked_for = asked.queries()
    placebos = placebo.codes(asked.plan, units, n_placebos, run.config.splits.seed)
    options = {
        "accuracy": accuracy,
        "placebos": n_placebos,
        "placebo_seed": run.config.splits.seed,
        "n_audit": n_audit,
        "seed": seed,
    }
    began = time.perf_counter()
    with manifest.stage(run, influence_request.stage_name(asked, folder)):
        before = pipe.members.n_forwards
        of_denoiser = influence_tables.of_denoiser(asked, asked_for)
        answer = differential.ablate(
            approximations.Question(
                pipe,
                asked_for,
                units,
                asked.measurements,
                influence_tables.N_TOP,
                accuracy,
                n_audit,
                seed,
            )
        )
        forwards = pipe.members.n_forwards - before
        generation = influence_tables.generation(pipe, asked_for)
        spent = {
            "seconds": round(time.perf_counter() - began, 3),
            "member_forwards": forwards,
            "generations": round(forwards / generation, 3),
        }
        facts = {
            "method": table_records.DIFFERENTIAL,
            "options": options,
            **answer.facts,
            **spent,
        }
        found = _as_found(answer, placebos, of_denoiser, facts)
        influence_tables.keep(asked, asked_for, folder, found)


def _as_found(
    answer: differential.Answer,
    placebos: Bool[np.ndarray, "placebos members"],
    of_denoiser: dict[str, Float64[np.ndarray, "queries units"]],
    facts: dict[str, Any],
) -> Found:
    """What differential ablation found, with placebos read off the same matrix."""
    return Found(
        displacement=answer.displacement,
        placebo=first_order.displacement_without(answer.gram, placebos),
        placebos=placebos,
        influences={**answer.influences, **of_denoiser},
        top_units=answer.top_units,
        top_images=answer.top_images,
        facts=facts,
        gram=answer.gram,
        compared=answer.compared,
        exact=answer.exact,
    )


def measure_adjointly(asked: Asked) -> Path:
    """Influence on one measurement of pictures, by one pass back through the sampler.

    To first order, and signed: full minus ablated = -g·d.

    Returns:
        The folder of the tables; if they were there already, nothing is computed.

    Raises:
        BadInput: If the measurement is not one of pictures, not just one is given, or
            the queries are held out.
    """
    asked_for = asked.queries()
    readings = {
        name: measurement.of_pictures
        for name, measurement in asked.measurements.items()
        if measurement.of_pictures is not None
    }
    if len(readings) != 1:
        raise BadInput(
            "The method 'adjoint' follows one number read off the pictures: name one "
            f"with --measurement, such as {', '.join(sorted(readings)) or 'brightness'}. "
            "Those that compare two pictures have no slope where both are the same."
        )
    ((name, reading),) = readings.items()
    folder = asked.folder(table_records.ADJOINT, name)
    with locks.exclusive(folder):
        found = influence_request.standing(
            asked, asked_for, table_records.ADJOINT, {}, name
        )
        if found is None:
            _measure_adjointly(asked, asked_for, folder, name, reading)
        if found in (None, folder):
            manifest.note_stage(asked.run, influence_request.stage_name(asked, folder))
    return found or folder


def _measure_adjointly(
    asked: Asked,
    asked_for: Queries,
    folder: Path,
    name: str,
    reading: Callable[[Images], Values],
) -> None:
    with manifest.stage(asked.run, influence_request.stage_name(asked, folder)):
        found = adjoint.adjoint(asked.pipe, asked_for, reading)
        parts = [
            -found.by_vote @ (votes - 1 / votes.shape[1]).T
            for votes in votes_in_blocks(asked.units.silenced)
        ]
        influence = np.concatenate(parts, axis=1)
        with files.atomic_folder(folder) as to:
            table = influence.astype(np.float32)
            files.write_array(to / f"influence_{text.file_name(name)}.npy", table)
            facts = {
                **asked.facts(asked_for),
                "method": table_records.ADJOINT,
                "units": asked.units.kind,
                "measurements": [name],
                "measured_by": asked.measured_by,
                "member_forwards": found.member_forwards,
                "derivative_passes": found.reverse_passes,
            }
            records.write_done_mark(to, "info.json", facts)
