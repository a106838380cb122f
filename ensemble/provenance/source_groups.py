"""Which images are one source, before anybody has a code."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int64

from ensemble.data.datasets import TrainingImages
from ensemble.run.config import DataConfig
from splits import duplicates, owners, sources, spelling
from splits.owners import OwnerSets


@dataclass(frozen=True, eq=False)
class Grouping:
    """Which images are one source, before anybody has a code.

    Attributes:
        source_of: The source of each training image.
        names: One per source.
        sets: Who has a part in which source, if images can have several owners.
        pairs: Images that are nearly the same, if those are one source: up to twice the
            threshold apart, the closest first.
        distances: How far apart they are.
    """

    source_of: Int[np.ndarray, " images"]
    names: list[str]
    sets: OwnerSets | None = None
    pairs: Int64[np.ndarray, "pairs two"] | None = None
    distances: Float32[np.ndarray, " pairs"] | None = None

    @property
    def n_coded(self) -> int:
        """How many codes are drawn: one for each owner, or for each source."""
        return len(self.sets.owner_names if self.sets else self.names)


def grouped(config: DataConfig, data: TrainingImages) -> Grouping:
    """Which images are one source.

    Raises:
        BadInput: If the data do not have what the config groups them by.
    """
    if config.source == sources.NEAR_DUPLICATES:
        return _clustered(config, data)
    if config.separator:
        values = sources.values_of(config.source, len(data.images), data.columns)
        sets = owners.owner_sets(values, config.separator, config.source)
        spelling.require_one(sets.owner_names, config.source)
        return Grouping(sets.source_of, sets.source_names, sets)
    source_of, names = sources.assign(config.source, data.names, data.columns)
    if config.source != sources.IMAGE:
        spelling.require_one(names, config.source)
    return Grouping(source_of, names)


def _clustered(config: DataConfig, data: TrainingImages) -> Grouping:
    """A cluster is called after the first of its images."""
    pairs, distances = duplicates.near_pairs(data.pictures(), 2 * config.near)
    near = pairs[distances <= config.near]
    first = duplicates.clusters(len(data.images), near)
    names = [data.names[image] for image in first]
    source_of, names = sources.by_column(names, config.source)
    return Grouping(source_of, names, None, pairs, distances)
