"""Influence: what each unit's removal does to each query, measured and kept.

Two methods fill the same tables in `influence/NAME/METHOD`. Exact ablation samples every query
without every unit and beside it without placebos. Differential ablation finds how the
pictures move with the votes, reads all units and a great many placebos off that, and
recomputes the top units and a random sample exactly, to say how far it can be trusted.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from ensemble.ablation import (
    adjoint,
    differential,
    first_order,
    p_values,
)
from ensemble.ablation import (
    exact as ablation,
)
from ensemble.ablation import (
    placebo as placebo,
)
from ensemble.ablation.exact import (
    Block,
    Measured,
)
from ensemble.ablation.measurements import (
    Images,
    Measurement,
    Values,
)
from ensemble.ablation.removal_sets import (
    Units,
    votes_in_blocks,
    votes_without,
)
from ensemble.models.objective import objective_of
from ensemble.provenance.plan import Plan
from ensemble.report import audit_verdict
from ensemble.run import files, manifest, records, table_records
from ensemble.run.folder import Run
from ensemble.run.table_records import Kind
from ensemble.sampling import queries as queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.system import environment, locks, text
from splits.errors import BadInput

N_TOP = 6
MANY_PLACEBOS = 100_000
ACCURACY = 0.96
N_AUDIT = 32
# What exact ablation reads matched codes off: placebos of a few pictures.
FOR_MATCHED = first_order.Road(paired=True)
# Computes the blocks of a landscape, elsewhere.
Computed = Callable[[Iterable[Block]], Iterable[Measured]]


@dataclass(frozen=True, eq=False)
class Asked:
    """What is to be measured.

    Attributes:
        run: The run folder.
        pipe: The ensemble.
        plan: Sources and codes.
        name: The queries.
        units: What is removed.
        measurements: What to read off besides the displacement.
    """

    run: Run
    pipe: EnsemblePipeline
    plan: Plan
    name: str
    units: Units
    measurements: Mapping[str, Measurement]

    def kind(self, method: str, reading: str = "") -> Kind:
        """Which table it is that a method makes, of one measurement or of all."""
        groups = "" if self.units.kind == "sources" else self.units.digest()[:16]
        return Kind(method, groups, text.file_name(reading) if reading else "")

    def folder(self, method: str, reading: str = "") -> Path:
        """Where that table is kept: each method, and each set of units, its own."""
        return table_records.folder_of(self.run, self.name, self.kind(method, reading))

    def queries(self) -> Queries:
        """The queries.

        Raises:
            BadInput: If there are none, they are damaged or held out, or were made by
                other members or another sampler than the pipeline has.
        """
        # Before tables are looked for: version 0.1 ablated held-out queries from noise
        # that has nothing to do with them, and such tables may still be there.
        queries.require_sampler(self.run, self.name, self.pipe)
        found = queries.load(self.run, self.name, self.pipe.membership)
        queries.require_noise(found)
        return found

    def facts(self, asked_for: Queries) -> dict[str, Any]:
        """What goes on record of every table: whose it is, of what and of whom."""
        return {
            **asked_for.facts(),
            **queries.drawn_by(self.run, self.pipe),
            "units_digest": self.units.digest(),
        }

    @property
    def measured_by(self) -> dict[str, str]:
        """What measurements look at besides the pictures, by their names."""
        return {
            name: measurement.identity
            for name, measurement in self.measurements.items()
            if measurement.identity
        }


@dataclass(frozen=True, eq=False)
class Found:
    """What came out, before it is compared with placebo.

    Attributes:
        displacement: Of each query without each unit.
        placebo: Of each query without each placebo.
        placebos: Members that each placebo silences.
        influences: Measurement of the full picture minus that of the ablated one.
        top_units: Units of each query whose exact pictures are kept, most displacing
            first.
        top_images: Those pictures.
        facts: How it was found, for the record.
        gram: G of each query, where the method has one.
        compared: What is compared with the placebos, where that is not the
            displacement: it is of the same kind as theirs.
        exact: Which units of each query were recomputed exactly; None: all were.
    """

    displacement: Float[np.ndarray, "queries units"]
    placebo: Float[np.ndarray, "queries placebos"]
    placebos: Bool[np.ndarray, "placebos members"]
    influences: dict[str, Float[np.ndarray, "queries units"]]
    top_units: Int64[np.ndarray, "queries top"]
    top_images: Float[np.ndarray, "queries top channels height width"]
    facts: dict[str, Any]
    gram: Float64[np.ndarray, "queries members members"] | None = None
    compared: Float[np.ndarray, "queries units"] | None = None
    exact: Bool[np.ndarray, "queries units"] | None = None


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
        computed: What computes the blocks, as `ablation.landscape` takes it.

    Returns:
        The folder of the tables; if they were there already, nothing is computed.

    Raises:
        BadInput: If the queries are held out, or the tables are there without some of
            the measurements, or from before a removal.
    """
    asked_for, folder = asked.queries(), asked.folder(table_records.EXACT)
    options = {"placebos": n_placebos}
    with locks.alone(folder):
        found = _standing(asked, asked_for, table_records.EXACT, options)
        if found is None:
            _measure_exactly(
                asked, asked_for, folder, n_placebos, max_memory_mb, computed
            )
        if found in (None, folder):
            manifest.note_stage(asked.run, _stage(asked, folder))
        shutil.rmtree(_unfinished(asked, folder), ignore_errors=True)
    return found or folder


