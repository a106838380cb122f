"""Roads of differential ablation against exact ablation, on a trained run.

    python -m benchmarks.influence.ablation RUN [N_QUERIES] [N_SOURCES]

Writes results/ablation_RUN.json, named after the run's folder. For each road: Spearman
correlation and relative error of the displacement of all sources (or of N_SOURCES
random ones) against exact ablation, per query (medians and quartiles); its work in
generations of the query, a derivative pass counted by its measured time against a
forward pass; and its seconds relative to generating the queries. Then the exact
landscape against sampling again source by source, in turn.

The exact landscape is kept in RUN/benchmark.exact: interrupted, it goes on; done, it is
not computed again. The 2023 dual-number loop is written out here as it was published: M
copies of the state, each member run in forward mode on all of them. It, the tangents
and the sketch are compared on fewer queries the more members there are, and then so are
the roads that are timed beside it.
"""

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch

from benchmarks import record
from ensemble.ablation import adjoint, coupled, first_order, tangents
from ensemble.ablation.exact import landscape
from ensemble.ablation.measurements import MEASUREMENTS
from ensemble.ablation.measurements import brightness as brightness_of
from ensemble.ablation.removal_sets import votes_without
from ensemble.models.denoisers import predict
from ensemble.provenance import plans
from ensemble.run import files
from ensemble.run.folder import Run, open_run
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.sampling.trajectory import denoise


def queries_of(pipe: EnsemblePipeline, n_queries: int) -> Queries:
    """Fresh queries by the full ensemble."""
    seeds = np.arange(1000, 1000 + n_queries)
    return Queries(seeds, None, pipe.pictures(seeds).numpy())


def opened(
    path: str, n_queries: int, n_sources: int | None
) -> tuple[Run, EnsemblePipeline, Queries, np.ndarray]:
    """A run, its ensemble on all cores, fresh queries, and votes without each source.

    The sources are random ones, or all.
    """
    torch.set_num_threads(1)
    run = open_run(path)
    codes = plans.load(run).codes
    pipe = EnsemblePipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    pipe.members.side_by_side = os.cpu_count() or 1
    sources = np.random.default_rng(0).permutation(codes.n_sources)[:n_sources]
    votes = votes_without(codes.bits[sources])
    return run, pipe, queries_of(pipe, n_queries), votes


def dual_numbers(pipe: EnsemblePipeline, queries: Queries) -> first_order.Sensitivity:
    """The 2023 loop: every tangent carries its own copy of the state."""
    model = pipe.members
    n_members = model.n_members
    n_passes = 0

    def beside(scaled, at_query, timestep, condition):
        nonlocal n_passes
        del condition
        mean = at_query.mean(dim=1, keepdim=True)
        # For a single query these would be one place in memory.
        copies = scaled[:, :1].expand_as(scaled[:, 1:]).flatten(0, 1).contiguous()
        directions = (scaled[:, 1:] - scaled[:, :1]).flatten(0, 1)
        carried = torch.zeros_like(directions)
        for network in model.networks:
            with tangents.forward_mode(network):
                carried += torch.func.jvp(
                    lambda at, network=network: predict(network, at, timestep),
                    (copies,),
                    (directions,),
                )[1]
            n_passes += len(copies)
        carried = carried.unflatten(0, at_query.shape[:2])
        return mean + (at_query - mean) + carried / n_members

    before = model.n_forwards
    pictures, moved = coupled.stepped_beside(pipe, queries, n_members, beside)
    moved = (moved - pictures[:, None]).flatten(2).double().numpy()
    return first_order.Sensitivity(
        moved.transpose(0, 2, 1), model.n_forwards - before, n_passes, "dual numbers"
    )


@dataclass(frozen=True)
class Sketched:
    """What `adjoint.sketch` finds, with its work."""

    gram: np.ndarray
    member_forwards: int
    derivative_passes: int


