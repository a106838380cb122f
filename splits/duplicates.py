"""Near-duplicates: images of the same picture, saved again or scaled.

If two sources hold the same picture, removing one of them leaves the other, so the
ablation does not remove the picture. So near-duplicates should be one source. Two images
are compared as small pictures of at most 16 x 16 pixels, normalised in brightness and
contrast:

    distance(a, b) = 1 - correlation of a's and b's values

0 is the same picture, 1 is an unrelated one. A perceptual hash compares bits instead,
which is faster for more than 100,000 images. But on small pictures many of its bits are
noise, and many pairs at the threshold have equal distances. Crops and mirror images are
not found.

Clusters are the connected components of pairs within the threshold: two images that do
not resemble each other can share a source because of images in between.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32, Int64

from splits.errors import BadInput

# All pairs are compared: 10^10 of them take minutes.
MOST_IMAGES = 100_000
MOST_PAIRS = 5_000_000
_SIDE = 16
_BLOCK = 1024
# An image with a contrast below one step of 8 bits counts as flat.
_FLAT = 1 / 255

Pictures = Float32[np.ndarray, "images values"]


def pictures(images: Float32[np.ndarray, "images channels height width"]) -> Pictures:
    """Images as vectors of length one, whose inner products are correlations.

    Flat images become zeros: their distance is 0 from each other, 1/2 from all others.

    Args:
        images: Images in [-1, 1].
    """
    rows, columns = (_shrinking(side) for side in images.shape[2:])
    small = np.einsum("yh,bchw,xw->bcyx", rows, images, columns, optimize=True)
    values = small.reshape(len(images), -1)
    values = values - values.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    pictured = lengths > _FLAT * np.sqrt(values.shape[1])
    return np.divide(values, lengths, out=np.zeros_like(values), where=pictured)


def near_pairs(
    compared: Pictures, within: float
) -> tuple[Int64[np.ndarray, "pairs two"], Float32[np.ndarray, " pairs"]]:
    """All pairs of images within a distance, and their distances.

    Args:
        compared: The result of `pictures`.
        within: Greatest distance of a pair.

    Returns:
        Pairs (first < second) and their distances, the closest first.

    Raises:
        BadInput: If there are too many images, or too many pairs.
    """
    n_images = len(compared)
    if n_images > MOST_IMAGES:
        raise BadInput(
            f"{n_images} images have too many pairs to compare: at most {MOST_IMAGES} "
            "images can be. Name the clusters in a column of the metadata instead."
        )
    squares = np.square(compared).sum(axis=1)
    found, far = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    for start in range(0, n_images, _BLOCK):
        block = compared[start : start + _BLOCK]
        mean = (squares[start : start + _BLOCK, None] + squares[start:]) / 2
        distance = np.maximum(mean - block @ compared[start:].T, 0)
        first, second = np.nonzero(distance <= within)
        later = first < second
        found.append(np.stack([first[later], second[later]], axis=1) + start)
        far.append(distance[first[later], second[later]])
        if sum(map(len, found)) > MOST_PAIRS:
            raise BadInput(
                f"More than {MOST_PAIRS} pairs of images are closer than {within}: "
                "nearly everything is one cluster. Lower data.near."
            )
    pairs, distances = np.concatenate(found), np.concatenate(far)
    order = np.argsort(distances, kind="stable")
    return pairs[order], distances[order]


def identical(images: Iterable[np.ndarray]) -> Int64[np.ndarray, "pairs two"]:
    """Pairs of images that are equal bit by bit.

    Args:
        images: Any arrays; they are read one after the other.

    Returns:
        For each image that equals an earlier one: the first image with this content,
        and the image itself.

    Examples:
        >>> identical([np.zeros(2), np.ones(2), np.zeros(2)]).tolist()
        [[0, 2]]
    """
    first_of: dict[bytes, int] = {}
    pairs = []
    for number, image in enumerate(images):
        content = hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()
        first = first_of.setdefault(content, number)
        if first != number:
            pairs.append((first, number))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def clusters(
    n_images: int, pairs: Int64[np.ndarray, "pairs two"]
) -> Int64[np.ndarray, " images"]:
    """The cluster of each image, named by the smallest image number in it.

    Each image points to one with a number that is not larger; the last in a chain names
    the cluster (union-find with path halving, Tarjan & van Leeuwen 1984).

    Args:
        n_images: Number of images.
        pairs: Pairs of images that belong to one cluster.

    Examples:
        >>> clusters(4, np.array([[0, 2], [2, 3]])).tolist()
        [0, 1, 0, 0]
    """
    toward = list(range(n_images))

    def last(image: int) -> int:
        while toward[image] != image:
            toward[image] = toward[toward[image]]
            image = toward[image]
        return image

    for first, second in pairs.tolist():
        one, other = last(first), last(second)
        toward[max(one, other)] = min(one, other)
    return np.array([last(image) for image in range(n_images)], dtype=np.int64)


def _shrinking(side: int) -> Float32[np.ndarray, "small side"]:
    """A matrix that averages a side of pixels over equal intervals."""
    small = min(side, _SIDE)
    edges = np.arange(small + 1) * side / small
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(
        edges[:-1, None], pixels
    )
    return (np.maximum(overlap, 0) * small / side).astype(np.float32)
