"""The kernel that turns inner products of gradients into scores.

With the training images' features as rows of G, K_λ = GᵀG + λI, and a query's feature q,
every method of the TRAK family starts from

    q K_λ⁻¹ Gᵀ = q Gᵀ (GGᵀ + λI)⁻¹

We take the smaller of GᵀG and GGᵀ apart once, in float64, so that every damping λ costs
two small products and nothing is ever inverted. Damping is relative: λ is so many times
the mean squared length of a feature, and scores rank alike whatever features are scaled
by. (Park et al. 2023, https://arxiv.org/abs/2303.14186)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float64

from splits.errors import BadInput

# Relative damping by default: a choice, never tuned on what is reported.
DAMPING = 1.0
# Directions weaker than this, relative to the strongest, are rounding errors.
FLOOR = 1e-12

ImageFeatures = Float[np.ndarray, "images width"]
QueryFeatures = Float[np.ndarray, "queries width"]


@dataclass(frozen=True, eq=False)
class Kernel:
    """GᵀG, taken apart.

    Attributes:
        eigenvalues: L, those that are not zero.
        axes: V, their orthonormal eigenvectors in columns; GᵀG = V diag(L) Vᵀ.
        mean_square: Mean squared length of a training image's feature.
    """

    eigenvalues: Float64[np.ndarray, " rank"]
    axes: Float64[np.ndarray, "width rank"]
    mean_square: float

    def damped(self, damping: float) -> Float64[np.ndarray, " rank"]:
        """L + λ, with λ = damping · mean squared length."""
        return self.eigenvalues + damping * self.mean_square

    def facts(self, dampings: Sequence[float]) -> dict[str, Any]:
        """For the sidecar: rank, scale, and what relative dampings amount to."""
        return {
            "rank": len(self.eigenvalues),
            "mean_squared_length": self.mean_square,
            "largest_eigenvalue": float(self.eigenvalues.max(initial=0)),
            "damping": {
                f"{damping:g}": damping * self.mean_square for damping in dampings
            },
        }

    def solve(
        self, queries: QueryFeatures, damping: float
    ) -> Float64[np.ndarray, "queries width"]:
        """K_λ⁻¹ q, as far as training images can see it.

        Its inner product with a training image's feature is the image's score.
        """
        return self._along(queries) / self.damped(damping) @ self.axes.T

    def leverage(
        self, images: ImageFeatures, damping: float
    ) -> Float64[np.ndarray, " images"]:
        """How much each training image explains itself: h = g K_λ⁻¹ g, below 1."""
        return np.square(self._along(images)) @ (1 / self.damped(damping))

    def steps(
        self, images: ImageFeatures, damping: float
    ) -> Float64[np.ndarray, " images"]:
        """Length of K_λ⁻¹ g for training images: how far each moves the weights."""
        squares = np.square(self._along(images))
        return np.sqrt(squares @ (1 / np.square(self.damped(damping))))

    def _along(self, rows: np.ndarray) -> Float64[np.ndarray, "rows rank"]:
        return rows.astype(np.float64) @ self.axes


def require_positive(damping: float) -> None:
    """Refuse a damping that leaves the kernel singular.

    Raises:
        BadInput: If it is not greater than zero.
    """
    if not damping > 0:
        raise BadInput(
            f"damping is {damping}; it must be greater than 0. It is relative to the "
            f"mean squared length of a feature: {DAMPING} is usual."
        )


def decompose(images: ImageFeatures, max_memory_mb: int) -> Kernel:
    """The kernel of training images' features; they may be a memory map.

    Raises:
        BadInput: If that takes more memory than allowed.
    """
    n_images, width = images.shape
    rank = min(n_images, width)
    needed = 8 * rank * (3 * rank + 2 * width)
    if needed > max_memory_mb * 2**20:
        raise BadInput(
            f"The kernel of {n_images} images with features of {width} numbers takes "
            f"{needed / 2**20:.0f} MB; allowed: {max_memory_mb}. Raise --max-memory, or "
            "project to fewer dimensions."
        )
    eigenvalues, axes = (_dual if n_images <= width else _primal)(images)
    return Kernel(eigenvalues, axes, float(eigenvalues.sum() / n_images))


def _dual(images: ImageFeatures) -> tuple[np.ndarray, np.ndarray]:
    """By GGᵀ = U diag(L) Uᵀ; then V = GᵀU / sqrt(L)."""
    rows = images.astype(np.float64)
    eigenvalues, vectors = _eigenvectors(rows @ rows.T)
    return eigenvalues, rows.T @ vectors / np.sqrt(eigenvalues)


def _primal(images: ImageFeatures) -> tuple[np.ndarray, np.ndarray]:
    """By GᵀG, summed over blocks of as many images as there are dimensions."""
    width = images.shape[1]
    gram = np.zeros((width, width))
    for first in range(0, len(images), width):
        rows = images[first : first + width].astype(np.float64)
        gram += rows.T @ rows
    return _eigenvectors(gram)


def _eigenvectors(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    eigenvalues, vectors = scipy.linalg.eigh(gram, overwrite_a=True)
    kept = eigenvalues > FLOOR * eigenvalues.max()
    return eigenvalues[kept], vectors[:, kept]
