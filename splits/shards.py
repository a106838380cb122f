"""Shards: training samples in WebDataset tar files that are the same bytes every time.

A shard is a tar file of samples. A sample is a key and its fields; the field `png` of
the sample `000417` is the member `000417.png` of the tar file. The index `shards.json`
beside the shards lists what each of them holds; it is written last, so shards without
it were not finished. (https://github.com/webdataset/webdataset)

Before: ensemble/data.py (encodes images as samples).
After: ensemble/data_shards.py (reads shards back).
"""

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from splits.errors import BadInput

INDEX = "shards.json"
Sample = tuple[str, Mapping[str, bytes]]


@dataclass(frozen=True)
class Shard:
    """One entry of the index.

    Attributes:
        file: Name of the tar file, which stands in the folder of the index.
        count: Samples in it.
        bytes: Size of the tar file.
        sha256: Digest of the tar file, in hexadecimal.
        first_key: The smallest key in it.
        last_key: The largest key in it.
    """

    file: str
    count: int
    bytes: int
    sha256: str
    first_key: str
    last_key: str


def write(
    folder: Path, samples: Iterable[Sample], per_shard: int, name: str = "images"
) -> list[Shard]:
    """Write samples as `NAME-000000.tar`, `NAME-000001.tar` and so on.

    Several groups of shards can share a folder, each under its own name. Write the
    index once all of them are there.

    Args:
        folder: Where the shards go; it is made if need be.
        samples: Keys in ascending order, each with the content of its fields.
        per_shard: Samples in each shard but the last.
        name: What the file names begin with.

    Returns:
        The entries of the index, in order of the keys.

    Raises:
        BadInput: If `per_shard` is less than one, or a key is not fit for WebDataset
            or not greater than the one before.
    """
    if per_shard < 1:
        raise BadInput(f"{per_shard} samples in a shard; there must be at least 1.")
    folder.mkdir(parents=True, exist_ok=True)
    ordered = _ascending(samples)
    shards: list[Shard] = []
    for first in ordered:
        path = folder / f"{name}-{len(shards):06d}.tar"
        shards.append(_write_one(path, chain([first], islice(ordered, per_shard - 1))))
    return shards


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Write `shards.json`, which says that the shards of the folder are complete."""
    entries = [asdict(shard) for shard in shards]
    partial = folder / f".{INDEX}.part"
    partial.write_text(json.dumps({"shards": entries}, indent=1) + "\n", "utf-8")
    partial.replace(folder / INDEX)


def read_index(folder: Path) -> dict[str, Shard]:
    """The entries of a folder's index by file name.

    Raises:
        BadInput: If the index is missing or damaged.
    """
    path = folder / INDEX
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["shards"]
        shards = [Shard(**entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} is not a readable index of shards ({error}). Write the shards "
            "again, or delete it to read them without a check."
        ) from None
    return {shard.file: shard for shard in shards}


def verify(path: Path, shard: Shard) -> None:
    """Compare a shard with its entry in the index.

    Raises:
        BadInput: If its bytes are not those that were written.
    """
    found = _sha256(path)
    if found != shard.sha256:
        raise BadInput(
            f"{path} is damaged: {INDEX} expects sha256 {shard.sha256}, found {found}. "
            "Restore it from a copy, or write the shards again."
        )


def inspect(path: Path, name: str) -> None:
    """Read a tar file from end to end, and refuse what is cut short or not plain.

    The tar readers of Python and WebDataset take a damaged header for the end of the
    archive and skip links without a word: samples would be lost silently.

    Args:
        path: The tar file, compressed or not.
        name: What to call it in a message.

    Raises:
        BadInput: If the archive ends early or cannot be read, or if a member is
            a link or a device, or lies outside of the folder that it is unpacked in.
    """
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                _refuse_outlaw(member, name)
            complete = _end_is_marked(tar)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise BadInput(
            f"{name} cannot be read as a tar file ({error}). It is damaged or was cut "
            "short: restore it from a copy."
        ) from None
    if not complete:
        raise BadInput(
            f"{name} has no end mark: it is damaged or was cut short, and samples are "
            "missing. Restore it from a copy."
        )


def _ascending(samples: Iterable[Sample]) -> Iterator[Sample]:
    last = ""
    for key, fields in samples:
        if "." in key or not _is_inside(key):
            raise BadInput(
                f"Key {key!r} is not fit for a shard: WebDataset ends a key at its "
                "first dot, and it must be a relative path. Use a number such as "
                "'000417'."
            )
        if key <= last:
            raise BadInput(
                f"Key {key!r} comes after {last!r}. Keys must ascend, each once: sort "
                "the samples by key."
            )
        last = key
        yield key, fields


def _write_one(path: Path, samples: Iterable[Sample]) -> Shard:
    keys = []
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, fields in samples:
            keys.append(key)
            for field in sorted(fields):
                # A new TarInfo has no owner and the time 0: nothing of this machine
                # gets into the file.
                member = tarfile.TarInfo(f"{key}.{field}")
                member.size = len(fields[field])
                tar.addfile(member, BytesIO(fields[field]))
    size = path.stat().st_size
    return Shard(path.name, len(keys), size, _sha256(path), keys[0], keys[-1])


def _refuse_outlaw(member: tarfile.TarInfo, name: str) -> None:
    if not (member.isreg() or member.isdir()):
        raise BadInput(
            f"{name} has the member {member.name!r}, which is a link or a device. "
            "Shards hold plain files only: pack the file itself."
        )
    if not _is_inside(member.name):
        raise BadInput(
            f"{name} has the member {member.name!r}, whose path is absolute or leads "
            "to a parent folder. Pack it again with relative paths."
        )


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


def _end_is_marked(tar: tarfile.TarFile) -> bool:
    """Whether iteration stopped at a block of zeros, as every finished tar file has."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    return tar.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
