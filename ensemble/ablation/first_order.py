"""Sensitivity: how a picture moves with the votes, for the price of a few generations.

With J the derivative of a query's picture by the members' votes and d = votes of an
ablation minus equal votes, the picture moves by J d, and its squared displacement is
dᵀGd with the Gram matrix G = JᵀJ / pixels. One members x members matrix so answers
every code, every union of codes and every placebo. (Dai & Gifford 2024, arXiv
2406.07908, take J by forward-mode derivatives; the other roads are ours.)

Two roads lead to J; they agree, and differ in price and in what they miss:

    tangents   exact derivative, M forward-mode products a member and step; misses how
               the picture bends between equal votes and the ablation
    designed   steps M to 2M real vote vectors beside the query and fits J to where they
               end; sees the bending, misses what a plane cannot fit

and two more in adjoint.py, for one number read off the picture. A third needs no J:

    one by one follows each ablation that is asked for by members that vote for it; sees
               all bending, and costs a member forward an ablation and step

All pictures are taken before clipping.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ensemble.ablation.removal_sets import votes_in_blocks
from ensemble.models.conditioning import Condition
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.sampling.trajectory import (
    Sampling,
    Trajectory,
    guided,
)
from ensemble.system import seeding

Pictures = Float[Tensor, "queries channels height width"]
# As many make good use of a core.
IMAGES_OF_A_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How each query's picture moves with the votes.

    Attributes:
        jacobian: J of each query; for changes of votes that sum to zero.
        member_forwards: Work: images that members were run on.
        derivative_passes: Further work: images that derivatives were carried through.
        road: How it was found.
    """

    jacobian: Float64[np.ndarray, "queries pixels members"]
    member_forwards: int
    derivative_passes: int
    road: str

    @functools.cached_property
    def gram(self) -> Float64[np.ndarray, "queries members members"]:
        """G of each query: displacement² of a change of votes d is dᵀGd."""
        return self.jacobian.transpose(0, 2, 1) @ self.jacobian / self.jacobian.shape[1]


def displacement(
    gram: Float64[np.ndarray, "queries members members"],
    votes: Float64[np.ndarray, "vectors members"],
) -> Float64[np.ndarray, "queries vectors"]:
    """First-order displacement of each query under each vote vector."""
    change = votes - 1 / votes.shape[1]
    squared = np.stack([((change @ one) * change).sum(axis=1) for one in gram])
    return np.sqrt(np.maximum(squared, 0))


def displacement_without(
    gram: Float64[np.ndarray, "queries members members"],
    silenced: Bool[np.ndarray, "units members"],
) -> Float64[np.ndarray, "queries units"]:
    """The same without the members that each row silences; a few rows at a time."""
    parts = [displacement(gram, votes) for votes in votes_in_blocks(silenced)]
    return np.concatenate(parts, axis=1)


# (scaled states of the query and beside it, members' predictions at the query, timestep,
# condition) -> predictions for the states beside it.
Beside = Callable[[Tensor, Tensor, Tensor, Condition], Tensor]


def stepped_beside(
    pipe: EnsemblePipeline, queries: Queries, n_beside: int, beside: Beside
) -> tuple[Tensor, Tensor]:
    """Sample each query exactly and, beside it, states whose predictions are given.

    The scheduler steps all of them as one batch with the query's noise, so that every
    sampler whose step is linear in state and prediction is treated alike.

    Args:
        pipe: The ensemble.
        queries: What is sampled.
        n_beside: States beside each query; all start where the query starts.
        beside: What the ensemble is taken to predict at them.

    Returns:
        Pictures (queries, channels, height, width) and the states beside them at the
        end (queries, n_beside, channels, height, width), not clipped.
    """
    model, sampling = pipe.members, pipe.sampling()
    noise = queries.noise(pipe).to(model.device)
    condition = queries.condition(pipe)
    shape = (len(noise), 1 + n_beside)
    of_query = np.repeat(np.arange(len(noise)), 1 + n_beside)
    walk = Trajectory(
        sampling,
        noise.repeat_interleave(1 + n_beside, dim=0),
        queries.generators(pipe, of_query),
    )
    with torch.no_grad():
        for moment in walk:
            scaled, timestep = moment.scaled.unflatten(0, shape), moment.timestep
            at_query = every_member(model, sampling, scaled[:, 0], timestep, condition)
            predicted = torch.cat(
                [
                    at_query.mean(dim=1, keepdim=True),
                    beside(scaled, at_query, timestep, condition),
                ],
                dim=1,
            )
            walk.step(predicted.flatten(0, 1))
    states = walk.states.unflatten(0, shape)
    return states[:, 0], states[:, 1:]


