"""Fuzzing: whatever bytes come in, a reader reads them or refuses them in one message.

    python -m benchmarks.robustness.fuzz [INPUTS] [--seed S]

Valid inputs of every reader are mutated: bits, bytes, spans, splices, words of the
format; checksums are put right half of the time, so that what lies behind them is
reached too. A reader may return or raise BadInput. Everything else is recorded with the
input that caused it: any other exception, and more than a second of processor time.
"""

import argparse
import io
import json
import os
import random
import signal
import struct
import tarfile
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DDIMScheduler
from diffusers.utils import logging
from PIL import Image

from benchmarks import record
from ensemble.data import datasets, decoding, shard_reader
from ensemble.models import safe_loading
from ensemble.run import config_file, files, folder, query_names
from ensemble.run.config import DataConfig
from ensemble.system import environment
from splits import sources
from splits.errors import BadInput
from splits.naming import SourceNames

# Longer than this is a hang.
MOST_SECONDS = 1.0
CONFIGS = [
    b"run: runs/a\ndata: {kind: folder, path: photos, size: 32, source: artist}\n",
    b"run: 'r'\nsplits:\n  n_members: 8\n  weight: 4\ntraining: {learning_rate: 1.0e-3}\n",
    b"run: r\nmodel:\n  block_out_channels: [16, 32]\n  dropout: 0.1\n# end\n",
]
# What stands between the two files of a pipeline that are mutated together.
BETWEEN = b"\n---\n"
# Words of each format, spaces between them.
WORDS = {
    "config": b"&a *a !!python/object:os.system !!int << ~ .inf .nan 0x 1:1:1 - ? : [ ] { } |"
    b" > ' \" # %YAML --- ... \t \n \r\n \0 \xff \xc2\x85 \xef\xbb\xbf null true 1e9 2024-02-31"
    b" run: data: =",
    "codes": b"<f8 |O >i2 |b1 'shape' (3,) (-1,) 99999999999 True False { } ( ) , None L j",
    "array": b"<f4 |O >f2 <c8 'shape' (1,2,2) (-1,) 9999999999 True { } ( ) , nan \x93NUMPY PK\x03\x04",
    "image": b"IHDR PLTE tRNS IDAT IEND acTL eXIf iCCP tEXt zTXt gAMA \xff\xd8 \xff\xe1 \xff\xc4 RIFF"
    b" WEBP VP8L ALPH ANIM II*\0 MM\0* BM GIF89a JFIF II*\0 MM\0* \x02\x01\x03\0 \x06\x01 \x11\x01 GIF89a BM \xff\xff\xff\xff \0\0\0\0 \x7f\xff\xff\xff",
    "shard": b"../ / ustar\x0000 0 1 2 5 6 x g L K S X 77777777777 \x80\0\0\0 \xff\xff\xff\xff .png .json"
    b" .cls __key__ .. \0 path= size= GNU.sparse.major=1\n",
    "table": b'file_name artist a.png ./a.png ../a.png "" , ; \t \r\n \n\n \0 \xff \xef\xbb\xbf { } [ ]'
    b' : " "" \\ \\ud800 NaN 1e999 null true "file_name": caf\xc3\xa9.png cafe\xcc\x81.png',
    "names": b'number: name: owner: 7 07 -1 1e3 99999999999999999999 , ,, " "" \' \0 \xff \xc2\xa0'
    b" \xe2\x80\xae .. / \\ .part caf\xc3\xa9 cafe\xcc\x81 \xef\xbc\x97 \xc2\xb2",
    "pipeline": b"EnsemblePipeline diffusers DDIMScheduler DDPMScheduler EulerDiscreteScheduler evil"
    b" ensemble.model EnsembleModel members scheduler _class_name _diffusers_version [ ] { } null true"
    b" 1e999 NaN -1 0 99999999999 num_train_timesteps trained_betas beta_schedule UNet2DModel",
}


