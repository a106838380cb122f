"""Image decoding: from one image file to floats in [-1, 1], and back.

Grey images have one channel, all others three. Palettes are looked up, 16 bits become
8, the camera's orientation is applied, transparency is laid over white, and only the
first picture of an animation or of a file with several pages is read. Colour profiles
are not applied. Sizes change only if the config asks for it.
"""

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps
from tqdm import tqdm

from ensemble.data import transparency
from ensemble.data.inventory import FIRST_RULES, Inventory
from ensemble.run import files
from ensemble.run.config import DataConfig
from splits.errors import BadInput

# Pillow's names of the formats, by file ending; the first reading rules know fewer.
_FIRST = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
FORMATS = {
    **_FIRST,
    **dict.fromkeys((".jfif", ".jpe", ".jif", ".jfi"), "JPEG"),
    **{".apng": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".gif": "GIF"},
}
FORMATS_TEXT = "PNG, JPEG, WebP, TIFF, BMP or GIF"
FIRST_OF_SEVERAL = "of several pictures in a file the first is read"
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B")
_PILLOW_FORMATS = tuple(dict.fromkeys(FORMATS.values()))
# Tags of TIFF files.
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
# Larger images take more than a second and a gigabyte. The first limit is for images
# that keep their size, the second for images that are scaled down.
MOST_PIXELS, MOST_TO_SCALE = 2**24, 2**26


def endings(rules: int) -> tuple[str, ...]:
    """The endings of image files by the reading rules with this number.

    Examples:
        >>> endings(1)
        ('.png', '.jpg', '.jpeg', '.webp')
    """
    return tuple(_FIRST if rules == FIRST_RULES else FORMATS)


def decode(
    content: bytes, name: str, config: DataConfig, inventory: Inventory | None = None
) -> Float32[np.ndarray, "channels height width"]:
    """The pixels of an image file, in [-1, 1].

    With `config.size`, the largest square in the middle is cut out and scaled to that
    side (Lanczos).

    Args:
        content: The bytes of the file.
        name: Its name in error messages.
        config: The size and the number of channels to convert to.
        inventory: Gives the reading rules, and notes if the file holds several
            pictures.

    Raises:
        BadInput: If the file is damaged, of another format, has too many pixels, or
            values without a defined black and white.
    """
    inventory = inventory or Inventory()
    try:
        with Image.open(BytesIO(content), formats=_PILLOW_FORMATS) as image:
            _refuse_large(image, name, config)
            _refuse_unscaled(image, name)
            if _has_several_pictures(image):
                inventory.read_in_part(FIRST_OF_SEVERAL, name)
            ImageOps.exif_transpose(image, in_place=True)
            picture = _opaque_8_bit(image, config.channels, inventory, content)
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(
            f"There is not enough memory to read {name}, {len(content):,} bytes, as an "
            "image. Close other programs, or take a machine with more; if that does "
            "not help, look at whether the file is damaged."
        ) from None
    # Pillow's parsers can raise any exception if the bytes are not what they expect.
    except Exception as error:
        raise BadInput(
            f"{name} cannot be read as a {FORMATS_TEXT} image ({error}). Replace or "
            "remove it."
        ) from None
    if config.size is not None:
        picture = _square(picture, config.size)
    u8 = np.asarray(picture)
    channels_last = u8.reshape(*u8.shape[:2], -1)
    return from_u8(channels_last.transpose(2, 0, 1))


def decode_array(
    content: bytes, name: str, config: DataConfig
) -> Float32[np.ndarray, "channels height width"]:
    """The pixels in a .npy file, which holds them as floats in [-1, 1].

    Args:
        content: The bytes of the file.
        name: Its name in error messages.
        config: The size and the number of channels; the image must have these, since
            arrays are never converted.

    Raises:
        BadInput: If it is damaged, pickled, of another type or shape, has another size
            or number of channels than the config wants, or values beyond [-1, 1].
    """
    try:
        # Not np.load: it would also open an archive of arrays.
        image = np.lib.format.read_array(BytesIO(content), allow_pickle=False)
    except files.ARRAY_ERRORS as error:
        raise BadInput(
            f"{name} cannot be read as a .npy array ({error}). Write it with np.save "
            "and without pickled objects."
        ) from None
    floats = np.issubdtype(image.dtype, np.floating)
    if image.ndim != 3 or not image.size or not floats:
        raise BadInput(
            f"{name} is an array {image.shape} of {image.dtype}; floats (channels, "
            "height, width) in [-1, 1] are wanted. Convert it, or store it as PNG."
        )
    if not (np.abs(image) <= 1).all():
        raise BadInput(
            f"{name} has values from {image.min()} to {image.max()}; allowed: -1 "
            "(black) to 1 (white), no NaN. Rescale or remove it."
        )
    wanted = (config.channels or image.shape[0], config.size or image.shape[1])
    if wanted != image.shape[:2]:
        raise BadInput(
            f"{name} is an array {image.shape}, which is never converted, but the "
            f"config wants data.channels {config.channels} and data.size "
            f"{config.size}. Set both to null, or store images as PNG."
        )
    return image.astype(np.float32)