def _unfinished(asked: Asked, folder: Path) -> Path:
    """Where the blocks of exact ablation are until all are there.

    What version 0.1 began goes on where it is.
    """
    kind = _kind_before(asked, asked.kind(table_records.EXACT))
    called = kind.called_before(asked.name)
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
    with manifest.stage(run, _stage(asked, folder)) as record:
        landscape = ablation.landscape(
            pipe,
            asked_for,
            votes,
            dict(asked.measurements),
            _unfinished(asked, folder),
            max_memory_mb,
            computed,
            queries.drawn_by(run, pipe),
        )
        n_units = len(units.sources)
        displacement = landscape.displacement[:, :n_units]
        influences = {
            name: landscape.full[name][:, None] - values[:, :n_units]
            for name, values in landscape.measured.items()
        }
        top = _largest(displacement, N_TOP)
        found = Found(
            displacement=displacement,
            placebo=landscape.displacement[:, n_units:],
            placebos=placebos,
            influences={**influences, **_of_denoiser(asked, asked_for)},
            top_units=top,
            top_images=_top_images(pipe, asked_for, units, top),
            facts={
                "method": table_records.EXACT,
                "options": {
                    "placebos": n_placebos,
                    "placebo_seed": run.config.splits.seed,
                },
                "seconds": round(
                    landscape.seconds_before + time.perf_counter() - began, 3
                ),
                "member_forwards": landscape.member_forwards,
                "generations": landscape.member_forwards / _generation(pipe, asked_for),
            },
        )
        _keep(asked, asked_for, folder, found)
        record["seconds"] = files.read_json(folder / "info.json")["seconds"]


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
    with locks.alone(folder):
        found = _standing(asked, asked_for, table_records.DIFFERENTIAL, options)
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
            manifest.note_stage(asked.run, _stage(asked, folder))
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
    began = time.perf_counter()
    with manifest.stage(run, _stage(asked, folder)):
        before = pipe.members.n_forwards
        of_denoiser = _of_denoiser(asked, asked_for)
        answer = differential.ablate(
            differential.Question(
                pipe,
                asked_for,
                units,
                asked.measurements,
                N_TOP,
                accuracy,
                n_audit,
                seed,
            )
        )
        forwards = pipe.members.n_forwards - before
        found = Found(
            displacement=answer.displacement,
            placebo=first_order.displacement_without(answer.gram, placebos),
            placebos=placebos,
            influences={**answer.influences, **of_denoiser},
            top_units=answer.top_units,
            top_images=answer.top_images,
            facts={
                "method": table_records.DIFFERENTIAL,
                "options": {
                    "accuracy": accuracy,
                    "placebos": n_placebos,
                    "placebo_seed": run.config.splits.seed,
                    "n_audit": n_audit,
                    "seed": seed,
                },
                **answer.facts,
                "seconds": round(time.perf_counter() - began, 3),
                "member_forwards": forwards,
                "generations": round(forwards / _generation(pipe, asked_for), 3),
            },
            gram=answer.gram,
            compared=answer.compared,
            exact=answer.exact,
        )
        _keep(asked, asked_for, folder, found)


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
    with locks.alone(folder):
        found = _standing(asked, asked_for, table_records.ADJOINT, {}, name)
        if found is None:
            _measure_adjointly(asked, asked_for, folder, name, reading)
        if found in (None, folder):
            manifest.note_stage(asked.run, _stage(asked, folder))
    return found or folder