@dataclass(frozen=True)
class Reader:
    """Something that reads what may come from anywhere.

    Attributes:
        read: Reads an input.
        valid: Inputs that it takes.
        mend: Puts checksums right.
        share: Share of all inputs that it gets: the slower, the fewer.
    """

    read: Callable[[bytes], object]
    valid: Callable[[], list[bytes]]
    mend: Callable[[bytes], bytes]
    share: float


def configs_of() -> list[bytes]:
    return CONFIGS


def arrays() -> list[bytes]:
    """Pictures as .npy files."""
    rng = np.random.default_rng(0)
    return [
        npy(rng.uniform(-1, 1, (channels, 2, 2)).astype(kind))
        for channels, kind in ((1, "<f4"), (3, "<f8"), (1, ">f2"))
    ]


def code_books() -> list[bytes]:
    # No split is empty.
    shapes = ((6, 4), (1, 1), (9, 3))
    return [npy(np.add.outer(np.arange(n), np.arange(m)) % n < 2) for n, m in shapes]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def images() -> list[bytes]:
    """Small pictures of every format and of many modes."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (5, 7), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [
        *((colour.convert(mode), "PNG", {}) for mode in ("1", "L", "LA", "P", "RGBA")),
        (deep, "PNG", {}),
        (colour, "PNG", {"exif": exif, "pnginfo": None}),
        (colour, "JPEG", {"exif": exif}),
        (colour, "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "WEBP", {"lossless": True}),
        (colour.convert("RGBA"), "WEBP", {"exif": exif}),
        (colour, "TIFF", {}),
        (deep, "TIFF", {}),
        (colour, "BMP", {}),
        (colour, "GIF", {}),
        (colour.convert("L"), "PNG", {"transparency": 7}),
        (deep, "PNG", {"transparency": 7}),
        (colour, "TIFF", {"exif": exif}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (colour, "TIFF", {"save_all": True, "append_images": [colour]}),
        (deep, "TIFF", {}),
        (colour, "BMP", {}),
        (colour, "GIF", {}),
        (colour.convert("P"), "GIF", {"save_all": True, "append_images": [colour]}),
    ]
    return [encoded(picture, form, **options) for picture, form, options in made]


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def archives() -> list[bytes]:
    """Shards of two samples, in every way in which they may be packed."""
    picture = encoded(Image.new("L", (2, 2)), "PNG")
    fields = {
        "000.png": picture,
        "000.json": b'{"artist": "a"}',
        "001.png": picture,
        "001.json": b'{"artist": null}',
    }
    forms = [
        ("w", tarfile.USTAR_FORMAT),
        ("w", tarfile.GNU_FORMAT),
        ("w", tarfile.PAX_FORMAT),
        ("w:gz", tarfile.PAX_FORMAT),
        ("w:xz", tarfile.PAX_FORMAT),
    ]
    found = []
    for mode, form in forms:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode, format=form) as tar:
            for name, content in fields.items():
                long = "d" * 120 + "/" if form != tarfile.USTAR_FORMAT else ""
                member = tarfile.TarInfo(long + name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        content = file.getvalue()
        if mode == "w":
            # Half of a block of zeros is enough of an end to mutate.
            content = content.rstrip(b"\0") + bytes(1024 + 512)
        found.append(content)
    return found


def tables() -> list[bytes]:
    """Metadata of two pictures, as CSV and as JSON lines."""
    return [
        b"file_name,artist,year\na.png,Eve,1999\nb.png,Adam,2001\n",
        b'file_name,artist\r\n"a.png","Eve, the first"\r\nb.png,Adam\r\n\r\n',
        b'{"file_name": "a.png", "artist": "Eve"}\n{"file_name": "b.png", "artist": 3}\n',
        b'\n{"artist": "Adam", "file_name": "b.png"}\n{"artist": [1], "file_name": "a.png"}',
    ]


def names() -> list[bytes]:
    """What people may write for sources, and call their queries."""
    return [b"3", b"name:7,number:2", "\xf6".encode(), b'"b, c",owner:studio', b"demo"]


def pipelines() -> list[bytes]:
    """A pipeline's index and its scheduler's config, a line of dashes between them."""
    index = {
        "_class_name": "EnsemblePipeline",
        "_diffusers_version": "0.42.1",
        "members": ["ensemble.models.ensemble_model", "EnsembleModel"],
        "num_inference_steps": 12,
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    configs = [DDIMScheduler(num_train_timesteps=20).config, {"trained_betas": [0.1]}]
    return [
        json.dumps(index).encode() + BETWEEN + json.dumps(dict(config)).encode()
        for config in configs
    ]


def as_it_is(content: bytes) -> bytes:
    return content


def mended_png(content: bytes) -> bytes:
    """A PNG file whose chunks have the checksums that they should have."""
    if not content.startswith(b"\x89PNG"):
        return content
    found, place = [content[:8]], 8
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        body = content[place + 4 : place + 8 + length]
        found.append(content[place : place + 4] + body)
        found.append(struct.pack(">I", zlib.crc32(body)))
        place += 12 + length
    return b"".join(found)


def mended_tar(content: bytes) -> bytes:
    """A tar file in which every block that looks like a header has its checksum."""
    blocks = bytearray(content)
    for place in range(0, len(blocks) - 511, 512):
        if blocks[place + 257 : place + 262] == b"ustar":
            blocks[place + 148 : place + 156] = b" " * 8
            total = sum(blocks[place : place + 512])
            blocks[place + 148 : place + 156] = b"%06o\0 " % total
    return bytes(blocks)


def written(content: bytes) -> Path:
    """The input as a file; always the same one."""
    path = Path(tempfile.gettempdir(), f"fuzz-{os.getpid()}.tar")
    path.write_bytes(content)
    return path


def read_config(content: bytes) -> object:
    return config_file.load(written(content))


def read_codes(content: bytes) -> object:
    return folder.read_codes(written(content))


def read_array(content: bytes) -> object:
    return decoding.decode_array(content, "x", DataConfig())


def read_image(content: bytes) -> object:
    return decoding.decode(content, "x", DataConfig())


def read_shard(content: bytes) -> object:
    return shard_reader.read(DataConfig(kind="shards", path=str(written(content))))


def read_table(content: bytes) -> object:
    """A folder of two pictures with this table, grouped by artist."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.png", "b.png"):
            Path(folder, name).write_bytes(PICTURE)
        kind = "jsonl" if content.lstrip().startswith(b"{") else "csv"
        Path(folder, f"metadata.{kind}").write_bytes(content)
        found = datasets.load(DataConfig(kind="folder", path=folder, source="artist"))
        _, named = sources.assign("artist", found.names, found.columns)
        files.write_json(Path(folder, "sources.json"), {"names": named})
    return named


