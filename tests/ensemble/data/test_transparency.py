"""A transparent shade is white at every number of bits, and nothing else is."""

import struct
import zlib

import numpy as np
import pytest

from ensemble.data import decoding
from ensemble.data.inventory import FIRST_RULES, RULES, Inventory
from ensemble.run.config import DataConfig
from splits.errors import BadInput

GREY, RGB, PALETTE, GREY_ALPHA = 0, 2, 3, 4


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width, bits, colour, row, transparent=None, *, turned=False):
    """A PNG file of one row, packed by hand: Pillow writes few of these kinds."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)),
            chunk(b"PLTE", bytes(range(48))) if colour == PALETTE else b"",
            chunk(b"tRNS", transparent) if transparent is not None else b"",
            chunk(b"eXIf", exif[6:]) if turned else b"",
            chunk(b"IDAT", zlib.compress(b"\0" + row)),
            chunk(b"IEND", b""),
        ]
    )


def shades(content, rules=RULES):
    image = decoding.decode(content, "x", DataConfig(), Inventory(rules))
    return np.rint((image + 1) * 127.5).astype(int)[:, 0].T.tolist()


def packed(bits, samples):
    text = "".join(f"{sample:0{bits}b}" for sample in samples)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("chosen", [0, 1, -1])
def test_one_shade_of_grey_is_white(bits, chosen):
    most = 2**bits - 1
    samples = [0, 1, most // 2, most]
    clear = samples[chosen]
    content = png(4, bits, GREY, packed(bits, samples), struct.pack(">H", clear))
    whole = [round(sample / most * 255) for sample in samples]
    expected = [
        255 if sample == clear else shade
        for sample, shade in zip(samples, whole, strict=True)
    ]
    assert shades(content) == [[shade] for shade in expected]
    opaque = png(4, bits, GREY, packed(bits, samples))
    assert shades(opaque) == [[shade] for shade in whole]


@pytest.mark.parametrize("turned", [False, True])
def test_one_colour_of_16_bits_is_white_only_if_all_bits_agree(turned):
    row = struct.pack(">9H", 256, 512, 768, 256, 512, 769, 9, 9, 9)
    clear = struct.pack(">3H", 256, 512, 768)
    expected = [[255, 255, 255], [1, 2, 3], [0, 0, 0]]
    found = shades(png(3, 16, RGB, row, clear, turned=turned))
    assert found == (expected[::-1] if turned else expected)


def test_one_colour_of_8_bits_is_white():
    content = png(2, 8, RGB, bytes([1, 2, 3, 1, 2, 4]), struct.pack(">3H", 1, 2, 3))
    assert shades(content) == [[255, 255, 255], [1, 2, 4]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_entries_of_a_palette_are_white_as_far_as_they_are_transparent(bits):
    row = packed(bits, [0, 1])
    assert shades(png(2, bits, PALETTE, row, bytes([0, 255]))) == [
        [255, 255, 255],
        [3, 4, 5],
    ]


def test_transparent_grey_of_16_bits_stays_grey():
    row = struct.pack(">4H", 30000, 65535, 30000, 0)
    assert shades(png(2, 16, GREY_ALPHA, row)) == [[117], [255]]


def test_version_0_1_is_read_as_it_read():
    row = struct.pack(">2H", 0, 30000)
    content = png(2, 16, GREY, row, struct.pack(">H", 0))
    assert shades(content, FIRST_RULES) == [[0], [117]]
    assert shades(content, RULES) == [[255], [117]]


def test_a_file_that_does_not_begin_with_its_header_is_refused():
    content = png(1, 8, GREY, b"\0")
    with pytest.raises(BadInput, match="does not begin with its header"):
        decoding.decode(
            content[:8] + chunk(b"tEXt", b"") + content[8:], "x", DataConfig()
        )
