"""WebDataset shards: every sample exactly once, in the order of the keys.

A sample needs one image field: `png`, `jpg`, `jpeg`, `webp`, or `npy` (floats
(channels, height, width) in [-1, 1]). It may have `cls`, the number of its class, and
`json`, whose entries become columns.

With `data.stream`, only the places of the fields are kept, and images are read from
there whenever they are needed.

Each process reads all shards: what a member may see is decided by its split of the
code book, never by which shard a sample happens to be in.

Before: config.py (where the shards are), pixels.py, splits/shards.py. After: data.py.
"""

import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ensemble import pixels
from ensemble.config import DataConfig
from ensemble.on_disk import ImagesOnDisk
from splits import shards
from splits.errors import BadInput
from splits.shards import Shard

PICTURES = ("png", "jpg", "jpeg", "webp")


def read(
    config: DataConfig,
) -> tuple[
    Float32[np.ndarray, "images channels height width"] | ImagesOnDisk,
    dict[str, tuple[str, ...]],
    tuple[str, ...],
]:
    """Images, columns and names (keys) of shards, in order of the keys.

    Raises:
        BadInput: If a shard is missing, damaged or unsafe, a command fails, a key
            comes twice, a field cannot be read, or samples differ in what they have.
    """
    samples: dict[str, dict[str, Any]] = {}
    read_one = _located if config.stream else _samples
    for url in _expanded(str(config.path)):
        for sample in read_one(url):
            key = sample["__key__"]
            if key in samples:
                raise BadInput(
                    f"Key {key!r} comes twice, in {samples[key]['__url__']} and in "
                    f"{url}. Give each sample its own key, list each shard once, and "
                    "pack the files of a sample side by side."
                )
            samples[key] = sample
    if not samples:
        raise BadInput(f"data.path {config.path} holds no sample. Name other shards.")
    names = tuple(sorted(samples)[: config.n_images])
    chosen = [samples[name] for name in names]
    columns = _columns(chosen)
    if config.stream:
        return (
            ImagesOnDisk(names, lambda n: _decoded(chosen[n], config)),
            columns,
            names,
        )
    images = pixels.stack((_decoded(sample, config) for sample in chosen), names)
    return images, columns, names


def _expanded(path: str) -> list[str]:
    # WebDataset imports torch, which reading folders and planning can do without.
    from webdataset import shardlists

    try:
        return shardlists.expand_urls(path)
    except (AssertionError, ValueError) as error:
        raise BadInput(
            f"data.path {path!r} cannot be expanded ({error}). Write a path, a range "
            "such as images-{000000..000015}.tar, or pipe:command."
        ) from None


def _samples(url: str) -> Iterator[dict[str, Any]]:
    """The samples of one shard, their fields still encoded."""
    if not url.startswith("pipe:"):
        path = _present(url)
        _verify(path)
        yield from _unpacked(path, url)
        return
    # WebDataset itself stops reading at the end mark, so it may never learn that the
    # command failed, nor that its output was cut short.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shard.tar")
        _fetch(url, path)
        yield from _unpacked(path, url)


def _located(url: str) -> Iterator[dict[str, Any]]:
    """The samples of one shard, with the places of their fields."""
    if url.startswith("pipe:"):
        raise BadInput(
            f"data.stream reads samples where they lie, and {url!r} is a command. Save "
            "its output to a file, or set data.stream to false."
        )
    path = _present(url)
    shard = _verify(path)
    if shard is not None and shard.idx_sha256 is not None:
        places = shards.places(path, shard)
    else:
        _refuse_compressed(path)
        places = shards.inspect(path, url)
    files = (
        {"fname": place.name, "data": place, "__url__": url}
        for place in places
        # As WebDataset does: such names hold what is no sample.
        if not re.match(r"__[^/]*__($|/)", place.name)
    )
    yield from _grouped(files, url)


def _refuse_compressed(path: Path) -> None:
    with path.open("rb") as file:
        begin = file.read(6)
    if begin.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        raise BadInput(
            f"{path} is compressed, so no sample can be read without those before it. "
            "Unpack it, or set data.stream to false."
        )


