"""How far from each query a network's own picture lies, sampled from the same noise."""

import numpy as np
from jaxtyping import Float64

from ensemble.run.cache import digest_of
from ensemble.sampling.queries import distance
from ensemble.scorers.gradients import cache
from ensemble.scorers.interface import (
    Alone,
    Setting,
)
from splits.errors import BadInput


def query_displacements(setting: Setting) -> Float64[np.ndarray, "networks queries"]:
    """Root mean squared difference of pixels between every network's and the query's.

    They are kept on disk, as losses are.

    Raises:
        BadInput: If no noise leads to the queries, or nothing samples with it.
    """
    if setting.alone is None:
        raise BadInput(
            "What networks make of the queries' noise is asked for, and this setting "
            "has no sampler. Give it `alone`, or measure losses."
        )
    numbers = range(len(setting.networks))
    return np.stack([_kept(setting, setting.alone, number) for number in numbers])


def _kept(
    setting: Setting, alone: Alone, number: int
) -> Float64[np.ndarray, " queries"]:
    facts = {
        "network": cache.of_network(setting, setting.networks[number]),
        "queries": cache.of_examples(setting.queries),
        "sampler": alone.sampler,
    }

    def measure() -> Float64[np.ndarray, " queries"]:
        images = setting.queries.images.cpu().numpy()
        return distance(alone.pictures(number), images)

    found, cost = setting.cache.array(f"displacements-{digest_of(facts)}", measure)
    setting.work.seconds_before += cost.get("seconds", 0)
    return found
