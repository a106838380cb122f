"""A small feature encoder: similar pictures are close to each other in its space.

A network with one hidden layer is trained on the run's own training images: to
classify them, or, if there are no labels, to reconstruct them. Its hidden layer is the
feature space. Nothing is downloaded. Distances in this space are not those of the
Inception network, so none of them is called FID.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

N_FEATURES = 64
SEED = 0
# A network of this size learns nothing from more images than this.
ENOUGH_IMAGES = 10_000


@dataclass(frozen=True, eq=False)
class Encoder:
    """A hidden layer that maps pictures in [-1, 1] to features.

    Attributes:
        weights: Weights of the hidden layer.
        bias: Biases of the hidden layer.
        taught: What the network was trained to do, for the record.
    """

    weights: Float[np.ndarray, "pixels features"]
    bias: Float[np.ndarray, " features"]
    taught: str

    def __call__(
        self, images: Float[np.ndarray, "images channels height width"]
    ) -> Float64[np.ndarray, "images features"]:
        """Features of pictures, which are clipped to [-1, 1] first."""
        flat = np.clip(images, -1, 1).reshape(len(images), -1).astype(np.float64)
        return np.maximum(flat @ self.weights + self.bias, 0)


def train(
    images: Float[np.ndarray, "images channels height width"],
    labels: Int64[np.ndarray, " images"] | None = None,
    n_features: int = N_FEATURES,
) -> Encoder:
    """Train an encoder on training images; the same images give the same encoder.

    Args:
        images: Images in [-1, 1].
        labels: Class of each image. If all images have one class, the network is
            trained as if there were no labels.
        n_features: Width of the hidden layer.
    """
    every = -(-len(images) // ENOUGH_IMAGES)
    flat = images[::every].reshape(-1, images[0].size)
    size = {"hidden_layer_sizes": (n_features,), "random_state": SEED, "max_iter": 300}
    with warnings.catch_warnings():
        # The layer is a good feature space before the training has converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if labels is not None and len(np.unique(labels[::every])) > 1:
            taught = "to tell labels apart"
            network = MLPClassifier(**size).fit(flat, labels[::every])
        else:
            taught = "to draw pictures again"
            network = MLPRegressor(**size).fit(flat, flat)
    return Encoder(network.coefs_[0], network.intercepts_[0], taught)
