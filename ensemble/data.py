"""Training images in [-1, 1], from the embedded digits, an image folder or shards.

Every image has a name that stays the same wherever and whenever it is read, and may
have metadata: columns of text with one entry per image. One of the columns can hold
the labels that conditional members are told.

Before: config.py (what to read), data_folder.py, data_shards.py.
After: splits/sources.py (groups the images), training.py (shows them to members).
"""

import difflib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from ensemble import data_folder, data_shards, store
from ensemble.config import DataConfig
from ensemble.on_disk import ImagesOnDisk
from splits import duplicates
from splits.errors import BadInput

# Images that are held at once where all are looked at.
_BLOCK = 1024

Images = Float32[np.ndarray, "images channels height width"] | ImagesOnDisk
Loaded = tuple[Images, dict[str, tuple[str, ...]], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """What members may be trained on.

    Attributes:
        images: In [-1, 1], C-contiguous, read-only; with `data.stream` they are read
            whenever they are indexed, and `np.asarray` reads all of them.
        labels: Class of each image, 0 to n_classes - 1, read-only; None: no labels.
        label_names: The classes' names, in order; () without labels.
        columns: Metadata as text, one entry per image.
        names: What each image is called, for ever: its path relative to the folder,
            its key in the shards, or `digit 0417`.
    """

    images: Images
    labels: Int64[np.ndarray, " images"] | None
    label_names: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.images, np.ndarray):
            object.__setattr__(self, "images", _read_only(self.images))
        if self.labels is not None:
            object.__setattr__(self, "labels", _read_only(self.labels))

    def pictures(self) -> duplicates.Pictures:
        """Small copies of the images, by which near-duplicates are found."""
        starts = range(0, len(self.images), _BLOCK)
        blocks = (self.images[start : start + _BLOCK] for start in starts)
        return np.concatenate([duplicates.pictures(block) for block in blocks])

    def fingerprint(self) -> str:
        """The sha256 of images, labels, names and columns, on every platform."""
        if isinstance(self.images, ImagesOnDisk):
            images = self.images.digest()
        else:
            images = store.array_digest(self.images)
        parts = {
            "images": images,
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
    return labelled(*DATA_SETS[config.kind](config), config.label)


def labelled(
    images: Images,
    columns: dict[str, tuple[str, ...]],
    names: tuple[str, ...],
    label: str | None,
) -> TrainingImages:
    """Training images with the classes that a column says.

    Args:
        images: In [-1, 1].
        columns: Metadata as text, one entry per image.
        names: One per image.
        label: The column; None: `label`, if there is one.

    Raises:
        BadInput: If there is no such column, or it has gaps.
    """
    labels, label_names = _labels(columns, names, label)
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
