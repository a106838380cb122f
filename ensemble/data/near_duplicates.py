"""A picture of the pairs of images on both sides of the near-duplicate threshold.

A threshold is right if the left half shows the same picture twice, and the right half
shows two pictures. Look at it before training.
"""

import io

import numpy as np
from jaxtyping import Float32, Int64
from PIL import Image, ImageDraw

from ensemble.data.datasets import Images

_TILE = 64
_GAP = 8
_LINE = 16
_ROWS = 12
_WIDTH = 2 * _TILE + 3 * _GAP


def draw_threshold_plot(
    images: Images,
    pairs: Int64[np.ndarray, "pairs two"],
    distances: Float32[np.ndarray, " pairs"],
    threshold: float,
) -> bytes:
    """Draw the pairs just within the threshold (left) and just beyond it (right).

    Args:
        images: Images in [-1, 1].
        pairs: Indices of two images each, sorted by distance.
        distances: The distance of each pair.
        threshold: Greatest distance of near-duplicates.

    Returns:
        The content of a PNG file.
    """
    n_within = int(np.searchsorted(distances, threshold, side="right"))
    within = range(n_within - 1, max(-1, n_within - 1 - _ROWS), -1)
    beyond = range(n_within, min(len(pairs), n_within + _ROWS))
    height = _ROWS * (_TILE + _LINE + _GAP) + _LINE + _GAP
    canvas = Image.new("RGB", (2 * _WIDTH, height), "white")
    pen = ImageDraw.Draw(canvas)
    titles = (f"one source: <= {threshold:g}", f"two: > {threshold:g}")
    for side, (title, places) in enumerate(zip(titles, (within, beyond), strict=True)):
        left = side * _WIDTH + _GAP
        pen.text((left, _GAP // 2), title, "black")
        for row, place in enumerate(places):
            top = _LINE + _GAP + row * (_TILE + _LINE + _GAP)
            for at, image in enumerate(pairs[place]):
                spot = (left + at * (_TILE + _GAP), top)
                canvas.paste(_tile(images[image]), spot)
            first, second = pairs[place]
            caption = f"{first}, {second}: {distances[place]:.4f}"
            pen.text((left, top + _TILE), caption, "black")
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def _tile(image: Float32[np.ndarray, "channels height width"]) -> Image.Image:
    u8 = np.rint((image + 1) * 127.5).astype(np.uint8)
    channels = u8 if len(u8) == 3 else np.repeat(u8[:1], 3, axis=0)
    picture = Image.fromarray(channels.transpose(1, 2, 0))
    return picture.resize((_TILE, _TILE), Image.Resampling.NEAREST)
