"""How the price of sensitivity grows with the number of members.

    python -m benchmarks.influence.growth

Member forwards and seconds of the designed roads and of the adjoint, in generations of
the same queries, for 8 to 64 members. The weights are fresh: the price does not depend
on training. What it costs to read sources off the result is in benchmarks/influence/scan.py.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import record
from ensemble.ablation import first_order
from ensemble.ablation.adjoint import adjoint
from ensemble.ablation.measurements import brightness
from ensemble.models.denoisers import build_member
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.run.config import ModelConfig, SamplingConfig
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.sampling.schedulers import sampler

MEMBERS = [8, 16, 32, 64]
N_QUERIES, N_STEPS, N_REPEATS = 4, 10, 3


def fresh(n_members: int) -> EnsemblePipeline:
    """An ensemble of members as the shipped configs have them, not trained."""
    model = ModelConfig(prediction_type="v_prediction", schedule="cosine")
    networks = [build_member(model, (1, 8, 8), None, seed) for seed in range(n_members)]
    ensemble = EnsembleModel(range(n_members), dict(networks[0].config))
    for position, network in enumerate(networks):
        ensemble.networks[position] = network
    ensemble.side_by_side = 2
    pipe = EnsemblePipeline(
        ensemble.eval(), sampler(model, SamplingConfig()), num_inference_steps=N_STEPS
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seconds(task: Callable[[], object]) -> float:
    """Seconds that a task takes."""
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def prices(n_members: int) -> dict:
    """What each road costs, in generations; seconds are medians of pairs in turn."""
    pipe = fresh(n_members)
    seeds = np.arange(N_QUERIES)
    asked = Queries(seeds, None, pipe.pictures(seeds).numpy())
    generation = first_order.generation_forwards(pipe, N_QUERIES)
    roads = {
        road.name: lambda road=road: first_order.designed(pipe, asked, road)
        for road in first_order.DESIGNED_ROADS[:2]
    }
    for name, followed in (("adjoint", None), ("adjoint, 1 followed", 1)):
        roads[name] = lambda followed=followed: adjoint(
            pipe, asked, brightness, followed
        )
    result = {}
    for name, road in roads.items():
        before = pipe.members.n_forwards
        road()
        work = (pipe.members.n_forwards - before) / generation
        ratios = [
            seconds(road) / seconds(lambda: pipe.pictures(seeds))
            for _ in range(N_REPEATS)
        ]
        result[name] = {
            "forwards_in_generations": round(work, 3),
            "seconds_in_generations": round(statistics.median(ratios), 2),
        }
    return result


def main() -> None:
    torch.set_num_threads(1)
    results = {}
    for n_members in MEMBERS:
        results[str(n_members)] = prices(n_members)
        print(n_members, results[str(n_members)], flush=True)
    facts = {"n_queries": N_QUERIES, "n_steps": N_STEPS}
    record.write("growth", list(range(N_QUERIES)), {"members": results, **facts})


if __name__ == "__main__":
    main()
