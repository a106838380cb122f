"""Transparent shades and colours of PNG files of every bit depth.

A PNG file without an alpha channel may name one shade of grey, or one colour, that is
transparent, in samples of the file's own bit depth (chunk tRNS). Pillow compares it
with samples that it has already scaled to 8 bits, so it misses the transparent pixels
of files with any other bit depth.
"""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps

_GREY, _RGB, _GREY_ALPHA = 0, 2, 4


def is_grey(content: bytes) -> bool:
    """Whether a PNG file has shades of grey, with transparency or without."""
    return _header(content)[1] in (_GREY, _GREY_ALPHA)


def clear_pixels(image: Image.Image, content: bytes) -> Image.Image | None:
    """The pixels of the transparent shade or colour, as a mask of mode `1`.

    Args:
        image: The opened PNG file, turned upright, with the bit depth that Pillow gives.
        content: The bytes of the same file.

    Returns:
        None if the file names no transparent colour, or if Pillow itself handles it.
    """
    named = image.info.get("transparency")
    bits, colour = _header(content)
    if named is None or colour not in (_GREY, _RGB) or (colour == _RGB and bits == 8):
        return None
    if colour == _GREY:
        samples = np.asarray(image).astype(np.int64)
        if bits < 8:
            # Pillow has scaled the samples to 0 to 255, or to False and True.
            named = (named & (2**bits - 1)) * (1 if bits == 1 else 255 // (2**bits - 1))
        clear = samples == (named & (2 ** max(bits, 8) - 1))
    else:
        clear = (_deep_colours(image, content) == np.array(named)).all(axis=2)
    return Image.fromarray(clear)


def _header(content: bytes) -> tuple[int, int]:
    """The bit depth and the colour type in the header of a PNG file."""
    if content[12:16] != b"IHDR":
        raise ValueError("it does not begin with its header, the chunk IHDR")
    return content[24], content[25]


def _deep_colours(image: Image.Image, content: bytes) -> np.ndarray:
    """All 16 bits of each colour, of which Pillow keeps the higher 8."""
    with Image.open(BytesIO(content), formats=("PNG",)) as low:
        # If the bytes are taken for little-endian, Pillow keeps the lower 8 bits.
        tiles: Any = low.tile
        tiles[:] = [(tile[0], tile[1], tile[2], "RGB;16L") for tile in tiles]
        ImageOps.exif_transpose(low, in_place=True)
        lower = np.asarray(low).astype(np.int64)
    return np.asarray(image).astype(np.int64) * 256 + lower
