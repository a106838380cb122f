"""Owners: images that belong to several people at once.

An image by Adam and Eve may be used only as long as both agree. So a member trains on
it only if it has the bits of all its owners: images with the same set of owners are one
source, and its code is the intersection of its owners' codes.

Removing an owner removes every source that they have a part in. Let c(o) be the code of
owner o, and c(S) the intersection of c(p) over all p in S, for the sets S of owners
that occur. Removing o silences the union U of all c(S) with o in S.

- Members outside of U saw no image of o, so the removal is exact.
- Each c(S) with o in S lies within c(o), and so does U: removing any owners leaves at
  least the members that the code book of the owners guarantees for them.
- If o is the only owner of some image, {o} is one of the sets, and U = c(o): removing
  the owner silences exactly the members of their own code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from splits.codes import CodeBook
from splits.errors import BadInput
from splits.sources import by_column


@dataclass(frozen=True, eq=False)
class OwnerSets:
    """The owners of each source.

    Attributes:
        source_of: The source of each image; a source is a set of owners.
        source_names: The owners of each source, in one line.
        owner_names: One per owner.
        owned: owned[s, o] is True if owner o has a part in source s.
    """

    source_of: Int64[np.ndarray, " images"]
    source_names: list[str]
    owner_names: list[str]
    owned: Bool[np.ndarray, "sources owners"]

    def sources_of(self) -> dict[str, list[int]]:
        """For each owner, by name: the sources that they have a part in."""
        return {
            name: np.flatnonzero(column).tolist()
            for name, column in zip(self.owner_names, self.owned.T, strict=True)
        }


def owner_sets(values: Sequence[Any], separator: str, column: str) -> OwnerSets:
    """Read the owners of each image from text with a separator.

    Neither order nor repetition of owners matters, nor space around their names.
    Sources and owners are numbered in the order of their names.

    Args:
        values: One text for each image, such as `Eve; Adam`.
        separator: The text between two owners.
        column: The name of the values in error messages.

    Raises:
        BadInput: If an image has no owner, or one without a name, or there are fewer
            than two owners or sets.
    """
    sets = [sorted({part.strip() for part in str(v).split(separator)}) for v in values]
    for image, names in enumerate(sets):
        if not names[0]:
            raise BadInput(
                f"Row {image} of column {column!r} is {values[image]!r}: an owner has "
                "no name. Fill it in, or remove the separator or the image."
            )
    _, owner_names = by_column([name for names in sets for name in names], column)
    texts = [f"{separator} ".join(names) for names in sets]
    source_of, source_names = by_column(texts, column)
    number = {name: owner for owner, name in enumerate(owner_names)}
    owned = np.zeros((len(source_names), len(owner_names)), dtype=bool)
    for source, names in zip(source_of, sets, strict=True):
        owned[source, [number[name] for name in names]] = True
    return OwnerSets(source_of, source_names, owner_names, owned)


def intersect(codes: CodeBook, owned: Bool[np.ndarray, "sources owners"]) -> CodeBook:
    """The code book of sets of owners: a bit is set where all owners' bits are.

    Args:
        codes: The code book of the owners.
        owned: owned[s, o] is True if owner o has a part in source s.

    Raises:
        BadInput: If that leaves a member nothing to train on.
    """
    refused = owned.astype(np.float32) @ (~codes.bits).astype(np.float32)
    return CodeBook(refused == 0)
