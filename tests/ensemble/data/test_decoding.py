"""Pixels: what a file says is what a member sees, or it is refused by name."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from ensemble.data import decoding
from ensemble.data.inventory import Inventory
from ensemble.run.config import DataConfig
from splits.errors import BadInput

AS_IS = DataConfig()
GREY = np.random.default_rng(0).integers(0, 256, (6, 6), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)


def png(array, **options):
    return encoded(Image.fromarray(array), "PNG", **options)


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def flat(shade, *shape):
    return decoding.from_u8(np.full(shape, shade, dtype=np.uint8))


def decode(content, **settings):
    return decoding.decode(content, "x.png", DataConfig(**settings))


def decode_array(array, **settings):
    return decoding.decode_array(npy(array), "x.npy", DataConfig(**settings))


def test_bytes_0_to_255_are_floats_minus_one_to_one():
    floats = decoding.from_u8(np.arange(256, dtype=np.uint8))
    assert floats[0] == -1
    assert floats[255] == 1
    assert np.allclose(floats, np.arange(256) / 127.5 - 1, rtol=0, atol=1e-7)


def test_a_grey_image_has_one_channel():
    assert np.array_equal(decode(png(GREY)), decoding.from_u8(GREY)[None])


def test_a_colour_image_has_its_channels_first():
    expected = decoding.from_u8(COLOUR).transpose(2, 0, 1)
    assert np.array_equal(decode(png(COLOUR)), expected)


def test_grey_asked_for_as_rgb_is_three_equal_channels():
    image = decode(png(GREY), channels=3)
    assert np.array_equal(image, np.repeat(decoding.from_u8(GREY)[None], 3, axis=0))


def test_rgb_asked_for_as_grey_has_one_channel_of_luminance():
    red = np.zeros((2, 2, 3), dtype=np.uint8)
    red[..., 0] = 255
    assert np.array_equal(decode(png(red), channels=1), flat(76, 1, 2, 2))


def test_lossless_webp_equals_png():
    webp = encoded(Image.fromarray(COLOUR), "WEBP", lossless=True)
    assert np.array_equal(decode(webp), decode(png(COLOUR)))


@pytest.mark.parametrize(
    ("form", "options"),
    [("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_other_formats_without_loss_equal_png(form, options):
    for array in (GREY, COLOUR):
        content = encoded(Image.fromarray(array), form, **options)
        assert np.array_equal(decode(content), decode(png(array)))


def test_a_gif_is_looked_up_and_its_transparent_entry_lies_over_white():
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([255, 0, 0])
    red = decode(encoded(palette, "GIF"))
    assert np.array_equal(red[:, 0, 0], [1, -1, -1])
    clear = decode(encoded(palette, "GIF", transparency=0))
    assert np.array_equal(clear, np.ones((3, 2, 2)))


def test_cyan_magenta_yellow_and_black_become_rgb():
    red = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    for form in ("TIFF", "JPEG"):
        assert np.allclose(decode(encoded(red, form))[:, 0, 0], [1, -1, -1], atol=0.02)


def test_of_several_pictures_the_first_counts_and_the_file_is_named():
    others = [Image.fromarray(255 - GREY), Image.fromarray(GREY.T.copy())]
    for form in ("TIFF", "PNG", "GIF"):
        content = encoded(
            Image.fromarray(GREY), form, save_all=True, append_images=others
        )
        inventory = Inventory()
        one = DataConfig(channels=1)
        found = decoding.decode(content, "x", one, inventory)
        assert np.array_equal(found, decode(png(GREY)))
        assert inventory.in_part == {decoding.FIRST_OF_SEVERAL: {"x"}}


def test_of_a_file_with_one_picture_nothing_is_left_out():
    for form in ("TIFF", "PNG", "GIF", "BMP", "JPEG", "WEBP"):
        inventory = Inventory()
        decoding.decode(encoded(Image.fromarray(GREY), form), "x", AS_IS, inventory)
        assert inventory.in_part == {}


def test_the_orientation_of_a_tiff_file_is_applied_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode(encoded(Image.fromarray(GREY), "TIFF", exif=exif))
    assert np.array_equal(image[0], np.rot90(decode(png(GREY))[0], k=-1))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_without_a_white_are_refused(dtype):
    content = encoded(Image.fromarray(np.ones((2, 2), dtype)), "TIFF")
    with pytest.raises(BadInput, match=r"x\.png holds numbers of 32 bits"):
        decode(content)


def tiff(bits, photometric, *shades):
    """One row of pixels that fill 8 or 16 bits each."""
    data = b"".join(struct.pack("<H" if bits > 8 else "B", shade) for shade in shades)
    tags = {256: len(shades), 257: 1, 258: bits, 259: 1, 262: photometric, 273: 122}
    tags |= {277: 1, 278: 1, 279: len(data)}
    entries = [struct.pack("<HHIHH", tag, 3, 1, at, 0) for tag, at in tags.items()]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(entries) + bytes(4) + data


@pytest.mark.parametrize(("bits", "most"), [(8, 255), (16, 65535)])
def test_white_may_be_zero_in_a_tiff_file(bits, most):
    for photometric, expected in ((0, 1), (1, -1)):
        assert decode(tiff(bits, photometric, 0, 0, 0), size=1) == expected
        assert decode(tiff(bits, photometric, most), size=1) == -expected


def test_twelve_bits_are_refused():
    with pytest.raises(BadInput, match="holds numbers of 12 bits"):
        decode(tiff(12, 1, 0))


def test_too_little_memory_does_not_condemn_the_file(monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(ImageOps, "exif_transpose", full)
    with pytest.raises(BadInput, match=r"not enough memory to read x\.png") as caught:
        decode(png(GREY))
    assert "remove" not in str(caught.value)


def test_a_flat_jpeg_is_flat():
    jpeg = encoded(Image.new("RGB", (8, 8), (200, 200, 200)), "JPEG")
    assert np.array_equal(decode(jpeg), flat(200, 3, 8, 8))


def test_a_palette_is_looked_up():
    palette = Image.fromarray(COLOUR).quantize(colors=64)
    expected = decoding.from_u8(np.asarray(palette.convert("RGB"))).transpose(2, 0, 1)
    assert np.array_equal(decode(encoded(palette, "PNG")), expected)


def test_black_and_white_is_grey():
    bits = GREY > 127
    image = decode(encoded(Image.fromarray(bits), "PNG"))
    assert np.array_equal(image, np.where(bits, 1, -1)[None])


def test_sixteen_bits_are_scaled_not_cut_off():
    deep = GREY.astype(np.uint16) * 257
    assert np.array_equal(decode(png(deep)), decode(png(GREY)))


@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_transparency_lies_over_white(alpha):
    array = np.zeros((2, 2, 4), dtype=np.uint8)
    array[..., 3] = alpha
    image = decode(png(array))
    assert np.array_equal(image, flat(255 - alpha, 3, 2, 2))


def test_transparent_grey_stays_grey():
    array = np.stack([GREY, np.full_like(GREY, 255)], axis=-1)
    image = decode(encoded(Image.fromarray(array, "LA"), "PNG"))
    assert np.array_equal(image, decode(png(GREY)))


def test_a_transparent_palette_entry_lies_over_white():
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([255, 0, 0])
    image = decode(encoded(palette, "PNG", transparency=0))
    assert np.array_equal(image, np.ones((3, 2, 2)))


def test_the_cameras_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise to set it upright
    image = decode(png(GREY, exif=exif))
    assert np.array_equal(image[0], np.rot90(decode(png(GREY))[0], k=-1))


def test_the_size_that_an_image_has_changes_nothing():
    assert np.array_equal(decode(png(COLOUR), size=6), decode(png(COLOUR)))


def test_size_keeps_the_square_in_the_middle():
    wide = np.concatenate([np.zeros_like(GREY), GREY, np.zeros_like(GREY)], axis=1)
    assert np.array_equal(decode(png(wide), size=6), decode(png(GREY)))
    tall = np.ascontiguousarray(wide.T)
    assert np.array_equal(decode(png(tall), size=6), decode(png(GREY.T.copy())))


def test_scaling_a_flat_image_keeps_it_flat():
    image = decode(png(np.full((9, 7), 90, dtype=np.uint8)), size=4)
    assert np.array_equal(image, flat(90, 1, 4, 4))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        png(COLOUR)[:60],
        encoded(Image.fromarray(COLOUR), "JPEG")[:-40],
        encoded(Image.fromarray(COLOUR), "PPM"),
        encoded(Image.fromarray(COLOUR), "TIFF")[:60],
        encoded(Image.fromarray(COLOUR), "BMP")[:60],
        encoded(Image.fromarray(COLOUR), "GIF")[:60],
    ],
)
def test_what_cannot_be_decoded_is_refused_by_name(content):
    with pytest.raises(
        BadInput, match=r"x\.png cannot be read as a PNG, JPEG, WebP, T"
    ):
        decode(content)


@pytest.mark.parametrize("limit", [20, 30])
def test_a_decompression_bomb_is_refused(monkeypatch, limit):
    # Pillow itself only warns between the limit and twice the limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(BadInput, match=r"x\.png cannot be read .*decompression bomb"):
        decode(png(GREY if limit == 30 else np.zeros((9, 9), dtype=np.uint8)))


def test_an_array_is_taken_as_it_is():
    floats = np.linspace(-1, 1, 12).reshape(3, 2, 2)
    image = decode_array(floats, size=2, channels=3)
    assert np.array_equal(image, floats.astype(np.float32))


def test_a_pickled_array_is_refused():
    content = npy(np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match=r"x\.npy cannot be read as a \.npy array"):
        decoding.decode_array(content, "x.npy", AS_IS)


def test_an_array_cut_short_is_refused():
    content = npy(np.zeros((1, 4, 4)))[:-8]
    with pytest.raises(BadInput, match=r"x\.npy cannot be read as a \.npy array"):
        decoding.decode_array(content, "x.npy", AS_IS)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2)),
        np.zeros((1, 2, 2), dtype=np.uint8),
        np.zeros((1, 2, 2), dtype=complex),
        np.zeros((0, 2, 2)),
    ],
)
def test_an_array_that_is_no_float_image_is_refused(array):
    with pytest.raises(BadInput, match=r"x\.npy is an array .*floats .* are wanted"):
        decode_array(array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.001, 255.0])
def test_values_beyond_one_and_nan_are_refused(value):
    array = np.zeros((1, 2, 2))
    array[0, 1, 1] = value
    with pytest.raises(BadInput, match=r"x\.npy has values from .* no NaN"):
        decode_array(array)


@pytest.mark.parametrize("settings", [{"size": 8}, {"channels": 3}])
def test_an_array_is_never_converted(settings):
    with pytest.raises(BadInput, match=r"x\.npy .* never converted"):
        decode_array(np.zeros((1, 2, 2)), **settings)


def test_stacked_images_are_the_images():
    images = np.random.default_rng(0).normal(size=(3, 1, 2, 2)).astype(np.float32)
    assert np.array_equal(decoding.stack(iter(images), ("a", "b", "c")), images)


def test_an_oblong_image_is_refused_with_the_remedy():
    with pytest.raises(BadInput, match=r"a is 3x2 RGB, not square\. Set data\.size"):
        decoding.stack([np.zeros((3, 2, 3), dtype=np.float32)], ("a",))


@pytest.mark.parametrize(
    ("shape", "spelled"),
    [((1, 3, 3), "3x3 grey"), ((3, 2, 2), "2x2 RGB"), ((4, 2, 2), "2x2 4 channels")],
)
def test_images_that_differ_are_refused_with_both_names(shape, spelled):
    images = [np.zeros((1, 2, 2), dtype=np.float32), np.zeros(shape, dtype=np.float32)]
    message = f"a is 2x2 grey, but b is {spelled}.*data.size .*data.channels"
    with pytest.raises(BadInput, match=message):
        decoding.stack(images, ("a", "b"))


@pytest.mark.parametrize("channels", [1, 3])
def test_all_bytes_survive_as_png(channels):
    u8 = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(channels, axis=0)
    field, content = decoding.encode(decoding.from_u8(u8))
    assert field == "png"
    assert np.array_equal(decode(content), decoding.from_u8(u8))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_other_floats_survive_as_npy(channels):
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (channels, 4, 4)).astype(np.float32)
    field, content = decoding.encode(image)
    assert field == "npy"
    assert np.array_equal(decoding.decode_array(content, "x.npy", AS_IS), image)


def test_two_channels_of_bytes_are_no_png():
    assert decoding.encode(np.ones((2, 4, 4), dtype=np.float32))[0] == "npy"


def test_an_archive_of_arrays_is_no_array():
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros((1, 2, 2), np.float32))
    with pytest.raises(BadInput, match=r"cannot be read as a \.npy array"):
        decoding.decode_array(file.getvalue(), "x.npy", AS_IS)


@pytest.mark.parametrize("shape", ["(1, 2, 9" + "0" * 9 + ")", "(1, -2, -2)", "(1,)"])
def test_a_header_that_asks_for_more_than_there_is_is_refused(shape):
    content = npy(np.zeros((1, 2, 2), np.float32)).replace(b"(1, 2, 2)", shape.encode())
    with pytest.raises(BadInput, match=r"x\.npy"):
        decoding.decode_array(content, "x.npy", AS_IS)


def test_a_picture_that_unpacks_to_far_more_is_refused():
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 2**17
    with pytest.raises(BadInput, match="bomb"):
        decode(bomb)


@pytest.mark.parametrize("size", [None, 2])
def test_a_picture_with_too_many_pixels_is_refused_before_it_is_unpacked(size):
    side = 4097 if size is None else 8193
    with pytest.raises(BadInput, match=f"x.png is {side}x{side}; allowed: .*data.size"):
        decode(encoded(Image.new("1", (side, side)), "PNG"), size=size)


def test_whatever_a_parser_stumbles_over_is_refused_by_name(monkeypatch):
    def stumble(*_, **__):
        raise IndexError("index out of range")

    monkeypatch.setattr(ImageOps, "exif_transpose", stumble)
    with pytest.raises(BadInput, match=r"x\.png cannot be read .*index out of range"):
        decode(png(GREY))
