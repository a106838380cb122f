"""What a scorer is given and what it must answer.

A score is somebody's prediction of influence, made without looking at any ablation:
score[query, image], higher when training on the image lowered the query's loss more,
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

# Which model is scored, if it is no reference and no single member.
ENSEMBLE, FIRST = "ensemble", "first-"


def first_members(n_members: int) -> str:
    """What the first so many members are called as a scored model."""
    return f"{FIRST}{n_members}"


@dataclass(frozen=True, eq=False)
class Examples:
    """Images at which gradients or losses are taken: training images, or queries.

    Attributes:
        images: In [-1, 1].
        condition: Label of each image; None for unconditional members.
        keys: What keys the noise that is added to each image. A training image's key is
            its number; a query's lies outside of these.
    """

    images: Float[Tensor, "images channels height width"]
    condition: Condition
    keys: Int64[Tensor, " images"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | Tensor) -> "Examples":
        return Examples(self.images[chosen], self.condition[chosen], self.keys[chosen])


@dataclass(frozen=True, eq=False)
class Seen:
    """Some of the examples, such as those that a network saw; copied when asked for.

    Attributes:
        examples: All of them.
        numbers: Of those that count.
    """

    examples: Examples
    numbers: Int64[np.ndarray, " seen"]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, chosen: slice | Int64[np.ndarray, " chosen"]) -> Examples:
        numbers = torch.from_numpy(self.numbers[chosen])
        return self.examples[numbers.to(self.examples.images.device)]


def all_of(examples: Examples) -> Seen:
    """Every one of the examples."""
    return Seen(examples, np.arange(len(examples)))


@dataclass(frozen=True, eq=False)
class Journey:
    """How the queries were generated.

    Attributes:
        timesteps: At which the sampler stood, in its order.
        clean: What it then took the finished picture for, around [-1, 1], not clipped.
    """

    timesteps: Int64[Tensor, " steps"]
    clean: Float[Tensor, "queries steps channels height width"]


@dataclass(frozen=True, eq=False)
class Alone:
    """What each network makes of the queries' noise by itself.

    Attributes:
        pictures: Those of one network, by its position among them; not clipped.
        sampler: Whatever else decides how they come out, such that JSON can hold it.
    """

    pictures: Callable[[int], Float32[np.ndarray, "queries channels height width"]]
    sampler: dict[str, Any]


@dataclass
class Work:
    """What scoring has cost so far.

    Attributes:
        gradients: Gradients taken of single images at single draws.
        forwards: Single images at single draws that were only denoised.
        seconds_before: Spent on what was read back from `Setting.folder`, and on each
            of the scores that others are built on; what these share counts for each.
    """

    gradients: int = 0
    forwards: int = 0
    seconds_before: float = 0.0


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that a scorer may see.

    Attributes:
        networks: The scored models: one reference model, one member, or all members.
        saw: saw[n, i] is True if network n was trained on image i. An image's score
            is the mean over the networks that saw it, unless a method says otherwise.
        objective: What the networks were trained to predict.
        train: The training images.
        queries: What is attributed.
        source_of: The source of each training image.
        n_sources: How many sources there are.
        codes: The code book; None for a reference model.
        max_memory_mb: Bound on the memory of activations, gradients and kernels.
        folder: Where features are kept, so that an interrupted scorer goes on.
        journey: How the queries were generated, on request; None if unknown.
        alone: What each network makes of their noise; None if nothing samples with it.
        checkpoints: Network n at moments of its training, with the finished network as
            the last; None: only the finished networks are left.
        scores: Scores of another method, by its name, the scored model and dampings: at
            its own damping, and at these where it has one; None: there are none.
        work: Tally of what scoring costs.
        notes: What a method found out while scoring, such as the rank of a kernel or the
            damping of each layer; network by network, in their order.
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
    journey: Callable[[], Journey] | None = None
    alone: Alone | None = None
    checkpoints: Callable[[int], Sequence[nn.Module]] | None = None
    scores: Callable[[str, str | int, Sequence[float]], Stack] | None = None
    work: Work = field(default_factory=Work)
    notes: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        wanted = (len(self.networks), len(self.train))
        if self.saw.shape != wanted:
            raise BadInput(
                f"saw has shape {self.saw.shape}: (networks, images) = {wanted} is "
                "wanted, who was trained on what."
            )

    @property
    def cache(self) -> Cache:
        """What is kept in the folder."""
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
        cost: Formula of its work: N images, Q queries, M networks, K draws.
        needs: What it must be given besides the models.
        scale: What a score of one means.
    """

    paper: ClassVar[str]
    cost: ClassVar[str]
    needs: ClassVar[str]
    scale: ClassVar[str]

    def score(self, setting: Setting) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query; higher = more helpful."""
        ...


@runtime_checkable
class Damped(Scorer, Protocol):
    """A scorer that scores at many dampings for little more than at one."""

    def path(
        self, setting: Setting, dampings: Sequence[float]
    ) -> Float32[np.ndarray, "dampings queries images"]:
        """Scores at each damping, which takes the place of the scorer's own."""
        ...


@runtime_checkable
class Uncertain(Scorer, Protocol):
    """A scorer of sources that says how far each score may be off."""

    def with_errors(
        self, setting: Setting
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
    """A source's score, in equal shares over its images; undoes `by_source`."""
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