def ablated_beside(
    pipe: EnsemblePipeline,
    queries: Queries,
    votes: Float64[np.ndarray, "vectors members"],
    n_feedback: int | None = 1,
    seed: int = 0,
    ahead: Sequence[int] | None = None,
    own: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sample each query and, beside it, its ablations by vote vectors, approximately.

    The query x is stepped exactly: every member is run on it. An ablation y with votes
    v would need every member that votes, at y; instead

        sum of v_m ε_m(y)  ~  sum of v_m ε_m(x) + mean over k of [ ε_k(y) - ε_k(x) ]

    with n_feedback members k, so that one forward pass a step follows an ablation that
    would have taken half of the members. Members take turns, each before any has its
    second: what one of them feeds back too much, the others take back within few steps.
    All ablations follow the same members, so that what is wrong is wrong for all
    directions alike. Both sides then differ by the square of the change of votes.

    With `own`, each ablation follows only members that vote for it. Over their turns
    the mean of what is fed back is then right to every order, not only to the first;
    what is left is that members differ from their mean.

    Args:
        pipe: The ensemble.
        queries: What is sampled.
        votes: One vector for each ablation: equal votes of the members that stay.
        n_feedback: Members that are followed at each step; None follows all that vote:
            exact ablation.
        seed: Draws the members' order.
        ahead: How many turns ahead of the others each ablation is; None: none.
        own: Whether each ablation follows only members that vote for it.

    Returns:
        Pictures (queries, ...) and ablated pictures (queries, vectors, ...).
    """
    model, sampling = pipe.members, pipe.sampling()
    weights = torch.from_numpy(votes).to(model.device, model.dtype)
    rng = seeding.rng(seed, "feedback")
    if own and n_feedback is not None:
        shares = _own_turns(votes, n_feedback, rng)
    else:
        shares = _turns(votes, n_feedback, rng, ahead)

    def beside(
        scaled: Tensor, at_query: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor:
        share = next(shares)
        further = _feedback(
            model, sampling, scaled[:, 1:], at_query, timestep, condition, share
        )
        return torch.einsum("vm,qm...->qv...", weights, at_query) + further

    return stepped_beside(pipe, queries, len(votes), beside)


def every_member(
    model: EnsembleModel,
    sampling: Sampling,
    states: Pictures,
    timestep: Tensor,
    condition: Condition,
) -> Float[Tensor, "queries members channels height width"]:
    """What each member predicts at each state."""
    return torch.stack(
        list(
            model.each(
                lambda member: guided_member(
                    model, sampling, member, states, timestep, condition
                ),
                range(model.n_members),
            )
        ),
        dim=1,
    )


def guided_member(
    model: EnsembleModel,
    sampling: Sampling,
    member: int,
    states: Pictures,
    timestep: Tensor,
    condition: Condition,
) -> Pictures:
    """What one member predicts, guided as the sampler guides the ensemble."""
    return guided(
        lambda label: model.predict_by(member, states, timestep, label),
        condition,
        sampling.guidance_scale,
    )


def _turns(
    votes: Float64[np.ndarray, "vectors members"],
    n_feedback: int | None,
    rng: np.random.Generator,
    ahead: Sequence[int] | None,
) -> Iterator[Float64[np.ndarray, "vectors members"]]:
    """How much each member's feedback counts for each ablation, step by step."""
    if n_feedback is None:
        yield from itertools.repeat(votes)
        return
    n_vectors, n_members = votes.shape
    at_once = min(n_feedback, n_members)
    place = np.zeros(n_vectors, np.int64) if ahead is None else np.asarray(ahead)
    while True:
        order = rng.permutation(n_members)
        for first in range(0, n_members, at_once):
            share = np.zeros(votes.shape)
            for turn in range(first, first + at_once):
                followed = order[(place + turn) % n_members]
                share[np.arange(n_vectors), followed] = 1 / at_once
            yield share


def _own_turns(
    votes: Float64[np.ndarray, "vectors members"],
    n_feedback: int,
    rng: np.random.Generator,
) -> Iterator[Float64[np.ndarray, "vectors members"]]:
    """The same, each ablation following members that vote for it, in one order."""
    voted = votes > 0
    order = rng.permutation(votes.shape[1])
    # Those that vote come first, in that order.
    turns = order[np.argsort(~voted[:, order], axis=1, kind="stable")]
    n_voting = voted.sum(axis=1)
    at_once = np.minimum(n_feedback, n_voting)
    rows = np.arange(len(votes))
    first = np.zeros(len(votes), np.int64)
    while True:
        share = np.zeros(votes.shape)
        for turn in range(n_feedback):
            followed = turns[rows, (first + turn) % n_voting]
            share[rows, followed] += (turn < at_once) / at_once
        first += at_once
        yield share


def _feedback(
    model: EnsembleModel,
    sampling: Sampling,
    states: Float[Tensor, "queries vectors channels height width"],
    at_query: Float[Tensor, "queries members channels height width"],
    timestep: Tensor,
    condition: Condition,
    share: Float64[np.ndarray, "vectors members"],
) -> Float[Tensor, "queries vectors channels height width"]:
    """How much more the followed members predict at the ablations than at the query."""
    total = torch.zeros_like(states)
    weights = torch.from_numpy(share).to(states)

    def difference(block: tuple[int, np.ndarray]) -> Tensor:
        member, vectors = block
        chosen = states[:, vectors].flatten(0, 1)
        told = condition.repeat(len(vectors))
        found = guided_member(model, sampling, member, chosen, timestep, told)
        found = found.unflatten(0, (len(states), len(vectors)))
        return found - at_query[:, member, None]

    blocks = [
        (member, vectors)
        for member in np.flatnonzero(share.any(axis=0)).tolist()
        for vectors in _blocks(np.flatnonzero(share[:, member]), len(states))
    ]
    for (member, vectors), found in zip(
        blocks, model.each(difference, blocks), strict=True
    ):
        total[:, vectors] += weights[vectors, member, None, None, None] * found
    return total


def _blocks(vectors: np.ndarray, n_queries: int) -> list[np.ndarray]:
    """Few enough vectors at once that blocks can be run side by side.

    However many are: the order of additions, and so the bits, do not depend on it.
    """
    n_blocks = max(1, len(vectors) * n_queries // IMAGES_OF_A_BLOCK)
    return np.array_split(vectors, min(n_blocks, len(vectors)))


def design(n_members: int, paired: bool, seed: int = 0) -> np.ndarray:
    """Vote vectors of half of the members that tell all members apart.

    With n_members a power of two: the non-constant rows of Hadamard's matrix, which are
    orthogonal; else as many random halves. Paired adds each vector's complement, so
    that bending of even order cancels.

    Returns:
        float64 (vectors, members), rows sum to one.
    """
    rng = seeding.rng(seed, "design", n_members)
    if n_members & (n_members - 1) == 0:
        signs = (
            scipy.linalg.hadamard(n_members)[1:]
            * rng.choice([-1, 1], n_members - 1)[:, None]
        )
        signs = signs[:, rng.permutation(n_members)]
    else:
        half = np.where(np.arange(n_members) < n_members // 2, 1, -1)
        signs = np.stack([rng.permutation(half) for _ in range(n_members)])
    halves = np.concatenate([signs, -signs]) > 0 if paired else signs > 0
    return halves / halves.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Road:
    """How the designed ablations are followed.

    Attributes:
        paired: Also step the complement of each vector: bending of even order cancels,
            at the price of nearly one generation.
        n_feedback: Members that follow each ablation at each step; None: all, exactly.
    """

    paired: bool = False
    n_feedback: int | None = 1

    @property
    def name(self) -> str:
        """What the road is called in tables."""
        followed = "all" if self.n_feedback is None else self.n_feedback
        parts = ["designed", *(["paired"] if self.paired else [])]
        return ", ".join(parts + [f"{followed} followed"] * (followed != 1))

    def generations(self, n_members: int) -> float:
        """Member forwards that it takes, in generations of the query, that one too."""
        n_vectors = len(design(n_members, self.paired))
        half = n_members / 2
        followed = half if self.n_feedback is None else min(self.n_feedback, n_members)
        return 1 + n_vectors * followed / n_members


# From cheap to exact following: about 2, 3, 5 and M generations.
DESIGNED_ROADS = (Road(), Road(paired=True), Road(True, 2), Road(True, None))


@dataclass(frozen=True)
class OneByOne:
    """A road without a derivative: every ablation asked for is followed itself.

    Attributes:
        n_feedback: Members, of those that vote, that follow each ablation at each step.
    """

    n_feedback: int = 1

    @property
    def name(self) -> str:
        """What the road is called in tables."""
        followed = f", {self.n_feedback} followed" * (self.n_feedback != 1)
        return f"one by one{followed}"

    def generations(self, n_members: int, n_ablations: int) -> float:
        """Member forwards that it takes, in generations of the query, that one too."""
        return 1 + n_ablations * min(self.n_feedback, n_members) / n_members


ONE_BY_ONE_ROADS = (OneByOne(), OneByOne(2), OneByOne(4))


def one_by_one(
    pipe: EnsemblePipeline,
    queries: Queries,
    votes: Float64[np.ndarray, "vectors members"],
    road: OneByOne = OneByOne(),
    seed: int = 0,
) -> Float64[np.ndarray, "queries vectors channels height width"]:
    """How far each ablation moves each query, pixel by pixel, each followed itself.

    It sees all bending and has no plane to fit: on few sources and members that know
    them by heart, where a plane fits badly, it is far closer than the designed roads of
    that price. But its price grows with the number of ablations.

    Args:
        pipe: The ensemble.
        queries: The pictures.
        votes: One vector for each ablation: equal votes of the members that stay.
        road: How many members follow each.
        seed: Draws the members' order.
    """
    pictures, ablated = ablated_beside(
        pipe, queries, votes, road.n_feedback, seed, own=True
    )
    return (ablated - pictures[:, None]).cpu().double().numpy()


def designed(
    pipe: EnsemblePipeline, queries: Queries, road: Road = Road(), seed: int = 0
) -> Sensitivity:
    """Fit J to a designed set of ablations, each followed by one member a step.

    With D the changes of votes of the set and U where the pictures moved (rows), the
    least-squares derivative is Jᵀ = D⁺U.

    Args:
        pipe: The ensemble.
        queries: The pictures.
        road: How the ablations are followed.
        seed: Draws the design and the members.
    """
    before = pipe.members.n_forwards
    n_members = pipe.members.n_members
    votes = design(n_members, road.paired, seed)
    ahead = None
    if road.paired:
        # Of a vector and its complement the difference counts, and so the mean of what
        # both follow: it is of two members, if they are not the same.
        ahead = np.repeat([0, n_members // 2], len(votes) // 2).tolist()
    pictures, ablated = ablated_beside(
        pipe, queries, votes, road.n_feedback, seed, ahead
    )
    moved = (ablated - pictures[:, None]).flatten(2).cpu().double().numpy()
    inverse = np.linalg.pinv(votes - 1 / votes.shape[1])
    return Sensitivity(
        jacobian=np.einsum("mv,qvp->qpm", inverse, moved, optimize=True),
        member_forwards=pipe.members.n_forwards - before,
        derivative_passes=0,
        road=road.name,
    )


def tangents(pipe: EnsemblePipeline, queries: Queries) -> Sensitivity:
    """J by forward-mode derivatives, all members' directions along one trajectory.

        u_j' = p u_j + q [ ε_j(x) - mean ε(x) + mean over k of (∂ε_k/∂x) u_j ]

    Exact to rounding for samplers x' = p x + q ε (+ noise). One pass through a member
    carries all M directions and shares the undifferentiated part.
    """
    model, sampling = pipe.members, pipe.sampling()
    before, n_passes = model.n_forwards, 0

    def beside(
        scaled: Tensor, at_query: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor:
        nonlocal n_passes
        at, directions = scaled[:, 0], (scaled[:, 1:] - scaled[:, :1]).transpose(0, 1)
        mean = at_query.mean(dim=1, keepdim=True)
        carried = torch.zeros_like(scaled[:, 1:])
        for member in range(model.n_members):
            carried += _carried(
                model, sampling, member, at, directions, timestep, condition
            )
            n_passes += len(at) * model.n_members
        return mean + (at_query - mean) + carried / model.n_members

    pictures, moved = stepped_beside(pipe, queries, model.n_members, beside)
    moved = (moved - pictures[:, None]).flatten(2).cpu().double().numpy()
    return Sensitivity(
        jacobian=moved.transpose(0, 2, 1),
        member_forwards=model.n_forwards - before,
        derivative_passes=n_passes,
        road="tangents",
    )


def _carried(
    model: EnsembleModel,
    sampling: Sampling,
    member: int,
    states: Pictures,
    directions: Float[Tensor, "members queries channels height width"],
    timestep: Tensor,
    condition: Condition,
) -> Float[Tensor, "queries members channels height width"]:
    """One member's Jacobian at the states, applied to every direction."""

    def predicted(at: Tensor) -> Tensor:
        return guided_member(model, sampling, member, at, timestep, condition)

    def along(direction: Tensor) -> Tensor:
        return torch.func.jvp(predicted, (states,), (direction,))[1]

    with forward_mode(model.networks[member]):
        return torch.vmap(along)(directions).transpose(0, 1)


@contextlib.contextmanager
def forward_mode(network: nn.Module) -> Iterator[None]:
    """Within it, forward-mode derivatives of a member exist.

    Group normalisation has one only of contiguous inputs, and the fused attention
    kernels have none.
    """
    norms = [one for one in network.modules() if isinstance(one, nn.GroupNorm)]
    hooks = [norm.register_forward_pre_hook(_contiguous) for norm in norms]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _contiguous(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(),)


def generation_forwards(pipe: EnsemblePipeline, n_queries: int = 1) -> int:
    """Member forwards that so many pictures of the full ensemble take."""
    passes = 1 if pipe.sampling().guidance_scale == 1 else 2
    return n_queries * pipe.sampling().n_steps * pipe.members.n_members * passes
