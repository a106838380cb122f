"""Training images in [-1, 1], from the embedded digits, an image folder or shards.

Every image has a name that stays the same wherever and whenever it is read, and may
have metadata: columns of text with one entry per image. One of the columns can hold
the labels that conditional members are told.

    python -m ensemble.data CONFIG.yaml OUT_FOLDER

writes the images of a config as WebDataset shards.

Before: config.py (what to read), data_folder.py, data_shards.py.
After: splits/sources.py (groups the images), training.py (shows them to members).
"""

import argparse
import difflib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float32, Int64
from tqdm import tqdm

from ensemble import config as configs
from ensemble import data_folder, data_shards, pixels, store
from ensemble.config import DataConfig
from splits import shards
from splits.errors import BadInput

Loaded = tuple[np.ndarray, dict[str, tuple[str, ...]], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """What members may be trained on.

    Attributes:
        images: In [-1, 1], C-contiguous, read-only.
        labels: Class of each image, 0 to n_classes - 1, read-only; None: no labels.
        label_names: The classes' names, in order; () without labels.
        columns: Metadata as text, one entry per image.
        names: What each image is called, for ever: its path relative to the folder,
            its key in the shards, or `digit 0417`.
    """

    images: Float32[np.ndarray, "images channels height width"]
    labels: Int64[np.ndarray, " images"] | None
    label_names: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", _read_only(self.images))
        if self.labels is not None:
            object.__setattr__(self, "labels", _read_only(self.labels))

    def fingerprint(self) -> str:
        """The sha256 of images, labels, names and columns, on every platform."""
        parts = {
            "images": store.array_digest(self.images),
            "labels": None if self.labels is None else store.array_digest(self.labels),
            "names": self.names,
            "columns": self.columns,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load(config: DataConfig) -> TrainingImages:
    """The training images that a config names.

    Raises:
        BadInput: If they cannot be read as the config says, or `config.label` is not
            one of their columns.
    """
    images, columns, names = DATA_SETS[config.kind](config)
    labels, label_names = _labels(columns, names, config.label)
    return TrainingImages(images, labels, label_names, columns, names)


def require_classes(data: TrainingImages) -> int:
    """How many classes conditional members are told apart by.

    Raises:
        BadInput: If there are no labels, or only one class.
    """
    if data.labels is None:
        known = ", ".join(data.columns) or "none"
        raise BadInput(
            "Conditional members need labels, and the training images have none. Set "
            f"data.label to a column (known: {known}), sort the images into "
            "subfolders, or set model.class_conditional to false."
        )
    if len(data.label_names) < 2:
        raise BadInput(
            f"All training images have the label {', '.join(data.label_names)!r}: there "
            "is nothing to condition on. Set data.label to another column, or "
            "model.class_conditional to false."
        )
    return len(data.label_names)


def write_shards(data: TrainingImages, folder: Path, per_shard: int) -> list[str]:
    """Write training images as shards that read back exactly; returns their names.

    Keys are the numbers of the images, so that their order is kept.

    Raises:
        BadInput: If the folder is not empty or cannot be written, or `per_shard` is
            less than one.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is not empty. Choose a new folder for the shards.")
    try:
        with store.folder_in_the_making(folder) as partial:
            written = shards.write(partial, _samples(data), per_shard)
            shards.write_index(partial, written)
    except OSError as error:
        raise BadInput(
            f"Cannot write {folder}: {error.strerror}. Choose another folder, or make "
            "room."
        ) from None
    return [shard.file for shard in written]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the images of a config as shards; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ensemble.data")
    parser.add_argument("config", help="YAML file whose `data:` section to read")
    parser.add_argument("out_folder", type=Path, help="new folder for the shards")
    parser.add_argument("--per-shard", type=int, default=1000, help="images in each")
    options = parser.parse_args(arguments)
    try:
        config = configs.load(options.config).data
        files = write_shards(load(config), options.out_folder, options.per_shard)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    print(_data_section(config, options.out_folder, files))
    return 0


def _digits(config: DataConfig) -> Loaded:
    """The 1,797 handwritten digits of scikit-learn, 8x8, 17 shades of grey."""
    if config.size not in (None, 8) or config.channels not in (None, 1):
        raise BadInput(
            "The digits are 8x8 and grey; data.size or data.channels asks for "
            "something else. Leave both null, or use data.kind folder."
        )
    from sklearn.datasets import load_digits

    shades, digits = load_digits(return_X_y=True)
    images = shades[: config.n_images].reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1
    names = tuple(f"digit {index:04d}" for index in range(len(images)))
    labels = tuple(str(digit) for digit in digits[: config.n_images])
    return images, {"label": labels}, names


def _labels(
    columns: dict[str, tuple[str, ...]], names: tuple[str, ...], label: str | None
) -> tuple[Int64[np.ndarray, " images"] | None, tuple[str, ...]]:
    """Class of each image and the classes' names; whole numbers sort as numbers."""
    if label is not None and label not in columns:
        near = difflib.get_close_matches(label, columns, n=1)
        known = ", ".join(columns) or "none"
        advice = f"Did you mean {near[0]!r}?" if near else f"Known: {known}."
        raise BadInput(f"data.label {label!r} is not a column. {advice}")
    column = columns.get(label or "label")
    if column is None:
        return None, ()
    if "" in column:
        raise BadInput(
            f"{names[column.index('')]} has an empty label in column "
            f"{label or 'label'!r}. Fill it in, or leave the image out."
        )
    label_names = sorted(set(column))
    if all(name.isdecimal() for name in label_names):
        label_names.sort(key=int)
    class_of = {name: index for index, name in enumerate(label_names)}
    labels = np.array([class_of[text] for text in column], dtype=np.int64)
    return labels, tuple(label_names)


def _samples(data: TrainingImages) -> Iterator[shards.Sample]:
    digits = max(6, len(str(len(data.names))))
    progress = tqdm(data.images, "shards", leave=False, disable=None)
    for index, image in enumerate(progress):
        field, content = pixels.encode(image)
        row = {column: texts[index] for column, texts in data.columns.items()}
        sample = {field: content, "json": json.dumps(row).encode()}
        if data.labels is not None:
            sample["cls"] = str(data.labels[index]).encode()
        yield f"{index:0{digits}d}", sample


def _data_section(config: DataConfig, folder: Path, files: list[str]) -> str:
    """The part of a config file that reads the shards."""
    numbers = [Path(file).stem.removeprefix("images-") for file in files]
    span = f"{{{numbers[0]}..{numbers[-1]}}}" if len(files) > 1 else numbers[0]
    section = {
        "kind": "shards",
        "path": str(folder / f"images-{span}.tar"),
        "source": config.source,
        "label": config.label,
    }
    return yaml.safe_dump({"data": section}, sort_keys=False).rstrip()


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to; the caller's array keeps its own flags."""
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view


DATA_SETS: dict[str, Callable[[DataConfig], Loaded]] = {
    "digits": _digits,
    "folder": data_folder.read,
    "shards": data_shards.read,
}

if __name__ == "__main__":
    sys.exit(main())
