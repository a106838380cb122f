"""Roads of differential ablation against exact ablation, on a trained run.

    python -m benchmarks.ablation [RUN] [N_QUERIES] [N_SOURCES]

For each road: Spearman correlation and relative error of the displacement of random
sources against exact ablation, per query (medians and quartiles), its work in
generations of the query (a derivative pass counts by its measured time against a
forward pass) and its seconds relative to generating the queries. The 2023 dual-number
loop is written out here as it was published: M copies of the state, each member run in
forward mode on all of them.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import scipy.stats
import torch

from benchmarks import record
from ensemble import plan, sensitivity, store
from ensemble.ablation import landscape
from ensemble.model import predict
from ensemble.pipeline import EnsemblePipeline, denoise
from ensemble.queries import Queries
from ensemble.units import votes_without


def queries_of(pipe: EnsemblePipeline, n_queries: int) -> Queries:
    """Fresh queries by the full ensemble."""
    seeds = np.arange(1000, 1000 + n_queries)
    return Queries(seeds, None, pipe.pictures(seeds).numpy())


def dual_numbers(pipe: EnsemblePipeline, queries: Queries) -> sensitivity.Sensitivity:
    """The 2023 loop: every tangent carries its own copy of the state."""
    model = pipe.members
    n_members = model.n_members
    n_passes = 0

    def beside(scaled, at_query, timestep, condition):
        nonlocal n_passes
        del condition
        mean = at_query.mean(dim=1, keepdim=True)
        copies = scaled[:, :1].expand_as(scaled[:, 1:]).flatten(0, 1)
        directions = (scaled[:, 1:] - scaled[:, :1]).flatten(0, 1)
        carried = torch.zeros_like(directions)
        for network in model.networks:
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                carried += torch.func.jvp(
                    lambda at, network=network: predict(network, at, timestep),
                    (copies,),
                    (directions,),
                )[1]
            n_passes += len(copies)
        carried = carried.unflatten(0, at_query.shape[:2])
        return mean + (at_query - mean) + carried / n_members

    before = model.n_forwards
    pictures, moved = sensitivity.stepped_beside(pipe, queries, n_members, beside)
    moved = (moved - pictures[:, None]).flatten(2).double().numpy()
    return sensitivity.Sensitivity(
        moved.transpose(0, 2, 1), model.n_forwards - before, n_passes, "dual numbers"
    )


ROADS: dict[str, Callable] = {
    "designed": lambda pipe, asked: sensitivity.designed(pipe, asked),
    "designed, paired": lambda pipe, asked: sensitivity.designed(pipe, asked, True),
    "designed, paired, two followed": lambda pipe, asked: sensitivity.designed(
        pipe, asked, True, n_feedback=2
    ),
    "designed, paired, all followed": lambda pipe, asked: sensitivity.designed(
        pipe, asked, True, n_feedback=None
    ),
    "tangents": sensitivity.tangents,
    "dual numbers (2023)": dual_numbers,
}


def generation_seconds(pipe: EnsemblePipeline, asked: Queries) -> float:
    """Seconds in which the full ensemble generates the queries."""
    votes = torch.full((len(asked.seeds), pipe.members.n_members), 1.0)
    noise = asked.noise(pipe)
    began = time.perf_counter()
    with torch.no_grad():
        for _ in denoise(pipe.members, pipe.sampling(), noise, votes / votes.shape[1]):
            pass
    return time.perf_counter() - began


def agreement(predicted: np.ndarray, exact: np.ndarray) -> dict:
    """Spearman and relative error of each query; medians and quartiles."""
    correlations = [
        scipy.stats.spearmanr(*pair).statistic
        for pair in zip(predicted, exact, strict=True)
    ]
    errors = np.median(np.abs(predicted / exact - 1), axis=1)
    return {
        "spearman_median": round(float(np.median(correlations)), 4),
        "spearman_quartiles": np.quantile(correlations, [0.25, 0.75]).round(4).tolist(),
        "relative_error_median": round(float(np.median(errors)), 4),
    }


def main(
    path: str = "runs/digits_all", n_queries: int = 16, n_sources: int = 200
) -> None:
    torch.set_num_threads(1)
    run = store.open_run(path)
    ready = plan.load(run)
    pipe = EnsemblePipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    asked = queries_of(pipe, n_queries)
    sources = np.random.default_rng(0).permutation(ready.codes.n_sources)[:n_sources]
    votes = votes_without(ready.codes.bits[sources])
    work = run.path / "benchmark.work"
    began = time.perf_counter()
    exact = landscape(pipe, asked, votes, {}, work)
    exact_seconds = time.perf_counter() - began
    generation = sensitivity.generation_forwards(pipe, n_queries)
    base = generation_seconds(pipe, asked)
    per_forward = base / generation
    results = {}
    for name, road in ROADS.items():
        began = time.perf_counter()
        found = road(pipe, asked)
        seconds = time.perf_counter() - began
        rest = max(0.0, seconds - found.member_forwards * per_forward)
        passes = found.derivative_passes
        results[name] = {
            **agreement(
                sensitivity.displacement(found.gram, votes), exact.displacement
            ),
            "seconds_in_generations": round(seconds / base, 2),
            "forwards_in_generations": round(found.member_forwards / generation, 2),
            "derivative_passes_in_generations": round(passes / generation, 2),
            "seconds_of_a_derivative_pass_in_forwards": round(
                rest / passes / per_forward, 2
            )
            if passes
            else None,
        }
        print(name, results[name], flush=True)
    began = time.perf_counter()
    _, forwards, passes = sensitivity.adjoint(
        pipe, asked, lambda images: images.mean(dim=(1, 2, 3))
    )
    results["adjoint (one measurement)"] = {
        "seconds_in_generations": round((time.perf_counter() - began) / base, 2),
        "forwards_in_generations": round(forwards / generation, 2),
        "derivative_passes_in_generations": round(passes / generation, 2),
    }
    record.write(
        "ablation",
        [0, *asked.seeds.tolist()],
        {
            "run": run.path.name,
            "n_members": ready.codes.n_members,
            "n_steps": pipe.sampling().n_steps,
            "n_queries": n_queries,
            "n_sources_compared": n_sources,
            "exact_generations": round(exact.member_forwards / generation, 2),
            "exact_seconds_in_generations": round(exact_seconds / base, 2),
            "roads": results,
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:4]))
