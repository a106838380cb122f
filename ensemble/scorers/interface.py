"""The interface of scorers: what a scorer may see, and what it returns.

A score is a prediction of influence that is made without looking at any ablation:
score[query, image] is higher when training on the image lowered the query's loss more,
so that its removal raises it. A source's score is the sum over its images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor, nn

from ensemble.models.conditioning import Condition
from ensemble.models.objective import Objective
from ensemble.run.cache import Cache
from splits.codes import CodeBook
from splits.errors import BadInput

Stack = Float32[np.ndarray, "scores queries sources"]

# Names of scored models; a reference and a single member have names of their own.
ENSEMBLE, FIRST = "ensemble", "first-"


def first_members(n_members: int) -> str:
    """The name of the first `n_members` members as a scored model."""
    return f"{FIRST}{n_members}"


@dataclass(frozen=True, eq=False)
class Examples:
    """Images at which gradients or losses are taken: training images, or queries.

    Attributes:
        images: In [-1, 1].
        condition: Label of each image; None for unconditional members.
        keys: The noise that is added to an image is drawn from its key. A training
            image's key is its number; a query's key is never one of these.
    """

    images: Float[Tensor, "images channels height width"]
    condition: Condition
    keys: Int64[Tensor, " images"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | Tensor) -> "Examples":
        return Examples(self.images[chosen], self.condition[chosen], self.keys[chosen])


@dataclass(frozen=True, eq=False)
class Subset:
    """Some of the examples, such as those that a network was trained on.

    Nothing is copied until some of them are read.

    Attributes:
        examples: All examples.
        numbers: Which of them belong to the subset, ascending.
    """

    examples: Examples
    numbers: Int64[np.ndarray, " seen"]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, chosen: slice | Int64[np.ndarray, " chosen"]) -> Examples:
        numbers = torch.from_numpy(self.numbers[chosen])
        return self.examples[numbers.to(self.examples.images.device)]


def all_of(examples: Examples) -> Subset:
    """Every one of the examples."""
    return Subset(examples, np.arange(len(examples)))


@dataclass(frozen=True, eq=False)
class SamplingTrajectory:
    """How the queries were generated, step by step.

    Attributes:
        timesteps: Timestep of each sampling step, in the sampler's order.
        clean: The estimate of the finished picture at each step; its values are around
            [-1, 1] and not clipped.
    """

    timesteps: Int64[Tensor, " steps"]
    clean: Float[Tensor, "queries steps channels height width"]


@dataclass(frozen=True, eq=False)
class MemberSamples:
    """The pictures that each network samples alone from the queries' noise.

    Attributes:
        images: Returns the pictures of one network, by its position; not clipped.
        sampler: Everything else that the pictures depend on, as JSON holds it.
    """

    images: Callable[[int], Float32[np.ndarray, "queries channels height width"]]
    sampler: dict[str, Any]


@dataclass
class Work:
    """What scoring has cost so far.

    Attributes:
        gradients: Number of gradients; each is one image at one noise draw.
        forwards: Number of forward passes without a gradient, counted alike.
        seconds_before: Seconds that were spent earlier on what was read back from
            `ScoringContext.folder`, and on scores of other methods that this one uses.
            What several of these scores share is counted for each of them.
    """

    gradients: int = 0
    forwards: int = 0
    seconds_before: float = 0.0


@dataclass(frozen=True, eq=False)
class ScoringContext:
    """Everything that a scorer may see.

    Attributes:
        networks: The scored models: one reference model, one member, or all members.
        saw: saw[n, i] is True if network n was trained on image i. An image's score is
            the mean over these networks, unless a method says otherwise.
        objective: What the networks were trained to predict.
        train: The training images.
        queries: The images that are attributed.
        source_of: The source of each training image.
        n_sources: How many sources there are.
        codes: The code book; None for a reference model.
        max_memory_mb: Bound on the memory of activations, gradients and kernels.
        folder: The cache folder, from which an interrupted scorer goes on.
        trajectory: Returns how the queries were generated; None if it is unknown.
        member_samples: What each network samples alone from the queries' noise; None if
            there is no sampler.
        checkpoints: Returns the checkpoints of network n, the finished network last;
            None if only the finished networks are left.
        scores: Returns scores of another method, given its name, the scored model and
            dampings: first at its own damping, then at these if it has a damping. None
            if there are no other scores.
        work: What scoring has cost so far.
        notes: Facts that a method found while scoring, such as the rank of a kernel;
            one entry for each network, in their order. They go into the sidecar.
    """

    networks: list[nn.Module]
    saw: Bool[np.ndarray, "networks images"]
    objective: Objective
    train: Examples
    queries: Examples
    source_of: Int64[np.ndarray, " images"]
    n_sources: int
    codes: CodeBook | None
    max_memory_mb: int
    folder: Path
    trajectory: Callable[[], SamplingTrajectory] | None = None
    member_samples: MemberSamples | None = None
    checkpoints: Callable[[int], Sequence[nn.Module]] | None = None
    scores: Callable[[str, str | int, Sequence[float]], Stack] | None = None
    work: Work = field(default_factory=Work)
    notes: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        wanted = (len(self.networks), len(self.train))
        if self.saw.shape != wanted:
            raise BadInput(
                f"saw has shape {self.saw.shape}; it says which network was trained on "
                f"which image, so give it (networks, images) = {wanted}."
            )

    @property
    def cache(self) -> Cache:
        """The cache in the folder."""
        return Cache(self.folder)

    def included(self) -> Bool[np.ndarray, "networks sources"]:
        """Which sources each network was trained on."""
        included = np.zeros((len(self.networks), self.n_sources), dtype=bool)
        included[:, self.source_of] = self.saw
        return included


@runtime_checkable
class Scorer(Protocol):
    """A method that predicts influence.

    Attributes:
        paper: Author, year and address.
        cost: Formula of its work, with N images, Q queries, M networks and K draws.
        needs: What it needs besides the models.
        scale: The unit of a score.
    """

    paper: ClassVar[str]
    cost: ClassVar[str]
    needs: ClassVar[str]
    scale: ClassVar[str]

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query; higher = more helpful."""
        ...


