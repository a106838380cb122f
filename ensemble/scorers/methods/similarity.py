"""Likeness: images that look alike, to nobody's model.

Baselines that every method has to beat, and need no gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32
from sklearn.decomposition import PCA
from torch import Tensor

from ensemble.data import encoders
from ensemble.models.conditioning import ClassLabels
from ensemble.scorers.gradients import features
from ensemble.scorers.interface import ScoringContext
from splits.errors import BadInput

Encoder = Callable[
    [Float[Tensor, "images channels height width"]], Float[np.ndarray, "images width"]
]
# More training images than these teach the components nothing.
ENOUGH_IMAGES = 10_000


@dataclass(frozen=True)
class PixelDot:
    """Inner product of pixels."""

    paper: ClassVar[str] = "baseline in Zheng et al. 2024"
    cost: ClassVar[str] = "no gradients"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "inner product of pixels from -1 to 1"

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        return _compared(context, pixels)


@dataclass(frozen=True)
class PixelCosine:
    """Cosine of pixels."""

    paper: ClassVar[str] = "baseline in Zheng et al. 2024"
    cost: ClassVar[str] = "no gradients"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "cosine, from -1 to 1"

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        return _compared(context, lambda images: features.unit(pixels(images)))


@dataclass(frozen=True)
class FeatureCosine:
    """Cosine of what an encoder makes of images.

    Attributes:
        encoder: From images in [-1, 1] to rows of numbers; None: the hidden layer of a
            small network trained on the training images.
    """

    paper: ClassVar[str] = "baseline in Zheng et al. 2024, there with CLIP"
    cost: ClassVar[str] = "N+Q passes of the encoder"
    needs: ClassVar[str] = "nothing; takes any encoder"
    scale: ClassVar[str] = "cosine, from -1 to 1"
    encoder: Encoder | None = None

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        encode = self.encoder or _trained(context)
        return _compared(context, lambda images: features.unit(encode(images)))


@dataclass(frozen=True)
class ComponentCosine:
    """Cosine of principal components: an encoder that needs nothing but the data.

    Attributes:
        n_components: Principal components of the training images' pixels, or as many as
            there are.
    """

    paper: ClassVar[str] = "our stand-in for CLIP in Zheng et al. 2024"
    cost: ClassVar[str] = "no gradients, one decomposition of the pixels"
    needs: ClassVar[str] = "nothing"
    scale: ClassVar[str] = "cosine, from -1 to 1"
    n_components: int = 32

    def __post_init__(self) -> None:
        if self.n_components < 1:
            raise BadInput(
                f"n_components is {self.n_components}; at least 1 is needed."
            )

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        every = -(-len(context.train) // ENOUGH_IMAGES)
        learnt = pixels(context.train.images[::every])
        # The last direction of as many as there are images is only rounding.
        most = min(len(learnt) - 1, learnt.shape[1])
        components = PCA(min(self.n_components, most), random_state=0)
        components.fit(learnt)
        explained = float(components.explained_variance_ratio_.sum())
        context.notes.append(
            {"components": components.n_components_, "explained_variance": explained}
        )
        return FeatureCosine(lambda images: components.transform(pixels(images))).score(
            context
        )


def pixels(
    images: Float[Tensor, "images channels height width"],
) -> Float[np.ndarray, "images pixels"]:
    """Images as rows of pixels."""
    return images.flatten(1).cpu().numpy()


def _trained(context: ScoringContext) -> Encoder:
    """A small encoder, trained on the training images; what it was taught is noted."""
    told = context.train.condition
    trained = encoders.train(
        context.train.images.cpu().numpy(),
        told.labels.cpu().numpy() if isinstance(told, ClassLabels) else None,
    )
    context.notes.append({"encoder": f"trained {trained.taught}"})
    return lambda images: trained(images.cpu().numpy())


def _compared(
    context: ScoringContext, encode: Encoder
) -> Float32[np.ndarray, "queries images"]:
    """Inner products of what images are encoded as."""
    train = context.train.images
    score = features.table(context)
    queries = encode(context.queries.images)
    image_bytes = train[0].numel() * train.element_size()
    at_once = max(1, context.max_memory_mb * 2**20 // (8 * image_bytes))
    for first in range(0, len(train), at_once):
        block = slice(first, first + at_once)
        score[:, block] = queries @ encode(train[block]).T
    return score
