"""The tables of influence: how they are compared with placebo, kept and summed up."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from ensemble.ablation import first_order, p_values, placebo
from ensemble.ablation.influence_request import Asked
from ensemble.ablation.removal_sets import Units, votes_in_blocks, votes_without
from ensemble.models.objective import objective_of
from ensemble.report import audit_verdict
from ensemble.run import files, records
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.system import environment, text

N_TOP = 6
# What exact ablation reads matched codes off: placebos of a few pictures.
FOR_MATCHED = first_order.Road(paired=True)


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


def summary(folder: Path) -> str:
    """What came out, in a few lines."""
    info = files.read_json(folder / "info.json")
    if info["method"] == "adjoint":
        return f"Signed influence, to first order: {folder}"
    displacement = records.checked_array(folder, "info.json", "displacement.npy")
    drawn = records.checked_array(folder, "info.json", "placebo.npy")
    n_queries = len(displacement)
    standing = n_queries - len(info["unattributable"])
    level = f"{drawn.mean():.3f}" if drawn.size else "none possible"
    measured = f"mean displacement {displacement.mean():.3f}, placebo {level}"
    if "compared.npy" in info["files"]:
        compared = records.checked_array(folder, "info.json", "compared.npy")
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


def of_denoiser(
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


def top_images(
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


def generation(pipe: EnsemblePipeline, asked_for: Queries) -> int:
    """Member forwards that generating the queries takes."""
    return first_order.generation_forwards(pipe, len(asked_for.seeds))


def keep(asked: Asked, asked_for: Queries, folder: Path, found: Found) -> None:
    """Write the tables of a method and what they mean."""
    units, drawn = asked.units, found.placebos.sum(axis=1)
    compared = found.displacement if found.compared is None else found.compared
    alone = placebo.p_values(compared, found.placebo, units.weights, drawn)
    corrected, facts = _beside_others(asked, asked_for, found, alone)
    above = placebo.excess(compared, found.placebo, units.weights, drawn)
    with files.atomic_folder(folder) as to:
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
        records.write_done_mark(to, "info.json", meant)


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
        "generations": moves.member_forwards / generation(pipe, asked_for),
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
