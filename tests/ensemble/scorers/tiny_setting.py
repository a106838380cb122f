"""A setting that scores in a second: 8 images, 3 queries, tiny networks in float64."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from ensemble import config as configs
from ensemble.model import noise_schedule
from ensemble.scorers.features import Feature
from ensemble.scorers.gradients import Draws
from ensemble.scorers.projection import Projection
from ensemble.scorers.setting import Examples, Setting
from splits import designs
from tests import tiny

DRAWS = Draws(n_timesteps=3)
FEATURE = Feature(draws=DRAWS, projection=Projection(n_dimensions=64))
WHOLE = Feature(draws=DRAWS, projection=Projection(n_dimensions=None))


def schedule(prediction_type: str = "epsilon"):
    """The noise schedule that all tests share."""
    tree = {"run": "none", "model": {"prediction_type": prediction_type}}
    return noise_schedule(configs.from_dict(tree).model)


def examples(n_images: int, seed: int, n_classes: int | None = None) -> Examples:
    """Random pictures; their keys start at the seed."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n_images, 1, 8, 8, generator=generator, dtype=torch.float64)
    condition = None if n_classes is None else torch.arange(n_images) % n_classes
    return Examples(images, condition, seed + torch.arange(n_images))


def setting(folder: Path, n_classes: int | None = None, n_images: int = 8) -> Setting:
    """Two networks of which each saw half of the sources; two images a source."""
    n_sources = n_images // 2
    codes = designs.draw("partition", n_sources, 2, None, 0)
    source_of = np.repeat(np.arange(n_sources), 2)
    networks = list(tiny.ensemble(n_members=2, n_classes=n_classes).members.networks)
    return Setting(
        networks=networks,
        saw=codes.bits[source_of].T.copy(),
        schedule=schedule(),
        train=examples(n_images, 0, n_classes),
        queries=examples(3, 1000, n_classes),
        source_of=source_of,
        n_sources=n_sources,
        codes=codes,
        max_memory_mb=512,
        folder=folder,
    )


def of_reference(setting: Setting) -> Setting:
    """The same setting with one network that saw everything."""
    return dataclasses.replace(
        setting,
        networks=setting.networks[:1],
        saw=np.ones((1, len(setting.train)), dtype=bool),
        codes=None,
    )