def read_names(content: bytes) -> object:
    """Sources by what somebody wrote, and a name for queries."""
    text = os.fsdecode(content)
    known = ["a", "7", "b, c", "\xf6", "5"]
    try:
        chosen = SourceNames(5, known, {"studio": [1, 2]}).chosen(text, "--sources")
    except BadInput:
        return query_names.checked(text)
    assert all(0 <= source < len(known) for source in chosen)
    return chosen


def read_pipeline(content: bytes) -> object:
    """The parts of a pipeline that a folder may choose."""
    index, _, scheduler = content.partition(BETWEEN)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, safe_loading.INDEX).write_bytes(index)
        Path(folder, safe_loading.SCHEDULER).parent.mkdir()
        Path(folder, safe_loading.SCHEDULER).write_bytes(scheduler)
        found = safe_loading.read_index(Path(folder), {"EnsemblePipeline"})
        return safe_loading.read_scheduler(Path(folder), found)


PICTURE = encoded(Image.new("L", (2, 2)), "PNG")
READERS = {
    "config": Reader(read_config, configs_of, as_it_is, 0.1),
    "codes": Reader(read_codes, code_books, as_it_is, 0.2),
    "array": Reader(read_array, arrays, as_it_is, 0.25),
    "image": Reader(read_image, images, mended_png, 0.35),
    "shard": Reader(read_shard, archives, mended_tar, 0.1),
    "table": Reader(read_table, tables, as_it_is, 0.02),
    "names": Reader(read_names, names, as_it_is, 0.1),
    "pipeline": Reader(read_pipeline, pipelines, as_it_is, 0.03),
}


