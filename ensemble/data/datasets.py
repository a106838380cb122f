"""Training images in [-1, 1], from the embedded digits, an image folder or shards.

Every image has a name that stays the same wherever and whenever it is read, and may
have metadata: columns of text with one entry per image. One of the columns can hold
the labels that class-conditional members are conditioned on.
"""

import difflib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int64

from ensemble.data import folder, shard_reader
from ensemble.data.inventory import RULES, Inventory
from ensemble.data.lazy import ImagesOnDisk
from ensemble.run import files
from ensemble.run.config import DataConfig
from splits import duplicates, spelling
from splits.errors import BadInput

# A pass over all images holds this many in memory at once.
_BLOCK = 1024

Images = Float32[np.ndarray, "images channels height width"] | ImagesOnDisk
Loaded = tuple[Images, dict[str, tuple[str, ...]], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The training images of a run, with names, labels and metadata.

    Attributes:
        images: Images in [-1, 1], C-contiguous, read-only. With `data.stream` they are
            read whenever they are indexed, and `np.asarray` reads all of them.
        labels: Class of each image, 0 to n_classes - 1, read-only; None: no labels.
        label_names: The classes' names, in order; () without labels.
        columns: Metadata as text, one entry per image.
        names: The permanent name of each image: its path relative to the folder, its
            key in the shards, or `digit 0417`.
        inventory: The reading rules, and the files that were not read.
    """

    images: Images
    labels: Int64[np.ndarray, " images"] | None
    label_names: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    names: tuple[str, ...]
    inventory: Inventory = field(default_factory=Inventory)

    def __post_init__(self) -> None:
        if isinstance(self.images, np.ndarray):
            object.__setattr__(self, "images", _read_only(self.images))
        if self.labels is not None:
            object.__setattr__(self, "labels", _read_only(self.labels))

    def pictures(self) -> duplicates.Pictures:
        """Small normalised copies of the images, used to find near-duplicates."""
        starts = range(0, len(self.images), _BLOCK)
        blocks = (self.images[start : start + _BLOCK] for start in starts)
        return np.concatenate([duplicates.pictures(block) for block in blocks])

    def fingerprint(self) -> str:
        """The sha256 of images, labels, names and columns, on every platform."""
        parts = {
            "images": self._digests[0],
            "labels": None if self.labels is None else files.array_digest(self.labels),
            "names": self.names,
            "columns": self.columns,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def digest_of(self, chosen: Int64[np.ndarray, " chosen"], with_labels: bool) -> str:
        """The sha256 of some of the images, in the given order.

        Args:
            chosen: Numbers of the images.
            with_labels: Whether the digest also covers the labels of these images and
                the number of classes.
        """
        shape, classes = self.images.shape[1:], len(self.label_names)
        digest = hashlib.sha256(f"<f4 {shape} ".encode())
        for image in chosen.tolist():
            digest.update(self._digests[1][image])
        if with_labels and self.labels is not None:
            labels = files.array_digest(self.labels[chosen])
            digest.update(f" {labels} of {classes}".encode())
        return digest.hexdigest()

    @functools.cached_property
    def _digests(self) -> tuple[str, Sequence[bytes]]:
        """The `files.array_digest` of all images, and the sha256 of each one.

        Images on disk are read one at a time, and only once.
        """
        single: list[bytes] = []

        def parts() -> Iterator[np.ndarray]:
            for image in self.images:
                content = image.astype("<f4", order="C", copy=False)
                single.append(hashlib.sha256(content.data).digest())
                yield image

        dtype, shape = self.images.dtype, self.images.shape
        return files.digest_in_parts(dtype, shape, parts()), single


def load(config: DataConfig, rules: int = RULES) -> TrainingImages:
    """The training images that a config names.

    Args:
        config: The `data` section of a config.
        rules: The number of the reading rules (inventory.py).

    Raises:
        BadInput: If the images cannot be read as the config says, or `config.label` is
            not one of their columns.

    Examples:
        >>> data = load(DataConfig(kind="digits", n_images=2))
        >>> data.images.shape, data.names
        ((2, 1, 8, 8), ('digit 0000', 'digit 0001'))
    """
    inventory = Inventory(rules)
    found = DATA_SETS[config.kind](config, inventory)
    return with_labels(*found, config, inventory)


def with_labels(
    images: Images,
    columns: dict[str, tuple[str, ...]],
    names: tuple[str, ...],
    config: DataConfig,
    inventory: Inventory | None = None,
) -> TrainingImages:
    """Training images with labels that are read from a column of the metadata.

    Args:
        images: Images in [-1, 1].
        columns: Metadata as text, one entry per image.
        names: One per image.
        config: Names the column, and may name the classes.
        inventory: The reading rules, and the files that were not read.

    Raises:
        BadInput: If there is no such column, it has gaps, or a label is none of the
            classes.
    """
    labels, label_names = _labels(columns, names, config.label, config.classes)
    inventory = inventory or Inventory()
    return TrainingImages(images, labels, label_names, columns, names, inventory)


def describe(data: TrainingImages) -> list[str]:
    """Lines about the files that were not read, and about names that look alike."""
    found = data.inventory.lines()
    for column, texts in data.columns.items():
        if column == "file_name":
            continue
        pairs = [*spelling.same(texts), *spelling.similar(texts)]
        if pairs:
            one, other = pairs[0]
            found.append(
                f"  Column {column!r} has {one!a} and {other!a}, which look like one name "
                f"and count as two ({len(pairs)} such pairs)."
            )
    return found


def require_classes(data: TrainingImages) -> int:
    """The number of classes that class-conditional members are trained with.

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


def _digits(config: DataConfig, _: Inventory) -> Loaded:
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
    columns: dict[str, tuple[str, ...]],
    names: tuple[str, ...],
    label: str | None,
    classes: list[str] | int | None = None,
) -> tuple[Int64[np.ndarray, " images"] | None, tuple[str, ...]]:
    """Class of each image and the classes' names.

    Classes that the config names keep its order. Otherwise they are the labels of the
    images, sorted by name, or as numbers if all of them are whole numbers.
    """
    if label is not None and label not in columns:
        near = difflib.get_close_matches(label, columns, n=1)
        known = ", ".join(columns) or "none"
        advice = f"Did you mean {near[0]!r}?" if near else f"Known: {known}."
        raise BadInput(f"data.label {label!r} is not a column. {advice}")
    column = columns.get(label or "label")
    if column is None:
        if classes is not None:
            raise BadInput(
                "data.classes says which labels there are, but the training images have "
                "none. Set data.label to a column, or data.classes to null."
            )
        return None, ()
    if "" in column:
        raise BadInput(
            f"{names[column.index('')]} has an empty label in column "
            f"{label or 'label'!r}. Fill it in, or leave the image out."
        )
    label_names = _labels_of_config(classes) if classes else _labels_in(column)
    class_of = {name: index for index, name in enumerate(label_names)}
    foreign = [image for image, text in enumerate(column) if text not in class_of]
    if foreign:
        first = foreign[0]
        raise BadInput(
            f"{names[first]} has the label {column[first]!r}, which is none of "
            f"data.classes ({len(foreign)} such images). Add it there, or leave the "
            "images out."
        )
    labels = np.array([class_of[text] for text in column], dtype=np.int64)
    return labels, tuple(label_names)


def _labels_of_config(classes: list[str] | int) -> list[str]:
    """The names of the classes that `data.classes` declares."""
    if isinstance(classes, int):
        return [str(number) for number in range(classes)]
    return classes


def _labels_in(column: tuple[str, ...]) -> list[str]:
    """The labels that occur in a column; whole numbers are sorted as numbers."""
    label_names = sorted(set(column))
    if all(name.isdecimal() for name in label_names):
        label_names.sort(key=int)
    return label_names


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to; the caller's array keeps its own flags."""
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view


DATA_SETS: dict[str, Callable[[DataConfig, Inventory], Loaded]] = {
    "digits": _digits,
    "folder": folder.read,
    "shards": shard_reader.read,
}