def _measure_adjointly(
    asked: Asked,
    asked_for: Queries,
    folder: Path,
    name: str,
    reading: Callable[[Images], Values],
) -> None:
    with manifest.stage(asked.run, _stage(asked, folder)):
        found = adjoint.adjoint(asked.pipe, asked_for, reading)
        parts = [
            -found.by_vote @ (votes - 1 / votes.shape[1]).T
            for votes in votes_in_blocks(asked.units.silenced)
        ]
        influence = np.concatenate(parts, axis=1)
        with files.folder_in_the_making(folder) as to:
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
            records.seal(to, "info.json", facts)


def summary(folder: Path) -> str:
    """What came out, in a few lines."""
    info = files.read_json(folder / "info.json")
    if info["method"] == "adjoint":
        return f"Signed influence, to first order: {folder}"
    displacement = records.sealed_array(folder, "info.json", "displacement.npy")
    drawn = records.sealed_array(folder, "info.json", "placebo.npy")
    n_queries = len(displacement)
    standing = n_queries - len(info["unattributable"])
    level = f"{drawn.mean():.3f}" if drawn.size else "none possible"
    measured = f"mean displacement {displacement.mean():.3f}, placebo {level}"
    if "compared.npy" in info["files"]:
        compared = records.sealed_array(folder, "info.json", "compared.npy")
        measured = (
            f"mean displacement {displacement.mean():.3f}; read off as placebos are, "
            f"{compared.mean():.3f}, placebo {level}"
        )
    objection = audit_verdict.objection(info)
    if objection:
        lines = [measured, objection]
    else:
        lines = [
            f"{measured}; for {standing} of {n_queries} queries some of the "
            f"{info['units']} stand out (p <= {info['threshold']}; smallest possible "
            f"{info['smallest_p']:.3g})",
            audit_verdict.coverage(info, n_queries),
            audit_verdict.promise(info),
        ]
    lines += [doubt["sentence"] for doubt in info.get("doubts", [])]
    if "audit" in info:
        lines += [info["road_sentence"], info["audit"]["sentence"]]
    return "\n".join(lines)


def quadratic_influence(
    form: Float[np.ndarray, "queries members members"],
    votes: Float64[np.ndarray, "vectors members"],
) -> Float64[np.ndarray, "queries vectors"]:
    """vᵀRv at equal votes minus vᵀRv at the ablated votes."""
    ablated = np.stack([((votes @ one) * votes).sum(axis=1) for one in form])
    return form.mean(axis=(1, 2), dtype=np.float64)[:, None] - ablated


def _stage(asked: Asked, folder: Path) -> str:
    """What the manifest calls the making of these tables."""
    return f"ablate {asked.name} {folder.name}"


def _standing(
    asked: Asked,
    asked_for: Queries,
    method: str,
    options: Mapping[str, Any],
    reading: str = "",
) -> Path | None:
    """Where the tables have been made already; None if they must be made.

    Args:
        asked: What is asked for.
        asked_for: Its queries.
        method: By which method.
        options: The method's; None: whatever tables that are there have.
        reading: The measurement, if the table is of one only.

    Raises:
        BadInput: If they were made with something else than is asked for.
    """
    kind = asked.kind(method, reading)
    folder = table_records.folder_of(asked.run, asked.name, kind)
    remedy = f"Ask for the same, delete {folder}, or ablate queries of another --name."
    if folder.exists():
        info = records.check_sealed(folder, "info.json")
        queries.membership_of(asked.run, asked.pipe).require_made(folder, info)
        table_records.require_same(folder, info, asked.facts(asked_for), remedy)
        table_records.require_same(
            folder, info["measured_by"], asked.measured_by, remedy
        )
        said = {name: value for name, value in options.items() if value is not None}
        table_records.require_same(
            folder, info["options"] if said else {}, said, remedy
        )
        missing = [one for one in asked.measurements if one not in info["measurements"]]
        if missing and not reading:
            raise BadInput(
                f"{folder} was made without {', '.join(missing)}, with "
                f"{', '.join(info['measurements'])}. {remedy}"
            )
        return folder
    return _standing_before(asked, asked_for, _kind_before(asked, kind), options)


