"""States that are stepped beside a query: ablations followed by a few members a step.

The query itself is sampled exactly, by all members. What is beside it takes its noise
and most of its predictions from there, so that it costs far less than a generation.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ensemble.models.conditioning import Condition
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.sampling.trajectory import Sampling, Trajectory, guided
from ensemble.system import seeding

Pictures = Float[Tensor, "queries channels height width"]
# As many make good use of a core.
IMAGES_OF_A_BLOCK = 64
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