def sketched(pipe: EnsemblePipeline, queries: Queries, n_probes: int = 8) -> Sketched:
    """The sketch; every probe passes back through every member and step."""
    before = pipe.members.n_forwards
    gram = adjoint.sketch(pipe, queries, n_probes)
    passes = n_probes * first_order.generation_forwards(pipe, len(queries.seeds))
    return Sketched(gram, pipe.members.n_forwards - before, passes)


ROADS: dict[str, Callable] = {
    **{
        road.name: functools.partial(first_order.designed, road=road)
        for road in first_order.DESIGNED_ROADS
    },
    "sketch, 8 probes": sketched,
    "tangents": tangents.tangents,
    "dual numbers (2023)": dual_numbers,
}
# Those that are timed beside the loop of 2023, on the same queries.
CHEAPEST = first_order.DESIGNED_ROADS[:2]
# These are compared on a few queries only.
SLOW = ("sketch, 8 probes", "tangents", "dual numbers (2023)")


def n_slow(n_members: int) -> int:
    """Queries of the slow roads, whose work grows with the square of the members."""
    return max(1, 16 * 16**2 // n_members**2)


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


def cost(pipe: EnsemblePipeline, asked: Queries, road: Callable) -> tuple[Any, dict]:
    """What a road finds, and its work and seconds in generations of the queries.

    The seconds of a derivative pass are what is left of the road's seconds after its
    plain forward passes, at the speed of generating.
    """
    generation = first_order.generation_forwards(pipe, len(asked.seeds))
    before = generation_seconds(pipe, asked)
    began = time.perf_counter()
    found, forwards, passes = road(pipe, asked)
    seconds = time.perf_counter() - began
    base = (before + generation_seconds(pipe, asked)) / 2
    rest = max(0.0, seconds / base - forwards / generation)
    work = {
        "forwards_in_generations": round(forwards / generation, 2),
        "seconds_in_generations": round(seconds / base, 2),
    }
    if passes:
        work |= {
            "derivative_passes_in_generations": round(passes / generation, 2),
            "derivative_pass_in_forwards": round(rest * generation / passes, 2),
            "work_in_generations": round(forwards / generation + rest, 2),
        }
    return found, work


def first(asked: Queries, n_queries: int) -> Queries:
    """The first queries."""
    return Queries(asked.seeds[:n_queries], None, asked.images[:n_queries])


def compare(
    pipe: EnsemblePipeline, asked: Queries, votes: np.ndarray, exact: np.ndarray
) -> dict[str, dict]:
    """Every road against the exact displacement, with its cost."""
    results = {}
    few = n_slow(pipe.members.n_members)
    for name, road in ROADS.items():
        n_queries = few if name in SLOW else len(asked.seeds)
        some = first(asked, n_queries)

        def found_by(pipe: Any, asked: Any, road: Callable = road) -> tuple:
            moves = road(pipe, asked)
            return moves, moves.member_forwards, moves.derivative_passes

        moves, work = cost(pipe, some, found_by)
        predicted = first_order.displacement(moves.gram, votes)
        results[name] = {
            **agreement(predicted, exact[: len(predicted)]),
            **work,
            "n_queries": len(predicted),
        }
        print(name, results[name], flush=True)
    return results


def faster_than_dual_numbers(
    pipe: EnsemblePipeline,
    asked: Queries,
    votes: np.ndarray,
    exact: np.ndarray,
    n_rounds: int = 2,
) -> dict[str, dict]:
    """Seconds of the loop of 2023 over ours, in turn, same pictures, each on one core."""
    few, side_by_side = n_slow(pipe.members.n_members), pipe.members.side_by_side
    some = first(asked, few)
    pipe.members.side_by_side = 1
    ratios: dict[str, list[float]] = {road.name: [] for road in CHEAPEST}
    agreed = {}
    for _ in range(n_rounds):
        began = time.perf_counter()
        found = dual_numbers(pipe, some)
        slow = time.perf_counter() - began
        predicted = first_order.displacement(found.gram, votes)
        agreed["dual numbers (2023)"] = agreement(predicted, exact[:few])
        for road in CHEAPEST:
            began = time.perf_counter()
            found = first_order.designed(pipe, some, road=road)
            ratios[road.name].append(slow / (time.perf_counter() - began))
            predicted = first_order.displacement(found.gram, votes)
            agreed[road.name] = agreement(predicted, exact[:few])
    pipe.members.side_by_side = side_by_side
    for name, each in ratios.items():
        agreed[name] |= {
            "times_as_fast": round(float(np.median(each)), 2),
            "times_as_fast_each": [round(ratio, 2) for ratio in each],
            "target": 10,
        }
    print(agreed, flush=True)
    return agreed


def compare_adjoint(
    pipe: EnsemblePipeline, asked: Queries, votes: np.ndarray, folder: Path
) -> dict[str, dict]:
    """The adjoint against exact influence on brightness, with its cost."""
    brightness = {"brightness": MEASUREMENTS["brightness"]}
    exact = landscape(pipe, asked, votes, brightness, folder)
    influence = exact.full["brightness"][:, None] - exact.measured["brightness"]
    change = votes - 1 / votes.shape[1]
    results = {}
    for followed in (None, 2, 1):

        def passed_back(pipe: Any, asked: Any, followed: Any = followed) -> tuple:
            found = adjoint.adjoint(pipe, asked, brightness_of, followed)
            return found.by_vote, found.member_forwards, found.reverse_passes

        derivative, work = cost(pipe, asked, passed_back)
        correlations = [
            scipy.stats.spearmanr(*pair).statistic
            for pair in zip(-derivative @ change.T, influence, strict=True)
        ]
        results[f"adjoint, {followed or 'all'} followed"] = {
            "spearman_median": round(float(np.median(correlations)), 4),
            **work,
        }
    print(results, flush=True)
    return results


def source_by_source(
    pipe: EnsemblePipeline, asked: Queries, votes: np.ndarray, n_pairs: int = 3
) -> dict:
    """Seconds of a picture: sampled again source by source, and in a landscape."""
    some, ratios = first(asked, 2), []
    together, alone = votes[:128], votes[:2]
    n_pictures = len(together) * len(some.seeds)
    for _ in range(n_pairs):
        began = time.perf_counter()
        for row in alone:
            for seed in some.seeds:
                pipe(seeds=[seed], votes=row, output_type="latent")
        single = (time.perf_counter() - began) / (len(alone) * len(some.seeds))
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            found = landscape(pipe, some, together, {}, Path(folder))
        ratios.append(single / ((time.perf_counter() - began) / n_pictures))
    voting = int((votes[0] > 0).sum())
    return {
        "times_as_fast": round(float(np.median(ratios)), 2),
        "times_as_fast_each": [round(ratio, 2) for ratio in ratios],
        "member_forwards_of_a_picture": round(found.member_forwards / n_pictures, 1),
        "member_forwards_source_by_source": voting * pipe.sampling().n_steps,
        "target": 5,
    }


def main(path: str, n_queries: int = 16, n_sources: int | None = None) -> None:
    run, pipe, asked, votes = opened(path, n_queries, n_sources)
    exact = landscape(pipe, asked, votes, {}, run.path / "benchmark.exact")
    generation = first_order.generation_forwards(pipe, n_queries)
    record.write(
        "ablation",
        [0, *asked.seeds.tolist()],
        {
            "run": run.path.name,
            "n_members": pipe.members.n_members,
            "n_steps": pipe.sampling().n_steps,
            "n_queries": n_queries,
            "n_sources": files.read_json(run.manifest)["n_sources"],
            "n_sources_compared": len(votes),
            "exact_generations": round(exact.member_forwards / generation, 2),
            "roads": compare(pipe, asked, votes, exact.displacement),
            "faster_than_dual_numbers": faster_than_dual_numbers(
                pipe, asked, votes, exact.displacement
            ),
            "one_measurement": compare_adjoint(
                pipe, asked, votes[:64], run.path / "benchmark.brightness"
            ),
            "exact_against_source_by_source": source_by_source(pipe, asked, votes),
        },
        part=run.path.name,
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
