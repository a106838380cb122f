"""A small encoder: a space in which pictures that mean alike lie near each other.

A network with one hidden layer is trained on the run's own training images: to tell
their labels apart, or, where there are none, to draw them again. Its hidden layer
is the feature space. It needs no download, and distances in it are called what they
are: they are not those of the Inception network, so none of them is an FID.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

N_FEATURES = 64
SEED = 0
# More images than this teach a network of this size nothing.
ENOUGH_IMAGES = 10_000


@dataclass(frozen=True, eq=False)
class Encoder:
    """From pictures in [-1, 1] to features.

    Attributes:
        weights: Of the hidden layer.
        bias: Of the hidden layer.
        taught: What it was trained to do, for the record.
    """

    weights: Float[np.ndarray, "pixels features"]
    bias: Float[np.ndarray, " features"]
    taught: str

    def __call__(
        self, images: Float[np.ndarray, "images channels height width"]
    ) -> Float64[np.ndarray, "images features"]:
        """Hidden activations; pictures are clipped to [-1, 1] first."""
        flat = np.clip(images, -1, 1).reshape(len(images), -1).astype(np.float64)
        return np.maximum(flat @ self.weights + self.bias, 0)


def train(
    images: Float[np.ndarray, "images channels height width"],
    labels: Int64[np.ndarray, " images"] | None = None,
    n_features: int = N_FEATURES,
) -> Encoder:
    """Train an encoder on training images; the same images give the same encoder.

    Args:
        images: In [-1, 1].
        labels: Class of each; one that all share teaches nothing, as if there was none.
        n_features: Width of the hidden layer.
    """
    every = -(-len(images) // ENOUGH_IMAGES)
    flat = images[::every].reshape(-1, images[0].size)
    size = {"hidden_layer_sizes": (n_features,), "random_state": SEED, "max_iter": 300}
    with warnings.catch_warnings():
        # A layer that has learnt most of what it could is as good a feature space.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if labels is not None and len(np.unique(labels[::every])) > 1:
            taught = "to tell labels apart"
            network = MLPClassifier(**size).fit(flat, labels[::every])
        else:
            taught = "to draw pictures again"
            network = MLPRegressor(**size).fit(flat, flat)
    return Encoder(network.coefs_[0], network.intercepts_[0], taught)
