"""Images on disk look like the array that they are."""

import numpy as np
import pytest

from ensemble.data.datasets import TrainingImages
from ensemble.data.lazy import ImagesOnDisk
from splits.errors import BadInput

ARRAY = np.random.default_rng(0).uniform(-1, 1, (5, 2, 3, 3)).astype(np.float32)
NAMES = tuple("abcde")


def on_disk(array=ARRAY):
    return ImagesOnDisk(NAMES, lambda number: array[number])


@pytest.mark.parametrize(
    "which",
    [3, -1, slice(None), slice(1, 4, 2), np.array([3, 0, 3]), np.arange(5) % 2 == 0],
    ids=str,
)
def test_every_way_to_index_an_array_gives_the_same(which):
    assert np.array_equal(on_disk()[which], ARRAY[which])


def test_the_whole_is_the_array():
    images = on_disk()
    assert (len(images), images.shape, images.dtype) == (5, ARRAY.shape, ARRAY.dtype)
    assert np.array_equal(np.asarray(images), ARRAY)
    assert np.array_equal(np.stack(list(images)), ARRAY)
    assert TrainingImages(images, None, (), {}, NAMES).fingerprint() == (
        TrainingImages(ARRAY, None, (), {}, NAMES).fingerprint()
    )


def test_only_what_is_asked_for_is_read():
    read = []
    images = ImagesOnDisk(NAMES, lambda number: read.append(number) or ARRAY[number])
    images[np.array([4, 2])]
    assert read == [0, 4, 2]


def test_images_that_are_not_square_are_refused():
    with pytest.raises(BadInput, match="a is 2x3 2 channels, not square"):
        on_disk(ARRAY[..., :2])


def test_an_image_of_another_shape_is_refused_when_it_is_read():
    odd = [*ARRAY[:4], ARRAY[4, :1]]
    images = ImagesOnDisk(NAMES, lambda number: odd[number])
    with pytest.raises(BadInput, match="a is 3x3 2 channels, but e is 3x3 grey"):
        images[4]
