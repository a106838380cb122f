"""What sensitivity is worth: roads against exact ablation, over samplers and sets.

    python -m benchmarks.influence.sensitivity RUN [N_QUERIES]

Writes results/sensitivity_RUN.json, named after the run's folder. On fresh queries, for
each sampler (DDIM, DPM-Solver++, DDPM with keyed noise) and each kind of ablation (every
source; unions of two or three; codes of no source): Spearman correlation and relative
error of each road's displacement against exact ablation, and its work in generations of
the query, by itself. Then, for the run's own sampler, what audits of 16 random sources a
query say of the cheapest road and of one by one, drawn many times: how often their 95 %
interval holds what all sources say, and what version 0.1 would have said.

The demo: python train.py configs/digits.yaml. With labels and guidance: the same with
run=RUN data.n_images=96 splits.n_members=16 model.class_conditional=true
sampling.guidance_scale=3.
"""

import os
import sys

import numpy as np
import scipy.stats
import torch

from benchmarks import record
from ensemble.ablation import audit, first_order
from ensemble.ablation.exact import pictures_without
from ensemble.ablation.removal_sets import votes_without
from ensemble.provenance import plans
from ensemble.run import folder
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.sampling.schedulers import SCHEDULERS

FIRST_SEED = 5000
SAMPLERS = ("ddim", "dpmsolver++", "ddpm")
N_UNIONS, N_PLACEBOS = 24, 24
N_AUDITS, N_AUDITED = 200, 16
DESIGNED = first_order.DESIGNED_ROADS[:3]


def fresh(pipe: EnsemblePipeline, n_queries: int) -> Queries:
    """Queries that nobody has seen, of every label in turn."""
    seeds, no_label = (
        np.arange(FIRST_SEED, FIRST_SEED + n_queries),
        pipe.members.no_label,
    )
    labels = None if no_label is None else np.arange(n_queries) % no_label
    told = None if labels is None else labels.tolist()
    pictures = pipe.pictures(seeds.tolist(), told)
    return Queries(seeds, labels, pictures.cpu().float().numpy())


def ablations(bits: np.ndarray) -> dict[str, np.ndarray]:
    """Members that fall silent: every source, unions, and codes of no source."""
    rng = np.random.default_rng(0)
    unions: list[np.ndarray] = []
    while len(unions) < N_UNIONS:
        some = rng.choice(len(bits), rng.integers(2, 4), replace=False)
        if not (union := bits[some].any(axis=0)).all():
            unions.append(union)
    weight = int(bits[0].sum())
    placebos = [rng.permutation(bits.shape[1]) < weight for _ in range(N_PLACEBOS)]
    return {"sources": bits, "unions": np.stack(unions), "placebos": np.stack(placebos)}


def exact_displacement(
    pipe: EnsemblePipeline, asked: Queries, silenced: np.ndarray
) -> np.ndarray:
    """Of each query by each ablation, every one sampled again."""
    rows = []
    for query, full in enumerate(asked.images):
        of_query = np.full(len(silenced), query)
        found = pictures_without(pipe, asked, of_query, silenced)
        rows.append(queries.distance(found, full[None]))
    return np.stack(rows)


def agreement(predicted: np.ndarray, exact: np.ndarray) -> dict:
    """Spearman over queries, and the median relative error."""
    correlations = [
        float(scipy.stats.spearmanr(*pair).statistic)
        for pair in zip(predicted, exact, strict=True)
    ]
    # Were the road's scale known, as an audit tells it: is it scale or order?
    scaled = predicted * np.median(exact / predicted, axis=1, keepdims=True)
    return {
        "spearman_median": round(float(np.median(correlations)), 3),
        "spearman_worst": round(min(correlations), 3),
        "relative_error": round(float(np.median(np.abs(predicted / exact - 1))), 3),
        "relative_error_rescaled": round(
            float(np.median(np.abs(scaled / exact - 1))), 3
        ),
    }


