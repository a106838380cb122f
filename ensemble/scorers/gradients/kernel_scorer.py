"""What all methods of the TRAK family share: features, one kernel a network, dampings.

A method says which gradient stands for an image, what stands for a query, and how a
score follows from the kernel. All else is the same for all of them, and is here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from ensemble.scorers.gradients import features, kernel
from ensemble.scorers.gradients.features import Feature, Rows
from ensemble.scorers.gradients.kernel import Kernel
from ensemble.scorers.interface import ScoringContext


@dataclass(frozen=True, eq=False)
class SolvedQueries:
    """The queries, solved by one network's kernel at one damping.

    Attributes:
        queries: K_λ⁻¹ q of each query.
        kernel: K, of the training images that the network saw.
        damping: λ, relative to the mean squared length of a feature.
        image_factors: What `KernelScorer.image_factors` says of the network; None: nothing.
    """

    queries: Float64[np.ndarray, "queries width"]
    kernel: Kernel
    damping: float
    image_factors: Float64[np.ndarray, " images"] | None


@dataclass(frozen=True)
class KernelScorer:
    """A method that scores with the kernel of the training images' gradients.

    Without more it is TRAK. A method overrides `formula` for another score, `rows` where
    its queries have features of their own, and `image_factors` where it looks at training
    images in another way too.

    Attributes:
        feature: Which gradient stands for an image.
        damping: λ, relative to the mean squared length of the training features.

    Raises:
        BadInput: If damping is not positive.
    """

    paper: ClassVar[str]
    cost: ClassVar[str] = "M·K·(N+Q) gradients, M·N³ for the kernel"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str]
    feature: Feature = Feature()
    damping: float = kernel.DAMPING

    def __post_init__(self) -> None:
        kernel.require_positive(self.damping)

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        return self.path(context, [self.damping])[0]

    def path(
        self, context: ScoringContext, dampings: Sequence[float]
    ) -> Float32[np.ndarray, "dampings queries images"]:
        """Scores at each damping: the mean over the networks that saw an image.

        Each network's kernel is decomposed once, and its facts are noted.

        Raises:
            BadInput: If a damping is not greater than zero.
        """
        networks = self.rows(context)
        for damping in dampings:
            kernel.require_positive(damping)
        total = features.table(context, len(dampings))
        n_scored = np.zeros(len(context.train), dtype=np.int64)
        for rows in networks:
            n_scored[rows.seen] += 1
            of_network = rows.kernel()
            context.notes.append(of_network.facts(dampings))
            image_factors = self.image_factors(context, rows)
            for at_damping, damping in zip(total, dampings, strict=True):
                queries = of_network.solve(rows.queries, damping)
                solved = SolvedQueries(queries, of_network, damping, image_factors)
                features.add_scores(at_damping, rows, self._block(solved))
        total /= n_scored.clip(min=1)
        return total

    def rows(self, context: ScoringContext) -> Iterator[Rows]:
        """Features of every network, one after the other."""
        return features.of_networks(context, self.feature)

    def image_factors(
        self, context: ScoringContext, rows: Rows
    ) -> Float64[np.ndarray, " images"] | None:
        """A number for each training image that depends on no damping; None: nothing."""
        return None

    def formula(
        self,
        solved: SolvedQueries,
        images: Float[np.ndarray, "images width"],
        numbers: Int64[np.ndarray, " images"],
    ) -> Float[np.ndarray, "queries images"]:
        """Scores of a block of training images by one network; here TRAK's, q K_λ⁻¹ g.

        Args:
            solved: The queries and the kernel.
            images: Features of the training images.
            numbers: Which images these are.
        """
        return solved.queries @ images.T

    def _block(self, solved: SolvedQueries) -> features.Block:
        return lambda images, numbers: self.formula(solved, images, numbers)
