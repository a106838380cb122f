"""How far a set of pictures is from another, and from a copy of it.

All are functions of rows of features, or of pixels; smaller distances, and precision
and recall near one, are better. Estimates from n pictures are biased by n, so compare
only sets of one size.
"""

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Float64
from scipy.spatial.distance import cdist

Rows = Float[np.ndarray, "rows features"]
Others = Float[np.ndarray, "others features"]


def frechet(one: Rows, other: Others) -> float:
    """Distance between two gaussians with the rows' means and covariances.

        |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)

    (Fréchet 1957; Heusel et al. 2017, https://arxiv.org/abs/1706.08500)
    """
    gap = np.square(one.mean(axis=0) - other.mean(axis=0)).sum()
    covariances = np.cov(one.T), np.cov(other.T)
    # (C1 C2)^½ has the trace of (C1^½ C2 C1^½)^½, which is symmetric, and so real.
    half = _root(covariances[0])
    inner = scipy.linalg.eigvalsh(half @ covariances[1] @ half).clip(min=0)
    return float(
        gap + np.trace(covariances[0] + covariances[1]) - 2 * np.sqrt(inner).sum()
    )


def kernel_distance(one: Rows, other: Others) -> float:
    """Squared maximum mean discrepancy under (x·y / features + 1)³, unbiased.

    (Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401)
    """

    def kernel(left: Rows, right: Others) -> Float64[np.ndarray, "rows others"]:
        return (left @ right.T / left.shape[1] + 1) ** 3

    within = 0.0
    for rows in (one, other):
        products, n = kernel(rows, rows), len(rows)
        within += (products.sum() - np.trace(products)) / (n * (n - 1))
    return float(within - 2 * kernel(one, other).mean())


def precision_and_recall(
    generated: Rows, real: Others, n_neighbours: int = 3
) -> tuple[float, float]:
    """Share of generated rows among the real ones, and of real among the generated.

    A row lies among others if it is nearer to one of them than that one's n-th nearest
    neighbour is. (Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991)
    """
    return (
        float(_among(generated, real, n_neighbours).mean()),
        float(_among(real, generated, n_neighbours).mean()),
    )


def memorised(
    generated: Rows, train: Others, share: float = 1 / 3
) -> Bool[np.ndarray, " rows"]:
    """Whether a row is much nearer to its nearest training row than to the second.

    Nearer by the given share. Training images that are there twice hide from this.
    (Yoon et al. 2023, https://openreview.net/forum?id=shciCbSk9h)
    """
    nearest = np.sort(cdist(generated, train), axis=1)
    return nearest[:, 0] < share * nearest[:, 1]


def _among(rows: Rows, others: Others, n_neighbours: int) -> Bool[np.ndarray, " rows"]:
    within = np.sort(cdist(others, others), axis=1)
    reach = within[:, min(n_neighbours, len(others) - 1)]
    return np.any(cdist(rows, others) <= reach, axis=1)


def _root(covariance: Float64[np.ndarray, "features features"]) -> np.ndarray:
    values, vectors = scipy.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(min=0)) @ vectors.T
