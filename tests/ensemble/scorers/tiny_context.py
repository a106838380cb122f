"""A setting that scores in a second: 12 images, 3 queries, tiny networks in float64."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ensemble.models.conditioning import UNCONDITIONAL, ClassLabels, Condition
from ensemble.models.objective import objective_of
from ensemble.run import config_file
from ensemble.scorers.gradients.features import Feature
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.gradients.projection import Projection
from ensemble.scorers.interface import (
    Examples,
    MemberSamples,
    SamplingTrajectory,
    ScoringContext,
)
from tests import tiny
from tests.ensemble.scorers.denoisers import Denoiser

DRAWS = Draws(n_timesteps=3)
FEATURE = Feature(draws=DRAWS, projection=Projection(n_dimensions=64))
WHOLE = Feature(draws=DRAWS, projection=Projection(n_dimensions=None))


def objective(prediction_type: str = "epsilon"):
    """What the networks of all tests are trained to predict."""
    tree = {"run": "none", "model": {"prediction_type": prediction_type}}
    return objective_of(config_file.from_dict(tree).model)


def examples(n_images: int, seed: int, n_classes: int | None = None) -> Examples:
    """Random pictures; their keys start at the seed."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n_images, 1, 8, 8, generator=generator, dtype=torch.float64)
    condition: Condition = UNCONDITIONAL
    if n_classes is not None:
        condition = ClassLabels(torch.arange(n_images) % n_classes, n_classes)
    return Examples(images, condition, seed + torch.arange(n_images))


def trajectory(n_queries: int = 3) -> SamplingTrajectory:
    """What a sampler of two steps might have seen."""
    generator = torch.Generator().manual_seed(2)
    shape = (n_queries, 2, 1, 8, 8)
    clean = torch.randn(shape, generator=generator, dtype=torch.float64)
    return SamplingTrajectory(torch.tensor([700, 200]), clean)


def member_samples(number: int) -> np.ndarray:
    """What a network might have made of the noise of three queries."""
    rng = np.random.default_rng(number)
    return rng.standard_normal((3, 1, 8, 8)).astype(np.float32)


def context(folder: Path) -> ScoringContext:
    """Four networks of which each saw half of six sources; two images a source."""
    codes = tiny.codes()
    source_of = np.arange(12) % codes.n_sources
    networks: list[nn.Module] = [
        Denoiser(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 1, 3, padding=1),
            seed=seed,
        )
        for seed in range(codes.n_members)
    ]
    return ScoringContext(
        networks=networks,
        saw=codes.bits[source_of].T.copy(),
        objective=objective(),
        train=examples(12, 0),
        queries=examples(3, 1000),
        source_of=source_of,
        n_sources=codes.n_sources,
        codes=codes,
        max_memory_mb=512,
        folder=folder,
        trajectory=trajectory,
        member_samples=MemberSamples(member_samples, {"sampler": "chance"}),
        scores=scores,
    )


def scores(method: str, which: str, dampings: Sequence[float]) -> np.ndarray:
    """What another method might have scored: three queries, six sources."""
    rng = np.random.default_rng(len(method))
    return rng.standard_normal((1 + len(dampings), 3, 6)).astype(np.float32)


def first(context: ScoringContext, n_networks: int) -> ScoringContext:
    """The same setting with the first so many networks."""
    return dataclasses.replace(
        context, networks=context.networks[:n_networks], saw=context.saw[:n_networks]
    )


def of_reference(context: ScoringContext) -> ScoringContext:
    """The same setting with one network that saw everything."""
    return dataclasses.replace(
        context,
        networks=context.networks[:1],
        saw=np.ones((1, len(context.train)), dtype=bool),
        codes=None,
    )