@runtime_checkable
class SupportsDampingPath(Scorer, Protocol):
    """A scorer whose scores at many dampings cost little more than at one."""

    def path(
        self, context: ScoringContext, dampings: Sequence[float]
    ) -> Float32[np.ndarray, "dampings queries images"]:
        """Scores at each damping; the scorer's own damping is not used."""
        ...


@runtime_checkable
class SupportsUncertainty(Scorer, Protocol):
    """A scorer of sources that also gives the standard deviation of each score."""

    def with_errors(
        self, context: ScoringContext
    ) -> tuple[
        Float64[np.ndarray, "queries sources"], Float64[np.ndarray, "queries sources"]
    ]:
        """Scores of sources, and the standard deviation of each."""
        ...


def by_source(
    per_image: Float[np.ndarray, "queries images"],
    source_of: Int64[np.ndarray, " images"],
    n_sources: int,
) -> Float32[np.ndarray, "queries sources"]:
    """A source's score is the sum over its images; a source without images scores 0."""
    return np.stack(
        [np.bincount(source_of, weights=row, minlength=n_sources) for row in per_image]
    ).astype(np.float32)


def over_images(
    per_source: Float[np.ndarray, "queries sources"],
    source_of: Int64[np.ndarray, " images"],
) -> Float32[np.ndarray, "queries images"]:
    """Divide a source's score equally among its images: the inverse of `by_source`."""
    n_images = np.bincount(source_of)
    return (per_source[:, source_of] / n_images[source_of]).astype(np.float32)


def raw(score: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The score as the method gives it."""
    return score


def squared(score: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Magnitude alone: large scores weigh more, and the sign is lost."""
    return np.square(score)


def signed_squared(score: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Large scores weigh more, and the sign is kept."""
    return np.sign(score) * np.square(score)


READOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw": raw,
    "squared": squared,
    "signed_squared": signed_squared,
}
