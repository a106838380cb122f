"""Do members that share initial weights and noise tell more of what sources do?

    python -m benchmarks.attribution.shared_noise_lds FOLDER RUN

RUN is what `benchmarks.attribution.lds` made of the digits: it has scores by 64 members that share
both. Here the first 32 of them are trained with the same codes, each with weights and
noise of its own, and asked for the same: what the first 16 and all of them say alone and
with the priors of RUN, of 64 held-out and 64 generated pictures. The LDS of both, and their
difference, whose interval resamples both together. Kept in FOLDER; started again,
training goes on where it was.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks import record
from benchmarks.attribution import ground_truth, lds
from ensemble.evaluation import ground_truth as truth
from ensemble.evaluation import held_out
from ensemble.evaluation import lds as score_of
from ensemble.evaluation.metrics import intervals
from ensemble.provenance import drawing, plans
from ensemble.provenance.plans import Plan
from ensemble.run import config_file
from ensemble.run.folder import Run, create, open_run
from ensemble.sampling import completion, queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.scorers import SCORERS, Scorer, SupportsDampingPath, runner, score_files
from ensemble.scorers.interface import first_members
from ensemble.training.members import train_members
from ensemble.training.process import Stopping

NAMES = (lds.HELD_OUT, lds.GENERATED)
N_MEMBERS = 32
MODELS = (first_members(N_MEMBERS // 2), first_members(N_MEMBERS))


def trained(folder: Path, like: Run) -> Run:
    """Members of the same codes, each with weights and noise of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = yaml.safe_load((like.path / "config.yaml").read_text())
    tree["run"] = str(folder / "run")
    tree["training"]["shared_noise"] = False
    run = create(config_file.from_dict(tree))
    ready = drawing.prepare(run)
    missing = [member for member in range(N_MEMBERS) if not run.member(member).exists()]
    train_members(run, missing, ready, Stopping())
    completion.complete(run)
    return run


def asked_of_members() -> dict[str, Scorer]:
    """What learns from members, by the name of its score in RUN."""
    found: dict[str, Scorer] = {
        method: scorer
        for method, scorer in lds.posteriors(lds.Sizes()).items()
        if method != "posterior_ensemble"
    }
    return found | {method: SCORERS[method] for method in lds.OF_MEMBERS}


def compared(
    like: Run, run: Run, pipe: EnsemblePipeline, ready: Plan, name: str
) -> dict[str, Any]:
    """LDS by members of either kind, of one set of queries."""
    options = ground_truth.options_of(like, name)
    found = truth.read(like, plans.load(like), options)
    strapped = score_of.bootstrap(found)
    images = queries.load(like, name).images
    asked = held_out.keep(run, name, images)

    def priors(method: str, which: str | int, dampings: Sequence[float]) -> np.ndarray:
        own = score_files.load(like, name, method, which)
        if not isinstance(SCORERS[method], SupportsDampingPath):
            return own[None]
        known, path = score_files.load_path(like, name, method, which)
        return np.stack([own, *(path[known.index(damping)] for damping in dampings)])

    settings = {
        which: replace(runner.context_of(run, pipe, ready, asked, which), scores=priors)
        for which in MODELS
    }
    rows = {}
    for which, (method, scorer) in itertools.product(
        MODELS, asked_of_members().items()
    ):
        scores = {
            "shared": score_files.load(like, name, method, which),
            "own": scorer.score(settings[which]),
        }
        predicted = {
            kind: score_of.predicted_losses(score, found.subsets)
            for kind, score in scores.items()
        }
        values = {kind: strapped.lds(guess) for kind, guess in predicted.items()}
        called = f"{method}-{which}"
        rows[called] = {kind: intervals.described(*of) for kind, of in values.items()}
        shared, own = values["shared"], values["own"]
        rows[called]["shared_minus_own"] = intervals.described(
            shared[0] - own[0], shared[1] - own[1]
        )
        print(name, called, rows[called], flush=True)
    return rows


def main(folder: str, other: str) -> None:
    torch.set_num_threads(1)
    like = open_run(other)
    run = trained(Path(folder).resolve(), like)
    ready = plans.load(run)
    pipe = EnsemblePipeline.from_pretrained(run.path, members=range(N_MEMBERS))
    pipe.set_progress_bar_config(disable=True)
    results = {name: compared(like, run, pipe, ready, name) for name in NAMES}
    record.write("shared_noise_lds", [0], results)


if __name__ == "__main__":
    main(*sys.argv[1:])
