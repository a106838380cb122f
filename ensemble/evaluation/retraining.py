"""Retraining: models of other sets of sources, by the trainer that made the members.

The retrained models are a run of their own below `RUN/evaluation`: a code book whose
columns are the sets, and a member for each. Its options are those of the run; only the
sets, the training seed and, on request, the number of steps differ. Training seeds
begin above the run's own, so that no retrained model shares a member's seed.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ensemble.models.ensemble_model import EnsembleModel
from ensemble.provenance import plans
from ensemble.provenance.plans import Plan
from ensemble.run import files, lineage, manifest
from ensemble.run.config import Config, SplitsConfig
from ensemble.run.folder import Run, create
from ensemble.sampling import completion
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.system import launching, locks
from ensemble.training.members import train_members
from ensemble.training.process import Stopping
from splits import guarantees
from splits.codes import CodeBook
from splits.errors import BadInput

# This is no design: the sets are given by the caller and stored in the folder.
GIVEN = "given"


def seeds(run: Run, n_seeds: int) -> list[int]:
    """Training seeds for models that share none with the members."""
    first = run.config.training.seed + 1
    return list(range(first, first + n_seeds))


def config(
    run: Run, folder: Path, splits: SplitsConfig, seed: int, steps: int | None
) -> Config:
    """The run's config for other sets of sources.

    Args:
        run: Whose members are imitated.
        folder: Where the models will be.
        splits: Who trains on what.
        seed: Draws weights, order and noise.
        steps: Optimiser steps; None: as many as the members'.

    Raises:
        BadInput: If the run extends another: its members were not trained at once.
    """
    if run.config.extends is not None:
        raise BadInput(
            f"{run.path} extends {run.config.extends}: to train models of other sources "
            "like its members, each would have to be extended too. Train a run on all "
            "data, and evaluate that."
        )
    settings = run.config.training
    steps = steps or settings.steps
    if settings.slices and settings.slices > steps:
        # A training this short cannot be cut into so many slices.
        settings = dataclasses.replace(settings, slices=None)
    settings = dataclasses.replace(settings, seed=seed, steps=steps)
    return dataclasses.replace(
        run.config, run=str(folder), splits=splits, training=settings
    )


def train(
    of: Plan,
    included: Bool[np.ndarray, "sources sets"],
    wanted: Config,
    first: int = 0,
) -> Run:
    """Train a model on each of these sets of sources, as far as it is not trained yet.

    Args:
        of: Images and sources.
        included: included[s, k] is True if set k holds source s.
        wanted: As `config` makes it.
        first: Sets before this one are left alone.

    Raises:
        BadInput: If the folder holds something else, or a model cannot be trained.
        KeyboardInterrupt: If asked to stop; what is done is kept.
    """
    if of.removed:
        # No other process would know which images were removed.
        single = dataclasses.replace(wanted.training, processes_per_member=1)
        wanted = dataclasses.replace(wanted, training=single)
    run = create(wanted)
    included = included.copy()
    included[of.removed] = False
    ready = dataclasses.replace(of, codes=CodeBook(included), members=[])
    with locks.exclusive(run.path / "models"):
        _train(run, ready, range(first, included.shape[1]))
    return run


def model_alone(models: Run, number: int, like: EnsemblePipeline) -> EnsemblePipeline:
    """A pipeline of one retrained model that samples as another does, where it is."""
    sampling = like.sampling()
    pipe = EnsemblePipeline(
        members=EnsembleModel.from_pretrained(models.members, [number]),
        scheduler=sampling.scheduler,
        num_inference_steps=sampling.n_steps,
        guidance_scale=sampling.guidance_scale,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(like.members.device)


def _train(run: Run, ready: Plan, members: range) -> None:
    _keep(run, ready)
    lineage.require_all(run.path)
    todo = [member for member in members if not run.member(member).exists()]
    settings = run.config.training
    per_member = settings.processes_per_member
    processes = launching.n_processes(settings.processes, len(todo), per_member)
    # Other processes would read the removed images again.
    if processes > 1 and not ready.removed:
        command = ["-m", "ensemble.cli", "train", str(run.path / "config.yaml")]
        command += ["--members", ",".join(map(str, todo))]
        if launching.launch(command, processes, settings.threads, per_member) == 75:
            raise KeyboardInterrupt
    elif todo:
        train_members(run, todo, ready, Stopping())
    failed = [member for member in todo if not run.member(member).exists()]
    if failed:
        raise BadInput(
            f"{len(failed)} of the {len(members)} models in {run.path} could not be "
            "trained. The same command tries again; if they diverge, train the "
            "ensemble with a lower training.learning_rate."
        )
    if not members.start:
        # Otherwise nobody has all of it.
        completion.complete(run)


def _keep(run: Run, ready: Plan) -> None:
    """Write the plan as it is given; one that is there must be the same."""
    facts = {**plans.facts(ready), "promises": guarantees.count_guarantees(ready.codes)}
    if not run.manifest.exists():
        # Other processes of this run read the images again, and must find the same.
        facts["reading_rules"] = ready.data.inventory.rules
        files.write_array(run.codes, ready.codes.bits)
        files.write_array(run.source_of, ready.source_of)
        names = {"names": ready.source_names, "owners": ready.owners}
        files.write_json(run.path / "sources.json", names)
    manifest.start_manifest(run, facts)