def _present(url: str) -> Path:
    path = Path(url)
    if not path.is_file():
        raise BadInput(
            f"The shard {url} is missing. Restore it or change data.path; what is not "
            "a local file can be fetched, as in 'pipe:curl -fsSL ADDRESS'."
        )
    return path


def _fetch(url: str, path: Path) -> None:
    command = url.removeprefix("pipe:")
    with path.open("wb") as file:
        ended = subprocess.run(
            command, shell=True, check=False, stdout=file, stderr=subprocess.PIPE
        )
    if ended.returncode:
        complaint = ended.stderr.decode(errors="replace").strip()
        raise BadInput(
            f"The command of {url!r} failed with exit code {ended.returncode}: "
            f"{complaint or 'it said nothing'}. Try it in a shell, then mend data.path."
        )


def _verify(path: Path) -> Shard | None:
    """Check a shard against the index beside it, if there is one; returns its entry."""
    if not (path.parent / shards.INDEX).exists():
        return None
    index = shards.read_index(path.parent)
    if path.name not in index:
        raise BadInput(
            f"{path} is not listed in the {shards.INDEX} beside it. Move it to another "
            "folder, or write the shards again."
        )
    shards.verify(path, index[path.name])
    return index[path.name]


def _unpacked(path: Path, url: str) -> Iterator[dict[str, Any]]:
    from webdataset import tariterators

    shards.inspect(path, url)
    with path.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": url, "stream": stream}])
        yield from _grouped(files, url)


def _grouped(files: Iterator[dict[str, Any]], url: str) -> Iterator[dict[str, Any]]:
    """The files of one shard put together as samples."""
    from webdataset import tariterators

    try:
        yield from tariterators.group_by_keys(files)
    except (ValueError, tarfile.TarError) as error:
        raise BadInput(
            f"{url} cannot be read: {error.args[0]}. Write the shard again."
        ) from None


def _content(sample: dict[str, Any], field: str) -> bytes:
    """What a field holds: read now, if only its place is known."""
    held = sample[field]
    return held if isinstance(held, bytes) else shards.content(sample["__url__"], held)


def _decoded(
    sample: dict[str, Any], config: DataConfig
) -> Float32[np.ndarray, "channels height width"]:
    name = _name(sample)
    fields = [field for field in (*PICTURES, "npy") if field in sample]
    if len(fields) != 1:
        raise BadInput(
            f"{name} has {len(fields)} image fields {fields}; one of "
            f"{', '.join(PICTURES)} or npy is wanted. Mend the shard."
        )
    decode = pixels.decode_array if fields == ["npy"] else pixels.decode
    return decode(_content(sample, fields[0]), f"{name}, field {fields[0]}", config)


def _columns(samples: list[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Entries of `json` as text; `cls` becomes `label` where no entry has that name."""
    rows = [_row(sample) for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        if row.keys() != rows[0].keys():
            odd = sorted(row.keys() ^ rows[0].keys())[0]
            raise BadInput(
                f"{_name(samples[0])} and {_name(sample)} differ in what is known of "
                f"them: only one has {odd!r}. Write it for each sample, or for none."
            )
    return {column: tuple(row[column] for row in rows) for column in rows[0]}


def _row(sample: dict[str, Any]) -> dict[str, str]:
    label = {"label": str(_class(sample))} if "cls" in sample else {}
    return {**label, **_metadata(sample)}


def _class(sample: dict[str, Any]) -> int:
    content = _content(sample, "cls")
    try:
        return int(content)
    except ValueError:
        raise BadInput(
            f"{_name(sample)} has the class {content!r}: the field cls holds a whole "
            "number. Mend the shard."
        ) from None


def _metadata(sample: dict[str, Any]) -> dict[str, str]:
    try:
        entries = json.loads(_content(sample, "json") if "json" in sample else b"{}")
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{_name(sample)} has a field json that cannot be read ({error}). Mend the "
            "shard."
        ) from None
    if not isinstance(entries, dict):
        raise BadInput(
            f"{_name(sample)} has a field json that is no object: {entries!r}. Write "
            "names and values."
        )
    return {name: _text(value) for name, value in entries.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _name(sample: dict[str, Any]) -> str:
    return f"Sample {sample['__key__']!r} of {sample['__url__']}"
