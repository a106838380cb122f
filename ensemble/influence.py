"""Influence: what each source's removal does to each query, against placebo.

A unit is what is removed at once: a source, or a set of sources. Dropping half of the
members moves any picture, so a unit's displacement means something only beside that of
placebo codes: codes of the same weight that belong to no source. Excess is the
displacement minus the placebos' mean; the p-value says how often so large a
displacement would come up among as many placebos as there are units.

Before: ablation.py (samples), measurement.py. After: evaluation, report.py.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from ensemble import ablation, queries, store
from ensemble.measurement import MEASUREMENTS, Measurement
from ensemble.model import noise_schedule
from ensemble.pipeline import EnsemblePipeline
from ensemble.plan import Plan
from ensemble.queries import Queries
from ensemble.store import Run
from splits import designs
from splits.codes import CodeBook, surviving_votes
from splits.errors import BadInput

THRESHOLD = 0.05


@dataclass(frozen=True, eq=False)
class Units:
    """What is removed at once, row by row.

    Attributes:
        silenced: Members that saw some of the unit's sources, and fall silent.
        sources: The sources of each unit.
        names: What each unit is called.
        kind: `sources` if every unit is one source, in order; else `groups`.
    """

    silenced: Bool[np.ndarray, "units members"]
    sources: list[list[int]]
    names: list[str]
    kind: str

    @property
    def weights(self) -> Int[np.ndarray, " units"]:
        """Members that each unit silences."""
        return self.silenced.sum(axis=1)


def each_source(plan: Plan) -> Units:
    """Every source is a unit of its own.

    Raises:
        BadInput: If every member saw some source, so that it cannot be ablated.
    """
    sources = [[source] for source in range(plan.codes.n_sources)]
    return _units(plan.codes, sources, plan.source_names, "sources")


def one_set(plan: Plan, sources: Sequence[int]) -> Units:
    """One unit: all of these sources together.

    Raises:
        BadInput: If a source does not exist, or no member survives.
    """
    unknown = [one for one in sources if not 0 <= one < plan.codes.n_sources]
    if unknown:
        raise BadInput(
            f"Source {unknown[0]} does not exist: this run has sources 0 to "
            f"{plan.codes.n_sources - 1}."
        )
    name = "sources " + ", ".join(str(source) for source in sources)
    return _units(plan.codes, [sorted(set(sources))], [name], "groups")


def by_column(plan: Plan, column: str) -> Units:
    """One unit for each value of a metadata column: all sources with that value.

    Raises:
        BadInput: If there is no such column, or no member survives some unit.
    """
    if column not in plan.data.columns:
        known = ", ".join(plan.data.columns) or "none"
        raise BadInput(f"The data has no column {column!r}; known: {known}.")
    values = np.asarray(plan.data.columns[column])
    names = sorted(set(values.tolist()))
    sources = [np.unique(plan.source_of[values == name]).tolist() for name in names]
    return _units(plan.codes, sources, [f"{column} {name}" for name in names], "groups")


def _units(
    codes: CodeBook, sources: list[list[int]], names: list[str], kind: str
) -> Units:
    silenced = np.stack([codes.bits[chosen].any(axis=0) for chosen in sources])
    for name, row in zip(names, silenced, strict=True):
        if row.all():
            raise BadInput(
                f"Without {name} none of the {codes.n_members} members is left to "
                "vote: each has seen some of it. Remove less at once, or train with "
                "more members that each see less (splits.weight, or one source for "
                "each value of the column)."
            )
    return Units(silenced, sources, names, kind)


def votes_without(silenced: Bool[np.ndarray, "rows members"]) -> np.ndarray:
    """Equal votes of the members that each row leaves, float64 (rows, members)."""
    return np.stack([surviving_votes(row) for row in silenced])


def p_values(
    displacement: Float[np.ndarray, "queries units"],
    placebo: Float[np.ndarray, "queries placebos"],
    unit_weights: Int[np.ndarray, " units"],
    placebo_weights: Int[np.ndarray, " placebos"],
) -> Float64[np.ndarray, "queries units"]:
    """How often some unit would displace so much, were all units placebos.

    If N units and n placebos are exchangeable, the chance that the largest of the units
    has at most r of the placebos above it is exactly

        p(r) = 1 - product over i = 0..r of (n - i) / (N + n - i)

    so p is corrected for the N units without any assumption about the distribution; it
    cannot be smaller than N / (N + n). Units are compared with placebos of their own
    weight; C different weights multiply p by C. Ties count as placebos above.
    """
    result = np.ones(displacement.shape)
    classes = np.unique(unit_weights)
    for weight in classes:
        units = unit_weights == weight
        drawn = np.sort(placebo[:, placebo_weights == weight], axis=1)
        n_units, n_placebos = int(units.sum()), drawn.shape[1]
        ranks = np.arange(n_placebos)
        kept = np.log1p(-n_units / (n_units + n_placebos - ranks))
        # The last entry: all placebos above, so p is one.
        p_of_rank = np.append(-np.expm1(np.cumsum(kept)), 1.0)
        for query, row in enumerate(drawn):
            above = n_placebos - np.searchsorted(row, displacement[query, units])
            result[query, units] = np.minimum(1, p_of_rank[above] * len(classes))
    return result


def excess(
    displacement: Float[np.ndarray, "queries units"],
    placebo: Float[np.ndarray, "queries placebos"],
    unit_weights: Int[np.ndarray, " units"],
    placebo_weights: Int[np.ndarray, " placebos"],
) -> Float64[np.ndarray, "queries units"]:
    """Displacement minus the mean displacement of placebos of the same weight.

    Not a number where no placebo of that weight exists.
    """
    result = np.full(displacement.shape, np.nan)
    for weight in np.unique(unit_weights):
        units, drawn = unit_weights == weight, placebo_weights == weight
        if drawn.any():
            level = placebo[:, drawn].mean(axis=1, dtype=np.float64)
            result[:, units] = displacement[:, units] - level[:, None]
    return result


def placebo_codes(
    plan: Plan, units: Units, n_placebos: int | None, seed: int
) -> Bool[np.ndarray, "placebos members"]:
    """Placebos for the units; by default enough for a corrected p-value of 0.05."""
    if n_placebos is None:
        n_placebos = int(np.ceil(len(units.sources) * (1 / THRESHOLD - 1)))
    return designs.placebos(plan.codes, n_placebos, seed, units.weights.tolist())


def measure_exactly(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    name: str,
    units: Units,
    n_placebos: int | None = None,
    measurements: Mapping[str, Measurement] = MEASUREMENTS,
    n_top: int = 6,
    max_memory_mb: int = 1024,
) -> None:
    """Ablate every unit from every query, exactly, and keep what came out.

    Args:
        run: The run folder.
        pipe: The ensemble.
        plan: Sources and codes.
        name: The queries.
        units: What is removed.
        n_placebos: Placebo codes to run beside them; None: enough for p = 0.05.
        measurements: What to read off besides the displacement.
        n_top: Units of each query whose ablated picture is kept.
        max_memory_mb: Bound on the memory of activations and states.
    """
    folder = influence_folder(run, name, units)
    if folder.exists():
        return
    asked = queries.load(run, name)
    placebos = placebo_codes(plan, units, n_placebos, run.config.splits.seed)
    votes = votes_without(np.concatenate([units.silenced, placebos]))
    unfinished = folder.with_name(folder.name + ".work")
    began = time.perf_counter()
    with store.stage(run, f"ablate {folder.name}") as facts:
        found = ablation.landscape(
            pipe,
            asked,
            votes,
            dict(measurements),
            unfinished,
            max_memory_mb,
        )
        facts["member_forwards"] = found.member_forwards
        influences = _influences(run, pipe, asked, found, votes, measurements)
        _keep(
            run,
            folder,
            units,
            placebos,
            found.displacement,
            influences,
            measurements,
            _top(pipe, asked, units, found.displacement, n_top),
            {
                "method": "exact",
                "seconds": round(time.perf_counter() - began, 3),
                "member_forwards": found.member_forwards,
                "generation_forwards": generation_forwards(pipe),
            },
        )
    shutil.rmtree(unfinished)


def generation_forwards(pipe: EnsemblePipeline) -> int:
    """Member forwards that one picture of the full ensemble takes."""
    passes = 1 if pipe.sampling().guidance_scale == 1 else 2
    return pipe.sampling().n_steps * pipe.members.n_members * passes


def influence_folder(run: Run, name: str, units: Units) -> Path:
    """Where the influence of these units on these queries is kept."""
    if units.kind == "sources":
        return run.influence(name)
    digest = store.array_digest(units.silenced)[:8]
    return run.influence(f"{name}-{digest}")


def _influences(
    run: Run,
    pipe: EnsemblePipeline,
    asked: Queries,
    found: ablation.Landscape,
    votes: Float64[np.ndarray, "vectors members"],
    measurements: Mapping[str, Measurement],
) -> dict[str, Float[np.ndarray, "queries vectors"]]:
    """Measurement of the full ensemble minus that of each ablated one."""
    influences = {
        name: found.full[name][:, None] - values
        for name, values in found.measured.items()
    }
    for name, measurement in measurements.items():
        if measurement.of_denoiser is not None:
            form = measurement.of_denoiser(
                pipe.members,
                noise_schedule(run.config.model),
                queries.on_device(pipe, asked.images),
                asked.condition(pipe),
            ).numpy()
            influences[name] = quadratic_influence(form, votes)
    return influences


def quadratic_influence(
    form: Float[np.ndarray, "queries members members"],
    votes: Float64[np.ndarray, "vectors members"],
) -> Float64[np.ndarray, "queries vectors"]:
    """vᵀRv at equal votes minus vᵀRv at the ablated votes."""
    ablated = np.einsum("vm,qmn,vn->qv", votes, form, votes, optimize=True)
    return form.mean(axis=(1, 2), dtype=np.float64)[:, None] - ablated


def _top(
    pipe: EnsemblePipeline,
    asked: Queries,
    units: Units,
    displacement: Float[np.ndarray, "queries vectors"],
    n_top: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The most displacing units of each query, and their ablated pictures."""
    n_units = len(units.sources)
    n_top = min(n_top, n_units)
    order = np.argsort(-displacement[:, :n_units], axis=1, kind="stable")[:, :n_top]
    pictures = ablation.ablated_pictures(
        pipe,
        asked,
        np.repeat(np.arange(len(asked.seeds)), n_top),
        votes_without(units.silenced[order.reshape(-1)]),
    )
    shape = (len(order), n_top, *pictures.shape[1:])
    return order.astype(np.int64), pictures.cpu().float().numpy().reshape(shape)


