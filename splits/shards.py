"""Shards: training samples in WebDataset tar files that are the same bytes every time.

A shard is a tar file of samples. A sample is a key and its fields; the field `png` of
the sample `000417` is the member `000417.png` of the tar file. The index `shards.json`
beside the shards lists what each of them holds; it is written last, so shards without
it were not finished. (https://github.com/webdataset/webdataset)

Beside `images-000000.tar`, `images-000000.idx` says at which byte of it each field
begins, so that one sample can be read without the others. It is text in the format of
NVIDIA DALI: a line for each sample with extension, offset, size and name of each field.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import chain, islice, repeat
from pathlib import Path, PurePosixPath

from splits import archives
from splits.archives import Place
from splits.errors import BadInput
from splits.unreadable import unreadable

INDEX = "shards.json"
_OFFSETS = "v1.2"
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
        idx_sha256: Digest of the file of offsets beside it; None: there is none.
        members: Who trains on some of its samples; None: unknown.
    """

    file: str
    count: int
    bytes: int
    sha256: str
    first_key: str
    last_key: str
    idx_sha256: str | None = None
    members: list[int] | None = None


def write(
    folder: Path,
    samples: Iterable[Sample],
    per_shard: int | Sequence[int],
    name: str = "images",
) -> list[Shard]:
    """Write samples as `NAME-000000.tar`, `NAME-000001.tar` and so on.

    Several groups of shards can share a folder, each under its own name. Write the
    index once all of them are there.

    Args:
        folder: Where the shards go; it is made if need be.
        samples: Keys, each once, with the content of their fields.
        per_shard: Samples in each shard but the last; or a number for each shard, the
            last of which holds for all that come after it.
        name: What the file names begin with.

    Returns:
        The entries of the index, in the order in which they were written.

    Raises:
        BadInput: If a shard would have less than one sample, or a key is not fit for
            WebDataset or comes twice.
    """
    sizes = [per_shard] if isinstance(per_shard, int) else per_shard
    folder.mkdir(parents=True, exist_ok=True)
    checked = _checked(samples)
    shards: list[Shard] = []
    for size, first in zip(chain(sizes, repeat(sizes[-1])), checked, strict=False):
        if size < 1:
            raise BadInput(f"{size} samples in a shard; there must be at least 1.")
        path = folder / f"{name}-{len(shards):06d}.tar"
        shards.append(_write_one(path, chain([first], islice(checked, size - 1))))
    return shards


def footprint(fields: Mapping[str, bytes]) -> int:
    """Bytes that a sample takes in a shard: a header for each field, and whole blocks.

    Keys of up to 90 characters are assumed; longer ones take another header.
    """
    return sum(
        tarfile.BLOCKSIZE + _whole_blocks(len(content)) for content in fields.values()
    )


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
        shards = {entry["file"]: Shard(**entry) for entry in entries}
    except (
        FileNotFoundError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ) as error:
        raise BadInput(
            f"{path} is not a readable index of shards ({error}). Write the shards "
            "again, or delete it to read them without a check."
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
    return shards


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


def places(path: Path, shard: Shard) -> list[Place]:
    """Where every field lies in a shard, from the file of offsets beside it.

    Raises:
        BadInput: If that file is missing or damaged.
    """
    offsets = path.with_suffix(".idx")
    if not offsets.exists():
        raise BadInput(
            f"{offsets} is missing: {INDEX} lists its digest. Restore it from a copy, "
            "or write the shards again."
        )
    digest = _sha256(offsets)
    if digest != shard.idx_sha256:
        raise BadInput(
            f"{offsets} is damaged: {INDEX} expects sha256 {shard.idx_sha256}, found "
            f"{digest}. Restore it from a copy, or write the shards again."
        )
    try:
        _, *lines = offsets.read_text(encoding="utf-8").splitlines()
        found = [place for line in lines for place in _fields_of(line.split(" "))]
    except ValueError as error:
        raise BadInput(
            f"{offsets} is no list of offsets ({error}). Write the shards again."
        ) from None
    return found


def content(path: str | Path, place: Place) -> bytes:
    """The content of one field, read without anything else of the shard.

    Raises:
        BadInput: If the shard cannot be read, or ends before the field does.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            found = os.pread(file.fileno(), place.size, place.offset)
    except OSError as error:
        raise BadInput(
            f"Cannot read {path}: {error.strerror}. Restore the shard from a copy."
        ) from None
    if len(found) < place.size:
        raise BadInput(
            f"{path} was cut short: {place.name} should have {place.size} bytes from "
            f"byte {place.offset} on, and {len(found)} are there. Restore it from a "
            "copy."
        )
    return found


def _checked(samples: Iterable[Sample]) -> Iterator[Sample]:
    seen = set()
    for key, fields in samples:
        if "." in key or key.split() != [key] or not archives.is_inside(key):
            raise BadInput(
                f"Key {key!r} is not fit for a shard: WebDataset ends a key at its "
                "first dot, lists of offsets at a space, and it must be a relative "
                "path. Use a number such as '000417'."
            )
        if key in seen:
            raise BadInput(f"Key {key!r} comes twice. Give each sample its own key.")
        seen.add(key)
        yield key, fields


def _write_one(path: Path, samples: Iterable[Sample]) -> Shard:
    keys, lines = [], []
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, fields in samples:
            keys.append(key)
            line = [
                _add(tar, f"{key}.{field}", fields[field]) for field in sorted(fields)
            ]
            lines.append(" ".join(line))
    offsets = path.with_suffix(".idx")
    text = "\n".join([f"{_OFFSETS} {len(lines)}", *lines, ""])
    offsets.write_text(text, encoding="utf-8", newline="\n")
    return Shard(
        file=path.name,
        count=len(keys),
        bytes=path.stat().st_size,
        sha256=_sha256(path),
        first_key=min(keys),
        last_key=max(keys),
        idx_sha256=_sha256(offsets),
    )


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> str:
    """Append a file to an archive; returns its part of the line of offsets."""
    # A new TarInfo has no owner and the time 0: nothing of this machine gets into the
    # file.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, BytesIO(content))
    extension = PurePosixPath(name).name.partition(".")[2]
    begin = tar.offset - _whole_blocks(len(content))
    return f"{extension} {begin} {len(content)} {name}"


def _fields_of(words: list[str]) -> Iterator[Place]:
    """The fields that a line of offsets lists, four words each."""
    for at in range(0, len(words), 4):
        _, offset, size, name = words[at : at + 4]
        if not 0 <= int(size) <= archives.MOST_OF_MEMBER:
            raise ValueError(f"{name} of {size} bytes")
        yield Place(name, int(offset), int(size))


def _whole_blocks(size: int) -> int:
    """Bytes of a tar file that so many bytes of content fill."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
