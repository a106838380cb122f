"""The data set `shards`: WebDataset tar files, read once, with samples sorted by key.

A sample needs one image field: an ending of `decoding.FORMATS`, such as `png`, or `npy`
(floats (channels, height, width) in [-1, 1]). It may have `cls`, the number of its
class, and `json`, whose entries become columns. All other files are counted in the
inventory.

With `data.stream`, only the positions of the fields are kept in memory, and images are
read from there whenever they are needed.

Each process reads all shards: the code book alone decides which images a member sees,
never the shard in which a sample lies.
"""

import json
import posixpath
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ensemble.data import decoding, metadata
from ensemble.data.inventory import Inventory
from ensemble.data.lazy import ImagesOnDisk
from ensemble.run.config import DataConfig
from splits import archives, shards, spelling
from splits.archives import Place
from splits.errors import BadInput
from splits.shards import Shard

HIDDEN = "hidden"
NO_KEY = "without an ending, or with a name that WebDataset takes for no sample"
_KNOWN = ("npy", "cls", "json")


def read(
    config: DataConfig, inventory: Inventory | None = None
) -> tuple[
    Float32[np.ndarray, "images channels height width"] | ImagesOnDisk,
    dict[str, tuple[str, ...]],
    tuple[str, ...],
]:
    """Images, columns and names (keys) of shards, in order of the keys.

    Args:
        config: The `data` section of a config, with the path of the shards.
        inventory: Gives the reading rules, and notes the files that are not read.

    Raises:
        BadInput: If a shard is missing, damaged or unsafe, a command fails, a key
            comes twice, a field cannot be read, or samples differ in what they have.
    """
    inventory = inventory or Inventory()
    samples: dict[str, dict[str, Any]] = {}
    read_one = _locate_samples if config.stream else _read_samples
    for url in _expand(str(config.path)):
        for sample in read_one(url, inventory):
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
    _count_unread(samples, inventory)
    names = tuple(sorted(samples)[: config.n_images])
    if len(names) < len(samples):
        left = len(samples) - len(names)
        inventory.notes.append(f"data.n_images leaves out the last {left} images.")
    inventory.n_images = len(names)
    chosen = [samples[name] for name in names]
    columns = _columns(chosen, inventory)
    if config.stream:
        return (
            ImagesOnDisk(names, lambda n: _decode(chosen[n], config, inventory)),
            columns,
            names,
        )
    decoded = (_decode(sample, config, inventory) for sample in chosen)
    return decoding.stack(decoded, names), columns, names


def _count_unread(samples: dict[str, dict[str, Any]], inventory: Inventory) -> None:
    """Note fields that are not read, and keys that look like one name."""
    known = {*_image_fields(inventory.rules), *_KNOWN}
    for key in sorted(samples):
        for field in samples[key].keys() - known:
            if not field.startswith("__"):
                inventory.leave_out(f"fields {field}", f"{key}.{field}")
    twins = spelling.same(samples)
    if twins:
        one, other = twins[0]
        inventory.notes.append(
            f"The keys {one!a} and {other!a} look like one name and are two images "
            f"({len(twins)} such pairs)."
        )


def _image_fields(rules: int) -> tuple[str, ...]:
    """Fields that hold an image file."""
    return tuple(ending.removeprefix(".") for ending in decoding.endings(rules))


def _expand(path: str) -> list[str]:
    # WebDataset imports torch, which reading folders and planning can do without.
    from webdataset import shardlists

    try:
        return shardlists.expand_urls(path)
    except (AssertionError, ValueError) as error:
        raise BadInput(
            f"data.path {path!r} cannot be expanded ({error}). Write a path, a range "
            "such as images-{000000..000015}.tar, or pipe:command."
        ) from None


def _read_samples(url: str, inventory: Inventory) -> Iterator[dict[str, Any]]:
    """The samples of one shard with their fields' bytes, still encoded."""
    if not url.startswith("pipe:"):
        path = _existing_file(url)
        _verify(path)
        yield from _unpack(path, url, inventory)
        return
    # WebDataset stops reading at the end mark, so it would not notice that the command
    # failed, or that its output was cut short.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shard.tar")
        _fetch(url, path)
        yield from _unpack(path, url, inventory)


def _locate_samples(url: str, inventory: Inventory) -> Iterator[dict[str, Any]]:
    """The samples of one shard with the positions of their fields in the file."""
    if url.startswith("pipe:"):
        raise BadInput(
            f"data.stream reads samples where they lie, and {url!r} is a command. Save "
            "its output to a file, or set data.stream to false."
        )
    path = _existing_file(url)
    shard = _verify(path)
    if shard is not None and shard.idx_sha256 is not None:
        places = shards.places(path, shard)
    else:
        _refuse_compressed(path)
        places = _inspect(path, url, inventory)
    _count_no_samples(places, inventory)
    files = (
        {"fname": place.name, "data": place, "__url__": url}
        for place in places
        if _is_sample(place.name)
    )
    yield from _group(files, url)


def _inspect(path: Path, url: str, inventory: Inventory) -> list[Place]:
    """The position of every file in a tar file, which is checked to be complete."""
    try:
        return archives.inspect(path, url)
    except BadInput as error:
        if inventory.strict:
            raise
        places = archives.inspect(path, url, alone=False)
        inventory.notes.append(str(error))
        return places


