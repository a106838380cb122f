"""How far from each query a network's own picture lies, sampled from the same noise."""

import numpy as np
from jaxtyping import Float64

from ensemble.run.cache import digest_of
from ensemble.sampling.queries import distance
from ensemble.scorers.gradients import cache
from ensemble.scorers.interface import MemberSamples, ScoringContext
from splits.errors import BadInput


def query_displacements(
    context: ScoringContext,
) -> Float64[np.ndarray, "networks queries"]:
    """Root mean squared difference of pixels between every network's and the query's.

    They are kept on disk, as losses are.

    Raises:
        BadInput: If no noise leads to the queries, or nothing samples with it.
    """
    if context.member_samples is None:
        raise BadInput(
            "A displacement needs the picture that each network samples alone, and this "
            "scoring context has no sampler. Give it `member_samples`, or measure losses."
        )
    numbers = range(len(context.networks))
    return np.stack(
        [_cached(context, context.member_samples, number) for number in numbers]
    )


def _cached(
    context: ScoringContext, member_samples: MemberSamples, number: int
) -> Float64[np.ndarray, " queries"]:
    facts = {
        "network": cache.of_network(context, context.networks[number]),
        "queries": cache.of_examples(context.queries),
        "sampler": member_samples.sampler,
    }

    def measure() -> Float64[np.ndarray, " queries"]:
        images = context.queries.images.cpu().numpy()
        return distance(member_samples.images(number), images)

    found, cost = context.cache.array(f"displacements-{digest_of(facts)}", measure)
    context.work.seconds_before += cost.get("seconds", 0)
    return found
