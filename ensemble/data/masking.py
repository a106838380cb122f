"""Blanks: the places of training images that must not be seen any more.

Images of removed sources are left blank, whether their files are still there or not, so
that every other image keeps its number.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64

from ensemble.data.datasets import (
    Images,
    TrainingImages,
)
from ensemble.data.lazy import ImagesOnDisk
from splits.errors import BadInput


def blanked(
    data: TrainingImages,
    gone: dict[int, str],
    n_images: int,
    label_names: Sequence[str],
) -> TrainingImages:
    """The training images with some left blank.

    Args:
        data: With all of the images that are gone, some of them, or none.
        gone: Names of the images that are gone, by their numbers when all were there.
        n_images: How many there were.
        label_names: The classes that there were.

    Returns:
        As many images as when all were there. Those that are gone have pixels 0, label
        0 and empty metadata, and keep their names.

    Raises:
        BadInput: If another image is missing, or there is one more.
    """
    names = set(gone.values())
    there = np.array([name not in names for name in data.names], dtype=bool)
    rest = np.setdiff1d(np.arange(n_images), list(gone))
    if there.sum() != len(rest):
        raise BadInput(
            f"{there.sum()} training images are there, besides those of removed "
            f"sources; the run was made with {len(rest)}. Restore what was there."
        )
    labels = None
    if data.labels is not None:
        class_of = {name: index for index, name in enumerate(label_names)}
        known = np.array([class_of.get(name, -1) for name in data.label_names])
        labels = np.zeros(n_images, dtype=np.int64)
        labels[rest] = known[data.labels[there]]
    spaced = _spaced(data.names, there, rest, n_images)
    for image, name in gone.items():
        spaced[image] = name
    return TrainingImages(
        _images(data.images, spaced, there, rest),
        labels,
        tuple(label_names),
        {
            column: tuple(_spaced(texts, there, rest, n_images))
            for column, texts in data.columns.items()
        },
        tuple(spaced),
        data.inventory,
    )


def _spaced(
    texts: Sequence[str],
    there: Bool[np.ndarray, " found"],
    rest: Int64[np.ndarray, " rest"],
    n_images: int,
) -> list[str]:
    """The texts of images that are there, at their places; nothing elsewhere."""
    spaced = [""] * n_images
    for place, index in zip(rest.tolist(), np.flatnonzero(there).tolist(), strict=True):
        spaced[place] = texts[index]
    return spaced


def _images(
    images: Images,
    names: Sequence[str],
    there: Bool[np.ndarray, " found"],
    rest: Int64[np.ndarray, " rest"],
) -> Float32[np.ndarray, "all channels height width"] | ImagesOnDisk:
    shape = images.shape[1:]
    if not isinstance(images, ImagesOnDisk):
        spaced = np.zeros((len(names), *shape), dtype=np.float32)
        spaced[rest] = images[there]
        return spaced
    index_of = dict(zip(rest.tolist(), np.flatnonzero(there).tolist(), strict=True))

    def read(number: int) -> np.ndarray:
        if number not in index_of:
            return np.zeros(shape, dtype=np.float32)
        return images[index_of[number]]

    return ImagesOnDisk(tuple(names), read)