def mutated(rng: random.Random, valid: list[bytes], words: list[bytes]) -> bytes:
    """A valid input after a few accidents, most often one."""
    content = bytearray(rng.choice(valid))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        first = rng.randrange(len(content) + 1)
        last = min(len(content), first + rng.choice((1, 2, 4, 16, 64)))
        match rng.randrange(8):
            case 0 if first < len(content):
                content[first] ^= 1 << rng.randrange(8)
            case 1 if first < len(content):
                content[first] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                del content[first:last]
            case 3:
                content[first:first] = content[first:last] * rng.randrange(1, 5)
            case 4:
                content[first:first] = rng.choice(words)
            case 5:
                word = rng.choice(words)
                content[first : first + len(word)] = word
            case 6:
                other = rng.choice(valid)
                content[first:] = other[min(first, rng.randrange(len(other))) :]
            case 7 if rng.random() < 0.1:
                del content[first:]
    return bytes(content)


def inputs(name: str, rng: random.Random) -> Iterator[bytes]:
    """Mutations of what a reader takes, without end."""
    reader = READERS[name]
    valid, words = reader.valid(), WORDS[name].split(b" ")
    while True:
        content = mutated(rng, valid, words)
        yield reader.mend(content) if rng.random() < 0.5 else content


def judged(name: str, content: bytes) -> tuple[str, float]:
    """What a reader makes of an input: `read`, `refused` or what went wrong; seconds."""
    began = time.process_time()
    try:
        READERS[name].read(content)
        verdict = "read"
    except BadInput:
        verdict = "refused"
    except Exception:
        verdict = traceback.format_exc()
    seconds = time.process_time() - began
    if seconds > MOST_SECONDS:
        verdict = f"took {seconds:.1f} s"
    return verdict, seconds


def hung(*_: Any) -> None:
    raise TimeoutError


def fuzzed(name: str, n_inputs: int, seed: int) -> dict[str, Any]:
    """Counts of what a reader made of mutated inputs, and all that went wrong."""
    rng = random.Random(seed)
    found: dict[str, Any] = {"inputs": n_inputs, "read": 0, "refused": 0, "wrong": []}
    longest = 0.0
    signal.signal(signal.SIGVTALRM, hung)
    # The first of all inputs also waits for what the reader imports.
    READERS[name].read(READERS[name].valid()[0])
    # Of names that a scheduler does not know, diffusers warns each time.
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in islice(inputs(name, rng), n_inputs):
            # A hang is ended, so that it is known which input hangs.
            signal.setitimer(signal.ITIMER_VIRTUAL, 10 * MOST_SECONDS)
            verdict, seconds = judged(name, content)
            longest = max(longest, seconds)
            if verdict in found:
                found[verdict] += 1
            else:
                found["wrong"].append({"why": verdict, "input": content.hex()})
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    written(b"").unlink()
    return {**found, "longest_seconds": round(longest, 3)}


def main(n_inputs: int = 1_000_000, seed: int = 0) -> None:
    readers = {}
    for number, (name, reader) in enumerate(READERS.items()):
        before = environment.peak_memory_bytes()
        began = time.process_time()
        found = fuzzed(name, round(n_inputs * reader.share), seed + number)
        found["processor_seconds"] = round(time.process_time() - began)
        found["peak_memory_mb"] = environment.peak_memory_bytes() // 2**20
        found["of_that_before_mb"] = before // 2**20
        readers[name] = found
        print(name, {**found, "wrong": found["wrong"][:3]}, flush=True)
    record.write("fuzz", [seed], {"inputs": n_inputs, "readers": readers})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    main(options.inputs, options.seed)
