"""The models of a run that can be scored: their networks, and what scorers see of them."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import nn

from ensemble.models.denoisers import load_member
from ensemble.models.objective import Objective
from ensemble.provenance.plans import Plan
from ensemble.run import files, voters
from ensemble.run.folder import REFERENCE, Run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.sampling.trajectory import Trajectory, guided
from ensemble.scorers import Examples, MemberSamples, SamplingTrajectory
from ensemble.scorers.interface import ENSEMBLE, FIRST
from ensemble.system import seeding
from ensemble.training import snapshots
from splits.codes import full_votes
from splits.errors import BadInput


def scored_model(
    run: Run, pipe: EnsemblePipeline, plan: Plan, which: str | int
) -> tuple[list[nn.Module], Bool[np.ndarray, "networks images"], list[Path]]:
    """The networks of a model, what each was trained on, and where it is kept.

    Args:
        run: The run folder.
        pipe: The ensemble.
        plan: Training images, sources and codes.
        which: The model, as in `runner.context_of`.

    Returns:
        The networks, on the ensemble's device; which training images each has seen,
        bool (networks, images); and their folders.

    Raises:
        BadInput: If there is no such model, or the reference saw a removed source.
    """
    members = pipe.members
    if which == REFERENCE:
        if not run.reference.exists():
            raise BadInput(
                f"{run.path} has no reference model, trained on everything. Train it "
                f"with `python train.py {run.path / 'config.yaml'} --reference`, or "
                "score the ensemble or one of its members."
            )
        saw = files.read_array(run.reference / "exposure.npy") > 0
        if saw[np.isin(plan.source_of, plan.removed)].any():
            raise BadInput(
                f"The reference of {run.path} saw a source that was removed. Train it "
                f"again without: {voters.repair_command(run.path)}."
            )
        network = load_member(run.reference).to(members.device, members.dtype)
        saw = ~np.isin(plan.source_of, plan.removed)[None]
        return [network], saw, [run.reference]
    n_first = re.fullmatch(rf"{FIRST}(\d+)", str(which))
    if n_first:
        chosen = members.member_ids[: int(n_first[1])]
    else:
        chosen = [id_ for id_ in members.member_ids if which in (ENSEMBLE, id_)]
    if not chosen or (n_first and len(chosen) != int(n_first[1])):
        raise BadInput(
            f"There is no model {which!r} to score; allowed: {ENSEMBLE}, {REFERENCE}, "
            f"{FIRST}1 to {FIRST}{members.n_members} for so many members, or the number "
            f"of one: {', '.join(map(str, members.member_ids))}."
        )
    networks = [members.networks[members.member_ids.index(member)] for member in chosen]
    saw = plan.seen_by(chosen).T[:, plan.source_of]
    return networks, saw, [run.member(member) for member in chosen]


def begins_with_the_first(which: str | int) -> bool:
    """Whether a model's networks are the first members of the ensemble, or all."""
    return which == ENSEMBLE or str(which).startswith(FIRST)


def training_images(pipe: EnsemblePipeline, plan: Plan) -> Examples:
    """All training images, each with its number as its key."""
    return Examples(
        images=queries.on_device(pipe, np.array(plan.data.images)),
        condition=pipe.members.condition(plan.data.labels),
        keys=torch.arange(len(plan.data.images), device=pipe.members.device),
    )


def query_images(pipe: EnsemblePipeline, asked: Queries) -> Examples:
    """The queries, whose keys follow from their seeds."""
    # No query's key is a training image's number: it is one of 2**63.
    keys = [seeding.seed_of(seed, "query") for seed in asked.seeds.tolist()]
    return Examples(
        images=queries.on_device(pipe, asked.images),
        condition=asked.condition(pipe),
        keys=torch.tensor(keys, device=pipe.members.device),
    )


def checkpoints(
    pipe: EnsemblePipeline, folders: list[Path], number: int
) -> list[nn.Module]:
    """A network at the moments of its training that were kept."""
    members = pipe.members
    return [
        network.to(members.device, members.dtype)
        for network in snapshots.load(folders[number])
    ]


def member_samples_of(pipe: EnsemblePipeline, asked: Queries) -> MemberSamples:
    """What each member makes of the queries' noise by itself."""
    sampling = pipe.sampling()
    return MemberSamples(
        lambda number: queries.sampled_again(
            pipe, asked, np.eye(pipe.members.n_members)[number]
        ),
        {
            "scheduler": type(sampling.scheduler).__name__,
            "scheduler_config": json.loads(sampling.scheduler.to_json_string()),
            "n_steps": sampling.n_steps,
            "guidance_scale": sampling.guidance_scale,
            "seeds": asked.seeds.tolist(),
        },
    )


@torch.no_grad()
def trajectory_of(
    pipe: EnsemblePipeline, asked: Queries, objective: Objective
) -> SamplingTrajectory:
    """What the sampler took the finished pictures for, on its way to the queries.

    That is the objective's clean estimate, from the states as the members see them and
    the ensemble's predictions.
    """
    sampling, device = pipe.sampling(), pipe.members.device
    noise = asked.noise(pipe).to(device)
    n_queries = len(noise)
    votes = torch.as_tensor(full_votes(pipe.members.n_members)).to(noise)
    votes = votes.expand(n_queries, -1)
    condition = asked.condition(pipe)
    walk = Trajectory(sampling, noise, asked.generators(pipe, np.arange(n_queries)))
    timesteps, clean = [], []
    for moment in walk:
        prediction = guided(
            functools.partial(pipe.members, moment.scaled, moment.timestep, votes),
            condition,
            sampling.guidance_scale,
        )
        timesteps.append(moment.timestep.round().long().cpu())
        estimate = objective.clean_estimate(moment.scaled, prediction, timesteps[-1])
        clean.append(estimate)
        walk.step(prediction)
    return SamplingTrajectory(torch.stack(timesteps), torch.stack(clean, dim=1))
