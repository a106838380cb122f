"""Masking of the images of removed sources.

A masked image keeps its place, so that every other image keeps its number, but its
pixels, label and metadata are gone. It does not matter whether its file still exists.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64

from ensemble.data.datasets import Images, TrainingImages
from ensemble.data.lazy import ImagesOnDisk
from splits.errors import BadInput


def mask_images(
    data: TrainingImages,
    gone: dict[int, str],
    n_images: int,
    label_names: Sequence[str],
) -> TrainingImages:
    """Mask the images of removed sources.

    Args:
        data: The training images as they are now; files of removed images may exist.
        gone: Names of the removed images, by their numbers in the original data.
        n_images: Number of images in the original data.
        label_names: The classes of the original data.

    Returns:
        The original data with masked images: they have pixels 0, label 0 and empty
        metadata, and keep their names.

    Raises:
        BadInput: If an image that was not removed is missing, or there is a new one.
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
    spaced = _at_old_places(data.names, there, rest, n_images)
    for image, name in gone.items():
        spaced[image] = name
    return TrainingImages(
        _mask_pixels(data.images, spaced, there, rest),
        labels,
        tuple(label_names),
        {
            column: tuple(_at_old_places(texts, there, rest, n_images))
            for column, texts in data.columns.items()
        },
        tuple(spaced),
        data.inventory,
    )


def _at_old_places(
    texts: Sequence[str],
    there: Bool[np.ndarray, " found"],
    rest: Int64[np.ndarray, " rest"],
    n_images: int,
) -> list[str]:
    """Texts of the remaining images at their original numbers, empty text elsewhere."""
    spaced = [""] * n_images
    for place, index in zip(rest.tolist(), np.flatnonzero(there).tolist(), strict=True):
        spaced[place] = texts[index]
    return spaced


def _mask_pixels(
    images: Images,
    names: Sequence[str],
    there: Bool[np.ndarray, " found"],
    rest: Int64[np.ndarray, " rest"],
) -> Float32[np.ndarray, "all channels height width"] | ImagesOnDisk:
    """The remaining images at their original numbers, zeros elsewhere."""
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