def compare(pipe: EnsemblePipeline, asked: Queries, kinds: dict) -> tuple[dict, dict]:
    """Every road on every kind of ablation; and the displacements of all sources."""
    generation = first_order.generation_forwards(pipe, len(asked.seeds))
    exact = {
        kind: exact_displacement(pipe, asked, rows) for kind, rows in kinds.items()
    }
    results: dict = {kind: {"n_ablations": len(rows)} for kind, rows in kinds.items()}
    of_sources = {"exact": exact["sources"]}

    def compared(name: str, kind: str, predicted: np.ndarray, forwards: int) -> None:
        results[kind][name] = {
            **agreement(predicted, exact[kind]),
            "generations": round(forwards / generation, 2),
        }
        if kind == "sources":
            of_sources[name] = predicted
        print(kind, name, results[kind][name], flush=True)

    for road in DESIGNED:
        moves = first_order.designed(pipe, asked, road)
        for kind, rows in kinds.items():
            read_off = first_order.displacement_without(moves.gram, rows)
            compared(road.name, kind, read_off, moves.member_forwards)
    for road in first_order.ONE_BY_ONE_ROADS:
        for kind, rows in kinds.items():
            before = pipe.members.n_forwards
            moved = first_order.one_by_one(pipe, asked, votes_without(rows), road)
            displaced = np.sqrt(np.square(moved).mean(axis=(2, 3, 4)))
            compared(road.name, kind, displaced, pipe.members.n_forwards - before)
    return results, of_sources


def audited(predicted: np.ndarray, exact: np.ndarray) -> dict:
    """What audits say of these predictions, and how often they hold the truth."""
    n_queries, n_units = exact.shape
    everything = audit.drawn(n_units, n_queries, n_units, 0)
    nothing = np.zeros(exact.shape, dtype=bool)
    truth = audit.result(
        predicted, np.take_along_axis(exact, everything, 1), everything, nothing
    )
    said, before = [], []
    for seed in range(N_AUDITS):
        chosen = audit.drawn(n_units, n_queries, N_AUDITED, seed)
        sampled = np.take_along_axis(exact, chosen, axis=1)
        said.append(audit.result(predicted, sampled, chosen, nothing))
        guessed = np.take_along_axis(predicted, chosen, axis=1)
        alone = [
            scipy.stats.spearmanr(*one).statistic
            for one in zip(guessed, sampled, strict=True)
        ]
        before.append(float(np.median(alone)))
    found: dict = {"n_audits": N_AUDITS, "n_audited": N_AUDITED}
    for name in ("spearman", "relative_error"):
        values = [one[name] for one in said]
        held = [
            one[f"{name}_interval"][0] <= truth[name] <= one[f"{name}_interval"][1]
            for one in said
        ]
        found[name] = {
            "of_all_sources": truth[name],
            "mean_of_audits": round(float(np.mean(values)), 4),
            "standard_deviation_of_audits": round(float(np.std(values)), 4),
            "share_of_intervals_that_hold": round(float(np.mean(held)), 3),
        }
    found["spearman_as_version_0_1_said"] = {
        "mean_of_audits": round(float(np.mean(before)), 4),
        "standard_deviation_of_audits": round(float(np.std(before)), 4),
    }
    print(found, flush=True)
    return found


def main(path: str, n_queries: int = 6) -> None:
    torch.set_num_threads(1)
    run = folder.open_run(path)
    bits = plans.load(run).codes.bits
    pipe = EnsemblePipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    pipe.members.side_by_side = os.cpu_count() or 1
    kinds, results, audits = ablations(bits), {}, {}
    for sampler in SAMPLERS:
        pipe.scheduler = SCHEDULERS[sampler].from_config(pipe.scheduler.config)
        asked = fresh(pipe, n_queries)
        results[sampler], of_sources = compare(pipe, asked, kinds)
        if sampler == run.config.sampling.scheduler and len(bits) > N_AUDITED:
            audits = {
                name: audited(of_sources[name], of_sources["exact"])
                for name in (DESIGNED[0].name, first_order.ONE_BY_ONE_ROADS[0].name)
            }
    record.write(
        "sensitivity",
        list(range(FIRST_SEED, FIRST_SEED + n_queries)),
        {
            "run": run.path.name,
            "n_members": pipe.members.n_members,
            "n_sources": len(bits),
            "n_steps": pipe.sampling().n_steps,
            "guidance_scale": pipe.sampling().guidance_scale,
            "n_queries": n_queries,
            "samplers": results,
            "audits": audits,
        },
        part=run.path.name,
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