def _kind_before(asked: Asked, kind: Kind) -> Kind:
    """The same table, as version 0.1 called groups: by who falls silent alone."""
    digest = files.array_digest(asked.units.silenced)[:8]
    return dataclasses.replace(kind, groups=digest if kind.groups else "")


def _standing_before(
    asked: Asked, asked_for: Queries, kind: Kind, options: Mapping[str, Any]
) -> Path | None:
    """Where version 0.1 left these tables, if its record fits what is asked for.

    What it left is never written again, so nothing is lost where it does not fit.

    Raises:
        BadInput: If it is damaged, or from before a removal.
    """
    folder = table_records.before(asked.run, asked.name, kind)
    if folder is None:
        return None
    info = records.check_sealed(folder, "info.json")
    queries.membership_of(asked.run, asked.pipe).require_made(folder, info)
    known = {"placebos": info.get("n_placebos")}
    groups = (asked.units.names, asked.units.sources)
    fits = [
        all(value in (None, known.get(name)) for name, value in options.items()),
        kind.reading or set(asked.measurements) <= set(info["measurements"]),
        not kind.groups or (info["unit_names"], info["group_sources"]) == groups,
        kind.method == table_records.ADJOINT
        or table_records.shows(
            folder, asked_for.images, kind.method == table_records.EXACT
        ),
    ]
    if not all(fits):
        print(f"{folder} is of version 0.1, and of something else: made anew.")
        return None
    print(
        f"{folder} is of version 0.1: which queries and weights made it was not recorded."
    )
    return folder


def _of_denoiser(
    asked: Asked, asked_for: Queries
) -> dict[str, Float64[np.ndarray, "queries units"]]:
    """Influence on measurements of the denoiser; exact for every unit."""
    influences = {}
    for name, measurement in asked.measurements.items():
        if measurement.of_denoiser is not None:
            form = measurement.of_denoiser(
                asked.pipe.members,
                objective_of(asked.run.config.model),
                queries.on_device(asked.pipe, asked_for.images),
                asked_for.condition(asked.pipe),
            ).numpy()
            parts = [
                quadratic_influence(form, votes)
                for votes in votes_in_blocks(asked.units.silenced)
            ]
            influences[name] = np.concatenate(parts, axis=1)
    return influences


def _largest(
    displacement: Float[np.ndarray, "queries units"], n_top: int
) -> Int64[np.ndarray, "queries top"]:
    """The most displacing units of each query, most displacing first."""
    return np.argsort(-displacement, axis=1, kind="stable")[:, :n_top].astype(np.int64)


def _top_images(
    pipe: EnsemblePipeline,
    asked_for: Queries,
    units: Units,
    top: Int64[np.ndarray, "queries top"],
) -> Float[np.ndarray, "queries top channels height width"]:
    """Exact pictures of each query without each of its top units."""
    pictures = queries.ablated_pictures(
        pipe,
        asked_for,
        np.repeat(np.arange(len(top)), top.shape[1]),
        votes_without(units.silenced[top.reshape(-1)]),
    )
    found = pictures.cpu().float().numpy()
    return found.reshape(*top.shape, *found.shape[1:])


def _generation(pipe: EnsemblePipeline, asked_for: Queries) -> int:
    return first_order.generation_forwards(pipe, len(asked_for.seeds))