def stack(
    pixels: Iterable[Float32[np.ndarray, "..."]], names: tuple[str, ...]
) -> Float32[np.ndarray, "images channels height width"]:
    """Put all images into one array.

    Args:
        pixels: The images one after the other, each (channels, height, width).
        names: Their names in error messages; at least one.

    Raises:
        BadInput: If an image is not square, or two differ in shape.
    """
    remaining = iter(tqdm(pixels, "images", len(names), leave=False, disable=None))
    first = next(remaining)
    require_square(first.shape, names[0])
    images = np.empty((len(names), *first.shape), dtype=np.float32)
    images[0] = first
    for place, image in enumerate(remaining, start=1):
        require_alike(first.shape, names[0], image.shape, names[place])
        images[place] = image
    return images


def require_square(shape: tuple[int, ...], name: str) -> None:
    """Refuse an image that is not square.

    Args:
        shape: Its (channels, height, width).
        name: Its name in the message.

    Raises:
        BadInput: If height and width differ.
    """
    if shape[1] != shape[2]:
        raise BadInput(
            f"{name} is {_size_text(shape)}, not square. Set data.size: it cuts the "
            "middle out of each image and scales it to that side."
        )


def require_alike(
    first: tuple[int, ...], first_name: str, shape: tuple[int, ...], name: str
) -> None:
    """Refuse an image of another shape than the first.

    Raises:
        BadInput: If their (channels, height, width) differ.
    """
    if shape != first:
        raise BadInput(
            f"{first_name} is {_size_text(first)}, but {name} is {_size_text(shape)}. "
            "Images must agree: set data.size to scale them to one size, and "
            "data.channels to 1 (grey) or 3 (RGB)."
        )


def encode(
    image: Float32[np.ndarray, "channels height width"],
) -> tuple[str, bytes]:
    """Encode an image without loss, as a field of a shard.

    Returns:
        The field's name and content: `png` if all values are multiples of 1/127.5 and
        there are one or three channels, else `npy`.
    """
    file = BytesIO()
    u8 = np.rint((image + 1) * 127.5).astype(np.uint8)
    if len(image) in (1, 3) and np.array_equal(from_u8(u8), image):
        picture = u8[0] if len(image) == 1 else u8.transpose(1, 2, 0)
        Image.fromarray(picture).save(file, "PNG")
        return "png", file.getvalue()
    np.lib.format.write_array(file, image, allow_pickle=False)
    return "npy", file.getvalue()


def from_u8(u8: UInt8[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Bytes 0 to 255 as floats -1 to 1.

    Examples:
        >>> from_u8(np.array([0, 255], dtype=np.uint8)).tolist()
        [-1.0, 1.0]
    """
    return u8.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _opaque_8_bit(
    image: Image.Image, channels: int | None, inventory: Inventory, content: bytes
) -> Image.Image:
    """The image with 8 bits, without transparency, and grey or RGB."""
    grey = image.mode in _GREY
    if inventory.strict and image.format == "PNG":
        # Pillow has no mode for 16 bits of grey with transparency.
        grey = grey or transparency.is_grey(content)
        clear = transparency.clear_pixels(image, content)
    else:
        clear = None
    image = _eight_bits(image)
    if clear is not None:
        image.paste("white", mask=clear)
    elif "A" in image.getbands() or "transparency" in image.info:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), opaque)
    return image.convert({None: "L" if grey else "RGB", 1: "L", 3: "RGB"}[channels])


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 16 bits scaled to 8; an image of 8 bits is returned unchanged."""
    if not image.mode.startswith("I"):
        return image
    # Pillow's own conversion cuts 16 bits off at 255 instead of scaling them.
    u8 = np.rint(np.asarray(image) / 257).astype(np.uint8)
    # Pillow inverts white-is-zero images of 8 bits, but not those of 16.
    inverted = _tags(image).get(_PHOTOMETRIC) == 0
    return Image.fromarray(255 - u8 if inverted else u8)


def _refuse_unscaled(image: Image.Image, name: str) -> None:
    """Refuse floats, 32-bit and 12-bit values, whose white level is not defined."""
    bits = max(_tags(image).get(_BITS_PER_SAMPLE, (1,)))
    unscaled = image.mode == "F" or (image.mode == "I" and image.format != "PNG")
    if unscaled or bits not in (1, 2, 4, 8, 16):
        raise BadInput(
            f"{name} holds numbers of {bits} bits (Pillow's mode {image.mode}), and "
            "nothing says which of them is black and which is white. Save it with 8 or "
            "16 bits, from 0 to the greatest."
        )


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF file; an image of another format has none."""
    return getattr(image, "tag_v2", {})


def _has_several_pictures(image: Image.Image) -> bool:
    """Whether a file holds more than the first picture."""
    if image.format != "TIFF":
        return bool(getattr(image, "is_animated", False))
    # Not n_frames, which looks at every page: a short file can have a million.
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True


def _refuse_large(image: Image.Image, name: str, config: DataConfig) -> None:
    allowed = MOST_PIXELS if config.size is None else MOST_TO_SCALE
    if image.width * image.height > allowed:
        raise BadInput(
            f"{name} is {image.width}x{image.height}; allowed: {allowed:,} pixels, with "
            f"data.size {MOST_TO_SCALE:,}. Scale it down, or set data.size."
        )


def _square(image: Image.Image, side: int) -> Image.Image:
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    middle = image.crop((left, top, left + shorter, top + shorter))
    return middle.resize((side, side), Image.Resampling.LANCZOS)


def _size_text(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    mode = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    return f"{width}x{height} {mode}"
