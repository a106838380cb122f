"""The source of each training image: the image itself, or its value in a column.

Sources can also be sets of owners (owners.py) or clusters (duplicates.py).

Sources are numbered by name, never by the order of files or rows, so that the same
images always get the same numbers.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from splits.errors import BadInput

IMAGE = "image"
NEAR_DUPLICATES = "near_duplicates"


def assign(
    source: str, images: Sequence[str], columns: Mapping[str, Sequence[Any]]
) -> tuple[Int64[np.ndarray, " images"], list[str]]:
    """The source of each image, and the name of each source.

    Args:
        source: `image`, and each image is a source of its own, called as the image is;
            or a column's name, and images with the same value in it are one source.
        images: Names of the training images.
        columns: The metadata: a value for each image, by column.

    Returns:
        source_of[image] in 0 to n_sources - 1, and names[source].

    Raises:
        BadInput: If there is no such column, it has a gap or another length than the
            images, or there would be fewer than two sources.

    Examples:
        >>> source_of, names = assign("artist", ["a.png", "b.png", "c.png"],
        ...     {"artist": ["Eve", "Adam", "Eve"]})
        >>> source_of.tolist(), names
        ([1, 0, 1], ['Adam', 'Eve'])
    """
    if source == IMAGE:
        return each_image(len(images)), list(images)
    return by_column(values_of(source, len(images), columns), source)


def values_of(
    source: str, n_images: int, columns: Mapping[str, Sequence[Any]]
) -> Sequence[Any]:
    """The values of a column, one for each image.

    Raises:
        BadInput: If there is no such column, or it has another length than the images.
    """
    if source not in columns:
        raise _unknown("source", source, [IMAGE, NEAR_DUPLICATES, *sorted(columns)])
    values = columns[source]
    if len(values) != n_images:
        raise BadInput(
            f"Column {source!r} has {len(values)} values for {n_images} images. Give "
            "every image exactly one."
        )
    return values


def each_image(n_images: int) -> Int64[np.ndarray, " images"]:
    """Every image is a source of its own.

    Raises:
        BadInput: If there are fewer than two images.
    """
    if n_images < 2:
        raise BadInput(
            f"{n_images} training images are not enough: to leave one source out, "
            "another must remain. Give at least two."
        )
    return np.arange(n_images, dtype=np.int64)


def by_column(
    values: Sequence[Any], column: str = "source"
) -> tuple[Int64[np.ndarray, " images"], list[str]]:
    """Images with the same value are one source; the value's text is its name.

    Sources are numbered in the order of their names: as numbers if all names are whole
    numbers, else as text. The order of the images does not matter.

    Args:
        values: One for each image.
        column: What error messages call the values.

    Returns:
        source_of[image] in 0 to n_sources - 1, and names[source].

    Raises:
        BadInput: If a value is missing, or all are the same.

    Examples:
        >>> source_of, names = by_column(["10", "9", "10"])
        >>> source_of.tolist(), names
        ([1, 0, 1], ['9', '10'])
    """
    for image, value in enumerate(values):
        if _is_missing(value):
            raise BadInput(
                f"Row {image} of column {column!r} is {value!r}: that image would "
                "belong to no source. Fill it in, or remove the image."
            )
    texts = [str(value) for value in values]
    names = _in_order(set(texts))
    if len(names) < 2:
        raise BadInput(
            f"Column {column!r} makes {len(names)} source of {len(texts)} images: to "
            "leave one source out, another must remain. Choose another column, or "
            "'image'."
        )
    number = {name: source for source, name in enumerate(names)}
    return np.array([number[text] for text in texts], dtype=np.int64), names


def owner_of(
    source_of: Int64[np.ndarray, " images"],
    column: str,
    columns: Mapping[str, Sequence[Any]],
) -> Int64[np.ndarray, " sources"]:
    """The owner of each source; owners are numbered in the order of their names.

    Args:
        source_of: The source of each image.
        column: The column that names each image's owner.
        columns: The metadata: a value for each image, by column.

    Raises:
        BadInput: If there is no such column, it has a gap or only one owner, or images
            of one source have different owners.
    """
    if column not in columns:
        raise _unknown("owner", column, sorted(columns))
    owner_of_image, names = by_column(columns[column], column)
    owners = np.zeros(int(source_of.max()) + 1, dtype=np.int64)
    owners[source_of] = owner_of_image
    torn = np.flatnonzero(owners[source_of] != owner_of_image)
    if torn.size:
        source = source_of[torn[0]]
        one, other = names[owner_of_image[torn[0]]], names[owners[source]]
        raise BadInput(
            f"Source {source} has images of two owners, {one!r} and {other!r}, in "
            f"column {column!r}. Give each source one owner, or choose another column."
        )
    return owners


def _is_missing(value: Any) -> bool:
    is_nan = value != value
    return value is None or is_nan or not str(value).strip()


def _in_order(names: set[str]) -> list[str]:
    # Whole numbers arrive as numbers from JSON and as text from CSV; both must give
    # the same order.
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _unknown(option: str, column: str, known: list[str]) -> BadInput:
    near = difflib.get_close_matches(column, known, n=1)
    advice = f" Did you mean {near[0]!r}?" if near else ""
    return BadInput(
        f"data.{option} is {column!r}, which is no column of the metadata; allowed: "
        f"{', '.join(known)}.{advice}"
    )
