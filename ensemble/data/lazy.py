"""Lazy training images: they stay in their files until they are indexed."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float32

from ensemble.data import decoding


class ImagesOnDisk:
    """An array-like of images (images, channels, height, width), read when indexed.

    `np.asarray` of it reads all images. Several threads may use it at the same time.

    Args:
        names: Names of the images for error messages; at least one.
        read: A function that decodes the image with a given index to (channels,
            height, width) in [-1, 1].

    Raises:
        BadInput: If the first image is not square. Indexing also raises it if an image
            differs from the first one in shape.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self, names: tuple[str, ...], read: Callable[[int], np.ndarray]
    ) -> None:
        self._names, self._read = names, read
        self._numbers = np.arange(len(names))
        first = read(0)
        decoding.require_square(first.shape, names[0])
        self.shape = (len(names), *first.shape)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(
        self, which: int | slice | np.ndarray
    ) -> Float32[np.ndarray, "..."]:
        numbers = self._numbers[which]
        if numbers.ndim == 0:
            return self._one(int(numbers))
        images = np.empty((len(numbers), *self.shape[1:]), dtype=np.float32)
        for place, number in enumerate(numbers):
            images[place] = self._one(int(number))
        return images

    def __iter__(self) -> Iterator[Float32[np.ndarray, "channels height width"]]:
        return map(self._one, range(len(self)))

    def __array__(
        self, dtype: np.dtype | None = None, copy: bool | None = None
    ) -> np.ndarray:
        return self[:]

    def _one(self, number: int) -> Float32[np.ndarray, "channels height width"]:
        image = self._read(number)
        decoding.require_alike(
            self.shape[1:], self._names[0], image.shape, self._names[number]
        )
        return image
