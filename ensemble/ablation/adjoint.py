"""Adjoint: how one number read off a picture moves with every member's vote.

One pass back through the sampler gives the derivative by all members at once, whatever
their number and that of the sources; random numbers read off the picture sketch the
Gram matrix of first_order.py. Both are first order: they miss how the picture bends
between equal votes and an ablation.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ensemble.ablation.coupled import Pictures, every_member, guided_member
from ensemble.models.conditioning import Condition
from ensemble.sampling import schedulers
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.sampling.schedulers import Scheduler
from ensemble.sampling.trajectory import Trajectory
from ensemble.system import seeding
from splits.errors import BadInput


@dataclass(frozen=True, eq=False)
class _Step:
    """A sampling step of the queries.

    Attributes:
        timestep: Of the diffusion.
        before: The queries' states before it.
        predicted: What each member predicts there.
    """

    timestep: Tensor
    before: Pictures
    predicted: Float[Tensor, "queries members channels height width"]


@dataclass(frozen=True, eq=False)
class _Walk:
    """The queries' way from noise to pictures.

    Attributes:
        steps: One after the other.
        pictures: Where they end.
        scheduler: As it stood before the first step; it is copied, never changed.
        extra: What else its steps take.
        condition: What members are told.
    """

    steps: list[_Step]
    pictures: Pictures
    scheduler: Scheduler
    extra: dict[str, Any]
    condition: Condition


@dataclass(frozen=True, eq=False)
class Derivative:
    """How one number read off each picture moves with the votes.

    Attributes:
        by_vote: Derivative by each member's vote, centred over members: only changes of
            votes that sum to zero matter.
        member_forwards: Work: images that members were run on.
        reverse_passes: Further work: images that members were passed back through.
    """

    by_vote: Float64[np.ndarray, "queries members"]
    member_forwards: int
    reverse_passes: int


def adjoint(
    pipe: EnsemblePipeline,
    queries: Queries,
    reading: Callable[[Pictures], Float[Tensor, " queries"]],
    n_feedback: int | None = None,
    seed: int = 0,
) -> Derivative:
    """Derivative of one number read off each picture by every member's vote.

        λ = p λ' + q mean over k of (∂ε_k/∂x)ᵀ λ',    g_j = sum over steps of q <λ', ε_j>

    The mean is over all members, or over a few drawn anew at every step: on average
    that is the same, at little more than the price of generating. States and
    predictions are kept from generating; the activations of one member and step at a
    time are made again.

    Args:
        pipe: The ensemble; a scheduler without memory of earlier steps (DDIM, DDPM,
            Euler).
        queries: The pictures.
        reading: Reads one number off each picture, differentiably.
        n_feedback: Members that are passed back through at each step; None: all.
        seed: Draws them.

    Raises:
        BadInput: If the scheduler remembers earlier steps.
    """
    if getattr(pipe.scheduler.config, "solver_order", 1) > 1:
        raise BadInput(
            f"{type(pipe.scheduler).__name__} uses earlier predictions in each step, "
            "which one pass back cannot follow. Use sampling.scheduler ddim, ddpm or "
            "euler, or the method 'differential'."
        )
    model, rng = pipe.members, seeding.rng(seed, "adjoint")
    before, n_passes = model.n_forwards, 0
    walk = _walked(pipe, queries)
    pictures = walk.pictures.requires_grad_()
    (pull,) = torch.autograd.grad(reading(pictures).sum(), pictures)
    by_vote = torch.zeros(len(pictures), model.n_members).to(pictures)
    for step in reversed(walk.steps):
        pull, on_mean = _through_the_scheduler(walk, step, pull)
        by_vote += (step.predicted * on_mean[:, None]).flatten(2).sum(dim=2)
        members = rng.permutation(model.n_members)[:n_feedback].tolist()
        pull = pull + _through_members(pipe, walk, step, members, on_mean)
        n_passes += len(members) * len(pictures)
    by_vote = by_vote - by_vote.mean(dim=1, keepdim=True)
    forwards = model.n_forwards - before
    return Derivative(by_vote.cpu().double().numpy(), forwards, n_passes)


def sketch(
    pipe: EnsemblePipeline, queries: Queries, n_probes: int = 8, seed: int = 0
) -> Float64[np.ndarray, "queries members members"]:
    """G from random readings: the mean of g gᵀ over probes v ~ N(0, I / pixels).

    Unbiased; its relative error falls as 1 / sqrt(n_probes).
    """
    n_members = pipe.members.n_members
    gram = np.zeros((len(queries.seeds), n_members, n_members))
    for probe in range(n_probes):
        keyed = seeding.generator(seed, "probe", probe)
        shape = queries.images.shape
        direction = torch.randn(shape, generator=keyed) / np.sqrt(np.prod(shape[1:]))

        def reading(images: Pictures, direction: Tensor = direction) -> Tensor:
            return (images * direction.to(images)).sum(dim=(1, 2, 3))

        found = adjoint(pipe, queries, reading).by_vote
        gram += found[:, :, None] * found[:, None, :] / n_probes
    return gram


@torch.no_grad()
def _walked(pipe: EnsemblePipeline, queries: Queries) -> _Walk:
    """The queries' way from noise to pictures, every member's predictions kept."""
    model, sampling = pipe.members, pipe.sampling()
    fresh = schedulers.started(sampling.scheduler, sampling.n_steps, model.device)
    condition = queries.condition(pipe)
    generators = queries.generators(pipe, np.arange(len(queries.seeds)))
    extra = schedulers.step_arguments(fresh, generators, sampling.eta)
    steps = []
    walk = Trajectory(sampling, queries.noise(pipe).to(model.device), generators)
    for moment in walk:
        predicted = every_member(
            model, sampling, moment.scaled, moment.timestep, condition
        )
        steps.append(_Step(moment.timestep, moment.states, predicted))
        walk.step(predicted.mean(dim=1))
    return _Walk(steps, walk.states, fresh, extra, condition)


def _through_the_scheduler(
    walk: _Walk, step: _Step, pull: Pictures
) -> tuple[Pictures, Pictures]:
    """A pull on the states after a step, as pulls on those before and on the prediction.

    Noise that the step adds depends on neither, so any will do.
    """
    scheduler = copy.deepcopy(walk.scheduler)
    state = step.before.clone().requires_grad_()
    mean = step.predicted.mean(dim=1).requires_grad_()
    # Some schedulers keep track of where they are when they scale.
    schedulers.scaled_input(scheduler, state, step.timestep)
    after = scheduler.step(mean, step.timestep, state, **walk.extra).prev_sample
    on_state, on_mean = torch.autograd.grad(after, (state, mean), pull)
    return on_state, on_mean


def _through_members(
    pipe: EnsemblePipeline,
    walk: _Walk,
    step: _Step,
    members: list[int],
    on_mean: Pictures,
) -> Pictures:
    """A pull on the average prediction of some members, as a pull on the states."""
    model, sampling = pipe.members, pipe.sampling()

    def pulled(member: int) -> Pictures:
        with torch.enable_grad():
            state = step.before.clone().requires_grad_()
            scheduler = copy.deepcopy(walk.scheduler)
            scaled = schedulers.scaled_input(scheduler, state, step.timestep)
            predicted = guided_member(
                model, sampling, member, scaled, step.timestep, walk.condition
            )
            (found,) = torch.autograd.grad(
                predicted, state, on_mean, materialize_grads=True
            )
        return found

    total = torch.zeros_like(on_mean)
    for found in model.each(pulled, members):
        total += found
    return total / len(members)
