"""A folder of small arrays and JSON records as a handful of compressed files.

`arrays-DTYPE.npy.xz` holds every array of that dtype, one after the other and flat;
`np.load(lzma.open(...))` reads it. `records.json.xz` holds every text by its path.
`manifest.json` names the arrays in their order, with shape and order, and with the sha256 of the
`.npy` file that each comes from. What is unpacked has the same bytes as what was packed.
"""

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.run import files, records
from splits.errors import BadInput

MANIFEST = "manifest.json"
RECORDS = "records.json.xz"


def pack(folder: Path, to: Path, facts: dict[str, Any]) -> None:
    """Write all files of a folder, hidden ones excepted, into a package.

    Args:
        folder: Holds `.npy` files and texts, in folders of any depth.
        to: The package; what is there is replaced.
        facts: What the package's manifest says besides.
    """
    found = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    paths = [file.relative_to(folder) for file in found]
    paths = [path for path in paths if not _is_hidden(path)]
    by_dtype: dict[str, list[np.ndarray]] = {}
    arrays, texts = {}, {}
    for path in paths:
        if path.suffix != ".npy":
            texts[path.as_posix()] = (folder / path).read_text(encoding="utf-8")
            continue
        array = np.load(folder / path)
        # As it lies in memory: arrays that were written transposed keep their bytes.
        order = "C" if array.flags.c_contiguous else "F"
        by_dtype.setdefault(array.dtype.name, []).append(array.ravel(order))
        arrays[path.as_posix()] = {
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "order": order,
            "sha256": files.sha256(folder / path),
        }
    to.mkdir(parents=True, exist_ok=True)
    for dtype, parts in by_dtype.items():
        with lzma.open(to / _called(dtype), "wb", filters=_filters(dtype)) as file:
            np.save(file, np.concatenate(parts))
    with lzma.open(to / RECORDS, "wt", preset=9, encoding="utf-8") as file:
        json.dump(texts, file)
    packed = [RECORDS, *map(_called, by_dtype)]
    digests = {name: files.sha256(to / name) for name in sorted(packed)}
    files.write_json(to / MANIFEST, {**facts, "files": digests, "arrays": arrays})


def unpack(package: Path, to: Path) -> None:
    """Write the files of a package into a new folder.

    Raises:
        BadInput: If a file of the package is missing or damaged, or if an array does
            not get the bytes that it had.
    """
    manifest = records.check_done_mark(package, MANIFEST)
    with lzma.open(package / RECORDS, "rt", encoding="utf-8") as file:
        texts = json.load(file)
    flat, first = {}, {}
    with files.atomic_folder(to) as made:
        for name, text in texts.items():
            files.write_text(_with_folder(made / name), text)
        for name, facts in manifest["arrays"].items():
            dtype, shape = facts["dtype"], facts["shape"]
            if dtype not in flat:
                with lzma.open(package / _called(dtype)) as file:
                    flat[dtype], first[dtype] = np.load(file), 0
            begin, first[dtype] = first[dtype], first[dtype] + int(np.prod(shape))
            array = flat[dtype][begin : first[dtype]].reshape(
                shape, order=facts["order"]
            )
            found = files.write_array(_with_folder(made / name), array)
            if found != facts["sha256"]:
                raise BadInput(
                    f"{name} of {package} unpacks to a file with the sha256 {found}; "
                    f"{facts['sha256']} is on record. Another NumPy may write other "
                    "headers: use that of constraints.txt."
                )


def _called(dtype: str) -> str:
    """The file that holds all arrays of a dtype."""
    return f"arrays-{dtype}.npy.xz"


def _filters(dtype: str) -> list[dict[str, int]]:
    """Compression that knows which byte of a number a byte is."""
    position_bits = int(np.log2(np.dtype(dtype).itemsize))
    return [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 9 | lzma.PRESET_EXTREME,
            "lc": 0,
            "lp": position_bits,
            "pb": position_bits,
        }
    ]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _with_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