def _keep(asked: Asked, asked_for: Queries, folder: Path, found: Found) -> None:
    """Write the tables of a method and what they mean."""
    units, drawn = asked.units, found.placebos.sum(axis=1)
    compared = found.displacement if found.compared is None else found.compared
    alone = placebo.p_values(compared, found.placebo, units.weights, drawn)
    corrected, facts = _beside_others(asked, asked_for, found, alone)
    above = placebo.excess(compared, found.placebo, units.weights, drawn)
    with files.folder_in_the_making(folder) as to:
        tables = {
            "displacement": found.displacement.astype(np.float32),
            "placebo": found.placebo.astype(np.float32),
            "placebo_weights": drawn.astype(np.int64),
            "excess": above.astype(np.float32),
            "p_values": corrected,
            "top_units": found.top_units,
            "top_images": found.top_images.astype(np.float32),
        }
        for name, values in found.influences.items():
            tables[f"influence_{text.file_name(name)}"] = values.astype(np.float32)
        if found.gram is not None:
            tables["gram"] = found.gram
        if found.compared is not None:
            tables["compared"] = found.compared.astype(np.float32)
        if found.exact is not None:
            tables["exact"] = found.exact
        for name, table in tables.items():
            files.write_array(to / f"{name}.npy", table)
        meant = {**asked.facts(asked_for), **_facts(asked, found, corrected), **facts}
        records.seal(to, "info.json", meant)


def _beside_others(
    asked: Asked,
    asked_for: Queries,
    found: Found,
    alone: Float64[np.ndarray, "queries units"],
) -> tuple[Float64[np.ndarray, "queries units"], dict[str, Any]]:
    """P-values beside whoever else may matter, and what is on record of them.

    Nothing more is computed for pictures on which nobody stands out.
    """
    among = p_values.others(asked.units, asked.plan.codes, asked.plan.source_names)
    standing = np.flatnonzero((alone <= placebo.THRESHOLD).any(axis=1))
    if not standing.size:
        return alone, p_values.facts([], among)
    gram, spent = found.gram, {}
    if gram is None:
        gram, spent = _how_it_moves(asked.pipe, asked_for, standing)
        spent = {name: found.facts[name] + more for name, more in spent.items()}
    seed = asked.run.config.splits.seed
    corrected, doubts = p_values.p_values(alone, gram, among, seed)
    return corrected, {**spent, **p_values.facts(doubts, among)}


def _how_it_moves(
    pipe: EnsemblePipeline, asked_for: Queries, chosen: Int64[np.ndarray, " chosen"]
) -> tuple[Float64[np.ndarray, "queries members members"], dict[str, float]]:
    """G of the chosen queries, zero for others; and what finding it took."""
    began = time.perf_counter()
    some = dataclasses.replace(
        asked_for,
        seeds=asked_for.seeds[chosen],
        conditions=None
        if asked_for.conditions is None
        else asked_for.conditions[chosen],
        images=asked_for.images[chosen],
    )
    moves = first_order.designed(pipe, some, FOR_MATCHED)
    n_members = pipe.members.n_members
    gram = np.zeros((len(asked_for.seeds), n_members, n_members))
    gram[chosen] = moves.gram
    return gram, {
        "seconds": round(time.perf_counter() - began, 3),
        "member_forwards": moves.member_forwards,
        "generations": moves.member_forwards / _generation(pipe, asked_for),
    }


def _facts(
    asked: Asked, found: Found, corrected: Float64[np.ndarray, "queries units"]
) -> dict[str, Any]:
    units, single = asked.units, asked.units.kind == "sources"
    drawn = found.placebos.sum(axis=1)
    threshold = placebo.THRESHOLD
    return {
        **found.facts,
        "units": units.kind,
        "unit_names": None if single else units.names,
        "group_sources": None if single else units.sources,
        "n_placebos": len(found.placebos),
        "smallest_p": placebo.smallest_p(units.weights, drawn),
        "threshold": threshold,
        "unattributable": np.flatnonzero(corrected.min(axis=1) > threshold).tolist(),
        "measurements": list(found.influences),
        "measured_by": asked.measured_by,
        "measurement_sentences": {
            name: asked.measurements[name].sentence for name in found.influences
        },
        "peak_memory_bytes": environment.peak_memory_bytes(),
    }
