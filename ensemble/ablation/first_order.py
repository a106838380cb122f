"""Sensitivity: how a picture moves with the votes, for the price of a few generations.

With J the derivative of a query's picture by the members' votes and d = votes of an
ablation minus equal votes, the picture moves by J d, and its squared displacement is
dᵀGd with the Gram matrix G = JᵀJ / pixels. One members x members matrix so answers
every code, every union of codes and every placebo. (Dai & Gifford 2024, arXiv
2406.07908, take J by forward-mode derivatives; the other roads are ours.)

A road is an estimator of how pictures move. Two lead to J; they agree, and differ in
price and in what they miss:

    tangents   exact derivative, M forward-mode products a member and step; misses how
               the picture bends between equal votes and the ablation (tangents.py)
    designed   steps M to 2M real vote vectors beside the query and fits J to where they
               end; sees the bending, misses what a plane cannot fit

and two more in adjoint.py, for one number read off the picture. A third needs no J:

    one by one follows each ablation that is asked for by members that vote for it; sees
               all bending, and costs a member forward an ablation and step

All pictures are taken before clipping.
"""

import functools
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float64

from ensemble.ablation import coupled
from ensemble.ablation.removal_sets import votes_in_blocks
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.system import seeding


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
    pictures, ablated = coupled.ablated_beside(
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
    pictures, ablated = coupled.ablated_beside(
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


def generation_forwards(pipe: EnsemblePipeline, n_queries: int = 1) -> int:
    """Member forwards that so many pictures of the full ensemble take."""
    passes = 1 if pipe.sampling().guidance_scale == 1 else 2
    return n_queries * pipe.sampling().n_steps * pipe.members.n_members * passes
