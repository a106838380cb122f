"""Losses of single images at single noise draws."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import nn

from ensemble.run.cache import digest_of
from ensemble.scorers.gradients import batch_size, cache, per_example
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import Examples, ScoringContext


@torch.no_grad()
def losses(
    context: ScoringContext, network: nn.Module, examples: Examples, draws: Draws
) -> Float[np.ndarray, "examples draws"]:
    """Mean squared error of the network's prediction at every image and draw."""
    context.work.forwards += len(examples) * len(draws)
    batch = batch_size.batch(context, network, examples, len(draws), width=0)
    found = []
    for part in batch.parts(len(examples)):
        states = per_example.draw_states(context.objective, examples[part], draws)
        at_draws = [
            per_example.values(network, states.at(chosen), "loss")
            for chosen in batch.draws(len(draws))
        ]
        found.append(torch.cat(at_draws, dim=1).cpu().numpy())
    return np.concatenate(found)


def query_losses(
    context: ScoringContext, draws: Draws
) -> Float64[np.ndarray, "networks queries"]:
    """Mean loss of every network at every query.

    They are kept on disk, so methods that ask for the same ones share them.
    """
    return np.stack([_cached(context, network, draws) for network in context.networks])


def _cached(
    context: ScoringContext, network: nn.Module, draws: Draws
) -> Float64[np.ndarray, " queries"]:
    facts = {
        "network": cache.of_network(context, network),
        "queries": cache.of_examples(context.queries),
        "draws": dataclasses.asdict(draws),
    }

    def measure() -> Float64[np.ndarray, " queries"]:
        found = losses(context, network, context.queries, draws)
        return found.mean(axis=1, dtype=np.float64)

    found, cost = context.cache.array(f"losses-{digest_of(facts)}", measure)
    context.work.seconds_before += cost.get("seconds", 0)
    return found
