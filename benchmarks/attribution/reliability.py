"""How much of a subset model's loss is luck: reliability by images and by steps.

    python -m benchmarks.attribution.reliability FOLDER [--images 64,256] [--steps 150,300,600]

For each number of training images (each a source) and of optimiser steps: models of 12
halves of the images, with two training seeds each, their losses at 64 digits that no
half holds and at 64 that half of the halves hold, and the rank correlation of the
losses between the two seeds, over halves, mean over digits, with its bootstrap
interval. Kept in FOLDER; started again, it goes on where it was.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import record
from benchmarks.attribution.lds import Sizes
from ensemble.data import datasets
from ensemble.evaluation import ground_truth, held_out
from ensemble.evaluation.metrics import intervals, rank_correlation
from ensemble.evaluation.options import Options
from ensemble.provenance import drawing
from ensemble.provenance.plans import Plan
from ensemble.run import config_file
from ensemble.run.config import DataConfig
from ensemble.run.folder import Run, create
from ensemble.sampling import completion
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.training.members import train_members
from ensemble.training.process import Stopping

N_SUBSETS, N_SEEDS, N_QUERIES = 12, 2, 64
N_RESAMPLES = 1000


def untrained(folder: Path, n_images: int) -> tuple[EnsemblePipeline, Run, Plan]:
    """An ensemble of two hardly trained members; only its data and options count."""
    run = create(
        config_file.from_dict(
            {
                "run": str(folder),
                "data": {"n_images": n_images},
                "splits": {"n_members": 2, "design": "partition"},
                "model": {"prediction_type": "v_prediction", "schedule": "cosine"},
                "training": {"steps": 1, "batch_size": Sizes().batch_size},
            }
        )
    )
    ready = drawing.prepare(run)
    train_members(run, range(2), ready, Stopping())
    completion.complete(run)
    return EnsemblePipeline.from_pretrained(run.path), run, ready


def measured(folder: Path, n_images: int, steps: int) -> dict[str, Any]:
    """Reliability at digits that were held out, and at digits that half of them saw."""
    pipe, run, ready = untrained(folder / f"{n_images}-{steps}", n_images)
    new = datasets.load(DataConfig(n_images=n_images + N_QUERIES)).images[n_images:]
    held_out.write(run, ready, "held_out", new.copy())
    held_out.keep(run, "seen", np.asarray(ready.data.images[:N_QUERIES]))
    found = {}
    for name in ("held_out", "seen"):
        options = Options(name, n_subsets=N_SUBSETS, n_seeds=N_SEEDS, steps=steps)
        losses = ground_truth.find(run, pipe, ready, options).losses
        once = rank_correlation.as_they_are(N_SUBSETS, N_QUERIES)
        drawn = rank_correlation.resamples(
            N_SUBSETS, N_QUERIES, N_RESAMPLES, np.random.default_rng(0)
        )
        value = float(rank_correlation.reliability(losses, once)[0])
        found[name] = intervals.described(
            value, rank_correlation.reliability(losses, drawn)
        ) | {"mean_loss": round(float(losses.mean()), 4)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", default="64,256")
    parser.add_argument("--steps", default="150,300,600")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for n_images in map(int, arguments.images.split(",")):
        for steps in map(int, arguments.steps.split(",")):
            found = measured(arguments.folder, n_images, steps)
            results[f"{n_images} images, {steps} steps"] = found
            print(n_images, steps, found, flush=True)
    facts = {"n_subsets": N_SUBSETS, "n_seeds": N_SEEDS, "n_queries": N_QUERIES}
    record.write("reliability", [0, 1, 2], {**facts, **results})


if __name__ == "__main__":
    main()