def _is_sample(name: str) -> bool:
    """Whether WebDataset reads a file as a field of a sample; hidden files are not."""
    from webdataset import tariterators

    return not (
        re.match(r"__[^/]*__($|/)", name)
        or tariterators.base_plus_ext(name)[0] is None
        or posixpath.basename(name).startswith(".")
    )


def _count_no_samples(places: Iterable[Place], inventory: Inventory) -> None:
    for place in places:
        if not _is_sample(place.name):
            hidden = posixpath.basename(place.name).startswith(".")
            inventory.leave_out(HIDDEN if hidden else NO_KEY, place.name)


def _refuse_compressed(path: Path) -> None:
    with path.open("rb") as file:
        begin = file.read(6)
    if begin.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        raise BadInput(
            f"{path} is compressed, so no sample can be read without those before it. "
            "Unpack it, or set data.stream to false."
        )


def _existing_file(url: str) -> Path:
    path = Path(url)
    if path.exists() and not path.is_file():
        raise BadInput(
            f"The shard {url} is no file but a folder, a pipe or a device. Name a tar "
            f"file; what comes out of a pipe is read with 'pipe:cat {url}'."
        )
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
    """Check a shard against the index beside it, and return its entry.

    Returns:
        None if there is no index.
    """
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


def _unpack(path: Path, url: str, inventory: Inventory) -> Iterator[dict[str, Any]]:
    from webdataset import tariterators

    _count_no_samples(_inspect(path, url, inventory), inventory)
    with path.open("rb") as stream:
        files = tariterators.tar_file_expander(
            [{"url": url, "stream": stream}], select_files=_is_sample
        )
        yield from _group(files, url)


def _group(files: Iterator[dict[str, Any]], url: str) -> Iterator[dict[str, Any]]:
    """Group the files of one shard into samples."""
    from webdataset import tariterators

    try:
        yield from tariterators.group_by_keys(files)
    except (ValueError, tarfile.TarError) as error:
        raise BadInput(
            f"{url} cannot be read: {error.args[0]}. Write the shard again."
        ) from None


def _content(sample: dict[str, Any], field: str) -> bytes:
    """The bytes of a field, which are read now if only their position is known."""
    held = sample[field]
    return held if isinstance(held, bytes) else shards.content(sample["__url__"], held)


def _decode(
    sample: dict[str, Any], config: DataConfig, inventory: Inventory
) -> Float32[np.ndarray, "channels height width"]:
    name = _name(sample)
    pictures = _image_fields(inventory.rules)
    fields = [field for field in (*pictures, "npy") if field in sample]
    if len(fields) != 1:
        raise _image_count_error(sample, fields, pictures)
    (field,) = fields
    content, called = _content(sample, field), f"{name}, field {field}"
    if field == "npy":
        return decoding.decode_array(content, called, config)
    return decoding.decode(content, called, config, inventory)


def _image_count_error(
    sample: dict[str, Any], fields: list[str], pictures: tuple[str, ...]
) -> BadInput:
    """The error for a sample without an image, or with several."""
    others = sorted(field for field in sample if not field.startswith("__"))
    dotted = [field for field in others if field.rpartition(".")[2] in pictures]
    if not fields and dotted:
        key, field = sample["__key__"], dotted[0]
        return BadInput(
            f"{_name(sample)} has no image field, but {', '.join(others)}: a key ends "
            f"at its first dot, so that {key}.{field} is the field {field!r} of "
            f"{key!r}. Name the file without dots before its ending."
        )
    return BadInput(
        f"{_name(sample)} has {len(fields)} image fields {fields} among "
        f"{', '.join(others) or 'none'}; one of {', '.join(pictures)} or npy is wanted. "
        "Mend the shard."
    )


def _columns(
    samples: list[dict[str, Any]], inventory: Inventory
) -> dict[str, tuple[str, ...]]:
    """Entries of `json` as text; `cls` becomes `label` unless an entry has that name."""
    rows = [_row(sample, inventory.strict) for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        if row.keys() != rows[0].keys():
            odd = sorted(row.keys() ^ rows[0].keys())[0]
            raise BadInput(
                f"{_name(samples[0])} and {_name(sample)} differ in what is known of "
                f"them: only one has {odd!r}. Write it for each sample, or for none."
            )
    return {column: tuple(row[column] for row in rows) for column in rows[0]}


def _row(sample: dict[str, Any], strict: bool) -> dict[str, str]:
    label = {"label": str(_class(sample))} if "cls" in sample else {}
    return {**label, **_metadata(sample, strict)}


def _class(sample: dict[str, Any]) -> int:
    content = _content(sample, "cls")
    try:
        return int(content)
    except ValueError:
        raise BadInput(
            f"{_name(sample)} has the class {content!r}: the field cls holds a whole "
            "number. Mend the shard."
        ) from None


def _metadata(sample: dict[str, Any], strict: bool) -> dict[str, str]:
    content = _content(sample, "json") if "json" in sample else b"{}"
    try:
        entries = metadata.parse_json(content) if strict else json.loads(content)
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
    return {name: metadata.text(value) for name, value in entries.items()}


def _name(sample: dict[str, Any]) -> str:
    return f"Sample {sample['__key__']!r} of {sample['__url__']}"
