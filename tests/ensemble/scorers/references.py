"""Naive twins: one image, one draw, one network at a time, and dense algebra."""

import dataclasses

import numpy as np
import torch

from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.features import Feature
from ensemble.scorers.gradients.per_example import Draws, States
from ensemble.scorers.interface import Examples, ScoringContext
from tests.ensemble.scorers.tiny_context import DRAWS, WHOLE

DAMPING = 0.3


def gradient_of(network, states: States, image: int, draw: int, output: str):
    """Torch's gradient by all weights, at one image and one draw."""
    alone = States(
        noisy=states.noisy[image : image + 1, draw : draw + 1],
        target=states.target[image : image + 1, draw : draw + 1],
        timesteps=states.timesteps[draw : draw + 1],
        weights=states.weights[draw : draw + 1],
        condition=states.condition[image : image + 1],
    )
    value = per_example.values(network, alone, output).sum()
    parts = torch.autograd.grad(value, list(network.parameters()))
    return torch.cat([part.flatten() for part in parts])


def features(
    context: ScoringContext,
    network,
    examples: Examples,
    output: str,
    draws: Draws,
    unit: bool = False,
) -> np.ndarray:
    """Whole gradients, averaged over draws."""
    states = per_example.draw_states(context.objective, examples, draws)
    rows = []
    for image in range(len(examples)):
        drawn = [
            gradient_of(network, states, image, draw, output)
            for draw in range(len(draws))
        ]
        drawn = [row / row.norm() for row in drawn] if unit else drawn
        rows.append(torch.stack(drawn).mean(dim=0))
    return torch.stack(rows).numpy()


def inverse_kernel(train: np.ndarray, damping: float):
    """(GGᵀ + λI)⁻¹, so that K_λ⁻¹ = (I - Gᵀ(GGᵀ + λI)⁻¹G) / λ can be applied."""
    level = damping * np.square(train).sum(axis=1).mean()
    small = np.linalg.inv(train @ train.T + level * np.eye(len(train)))

    def solved(rows: np.ndarray) -> np.ndarray:
        return (rows - rows @ train.T @ small @ train) / level

    return solved


def whole(**changes) -> Feature:
    """Unprojected gradients with other options."""
    return dataclasses.replace(WHOLE, **changes)


def expected(context, formula, output="loss", unit=False) -> np.ndarray:
    """Mean of formula(train, queries) over the networks that saw an image."""
    total = np.zeros((3, 12))
    for network, saw in zip(context.networks, context.saw, strict=True):
        train, queries = (
            features(context, network, examples, output, DRAWS, unit)
            for examples in (context.train, context.queries)
        )
        total[:, saw] += formula(train[saw], queries)
    return total / context.saw.sum(axis=0)


def agree(found, wanted) -> None:
    """Scores are single precision."""
    np.testing.assert_allclose(
        found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max()
    )


def norms(rows) -> np.ndarray:
    """Length of each row."""
    return np.linalg.norm(rows, axis=1)


def trak(train, queries) -> np.ndarray:
    """TRAK by dense algebra."""
    return inverse_kernel(train, DAMPING)(queries) @ train.T
