"""The picture shows the pairs nearest to the threshold, each on its side."""

import io

import numpy as np
from PIL import Image

from ensemble.data import near_duplicates


def picture(distances, threshold):
    """Ten pairs: image 2k is black, image 2k + 1 white, drawn."""
    images = np.ones((20, 1, 8, 8), dtype=np.float32)
    images[::2] = -1
    pairs = np.arange(20).reshape(10, 2)
    png = near_duplicates.draw_threshold_plot(
        images, pairs, np.asarray(distances, dtype=np.float32), threshold
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))


def black_tiles(pixels):
    """How many tiles of 64 rows of 64 black pixels are in the left and right half."""
    halves = np.split(pixels, 2, axis=1)
    return [int(((half < 10).sum(axis=1) >= 64).sum()) // 64 for half in halves]


def test_pairs_within_are_left_and_pairs_beyond_are_right():
    assert black_tiles(picture(np.linspace(0, 0.09, 10), 0.035)) == [4, 6]


def test_without_pairs_on_a_side_it_stays_empty():
    assert black_tiles(picture(np.linspace(0, 0.09, 10), 0.5)) == [10, 0]