def _keep(
    run: Run,
    folder: Path,
    units: Units,
    placebos: Bool[np.ndarray, "placebos members"],
    displacement: Float[np.ndarray, "queries vectors"],
    influences: dict[str, Float[np.ndarray, "queries vectors"]],
    measurements: Mapping[str, Measurement],
    top: tuple[np.ndarray, np.ndarray],
    facts: dict[str, Any],
) -> None:
    """Write the tables of `influence/NAME` and what they mean."""
    n_units = len(units.sources)
    real, placebo = displacement[:, :n_units], displacement[:, n_units:]
    drawn = placebos.sum(axis=1)
    corrected = p_values(real, placebo, units.weights, drawn)
    above = excess(real, placebo, units.weights, drawn)
    smallest = p_values(
        np.full((1, n_units), np.inf), placebo[:1], units.weights, drawn
    )
    with store.folder_in_the_making(folder) as to:
        store.write_array(to / "displacement.npy", real.astype(np.float32))
        store.write_array(to / "placebo.npy", placebo.astype(np.float32))
        store.write_array(to / "placebo_weights.npy", drawn.astype(np.int64))
        store.write_array(to / "excess.npy", above.astype(np.float32))
        store.write_array(to / "p_values.npy", corrected)
        for name, values in influences.items():
            table = values[:, :n_units].astype(np.float32)
            store.write_array(to / f"influence_{name}.npy", table)
        store.write_array(to / "top_units.npy", top[0])
        store.write_array(to / "top_images.npy", top[1])
        store.seal(
            to,
            "info.json",
            {
                **facts,
                "units": units.kind,
                "unit_names": None if units.kind == "sources" else units.names,
                "group_sources": None if units.kind == "sources" else units.sources,
                "n_placebos": len(placebos),
                "smallest_p": float(smallest.min()),
                "threshold": THRESHOLD,
                "unattributable": np.flatnonzero(
                    corrected.min(axis=1) > THRESHOLD
                ).tolist(),
                "measurements": list(influences),
                "measurement_sentences": {
                    name: measurements[name].sentence for name in influences
                },
                "code_book_digest": store.read_json(run.manifest)["code_book_digest"],
                "peak_memory_bytes": store.peak_memory_bytes(),
            },
        )


def survivors(units: Units) -> list[str]:
    """What will be left, before the work starts, one line for each unit of a few."""
    left = (~units.silenced).sum(axis=1)
    if len(left) > 20:
        return [
            f"{len(left)} {units.kind}, one by one; {left.min()} to {left.max()} of "
            f"{units.silenced.shape[1]} members stay."
        ]
    return [
        f"without {name}: {stay} of {units.silenced.shape[1]} members stay"
        for name, stay in zip(units.names, left, strict=True)
    ]


def summary(folder: Path) -> str:
    """What came out, in a few lines."""
    info = store.read_json(folder / "info.json")
    displacement = store.sealed_array(folder, "info.json", "displacement.npy")
    placebo = store.sealed_array(folder, "info.json", "placebo.npy")
    n_queries = len(displacement)
    standing = n_queries - len(info["unattributable"])
    level = f"{placebo.mean():.3f}" if placebo.size else "none possible"
    return (
        f"mean displacement {displacement.mean():.3f}, placebo {level}; for "
        f"{standing} of {n_queries} queries some of the {info['units']} stand out "
        f"(p <= {info['threshold']}; smallest possible {info['smallest_p']:.3f})"
    )
