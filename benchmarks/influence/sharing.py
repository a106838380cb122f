"""Would sharing more than the first step pay? Exact ablation with shared early steps.

    python -m benchmarks.influence.sharing RUN [N_QUERIES] [N_SOURCES]

All ablations of a query start from one state, so the first step's member forwards are
shared exactly. Here the first s steps are shared: members are run at the query's own
states only, and every ablation averages those predictions by its votes; from then on
each goes its own way. Saved work against the relative error of the displacement.
"""

import copy
import functools
import sys

import numpy as np
import torch

from benchmarks import record
from benchmarks.influence.ablation import agreement, opened
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries, distance

SHARED_STEPS = [1, 2, 3, 5, 10, 20]


def displacements(
    pipe: EnsemblePipeline, queries: Queries, votes: np.ndarray, n_shared: int
) -> tuple[np.ndarray, int]:
    """Displacement (queries, vectors) with so many shared steps, and the forwards."""
    model, sampling = pipe.members, pipe.sampling()
    scheduler = copy.deepcopy(sampling.scheduler)
    scheduler.set_timesteps(sampling.n_steps)
    n_queries, n_vectors = len(queries.seeds), len(votes)
    weights = torch.from_numpy(votes).to(model.dtype)
    own = queries.noise(pipe)
    states = own.repeat_interleave(n_vectors, dim=0)
    before = model.n_forwards
    for step, timestep in enumerate(scheduler.timesteps):
        if step < n_shared:
            share = functools.partial(model.predict_by, noisy=own, timestep=timestep)
            each = torch.stack(list(model.each(share, range(model.n_members))))
            predicted = torch.einsum("vm,mq...->qv...", weights, each).flatten(0, 1)
            own = scheduler.step(each.mean(dim=0), timestep, own).prev_sample
        else:
            predicted = model(states, timestep, weights.repeat(n_queries, 1))
        states = scheduler.step(predicted, timestep, states).prev_sample
    pictures = states.unflatten(0, (n_queries, n_vectors)).numpy()
    work = model.n_forwards - before
    return distance(pictures, queries.images[:, None]), work


@torch.no_grad()
def main(path: str, n_queries: int = 4, n_sources: int = 64) -> None:
    run, pipe, asked, votes = opened(path, n_queries, n_sources)
    exact, exact_work = displacements(pipe, asked, votes, 1)
    results = {}
    for n_shared in SHARED_STEPS:
        found, work = displacements(pipe, asked, votes, n_shared)
        results[str(n_shared)] = {
            **agreement(found, exact),
            "relative_error_largest": round(float(np.abs(found / exact - 1).max()), 4),
            "forwards_saved": round(1 - work / exact_work, 4),
        }
        print(n_shared, results[str(n_shared)], flush=True)
    facts = {
        "run": run.path.name,
        "n_members": pipe.members.n_members,
        "n_steps": pipe.sampling().n_steps,
    }
    record.write("sharing", [0, *asked.seeds.tolist()], {**facts, "shared": results})


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
