"""Losses of many models at the same pictures, with the same noise for all of them.

Noise is keyed by picture and draw, never by model, so that differences between models
are differences of their weights alone. Its seed is not the scorers' seed, so no scorer
predicts losses at noise that it has used.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn
from tqdm.auto import tqdm

from ensemble.models.denoisers import load_member
from ensemble.models.objective import Objective
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries, on_device
from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.per_example import Draws, States
from ensemble.scorers.interface import Examples

SEED = 1_000_000
# Noisy pictures that are held, and that one forward pass looks at.
MOST_HELD, MOST_AT_ONCE = 2**28, 1024


def examples_of(pipe: EnsemblePipeline, asked: Queries) -> Examples:
    """Queries as pictures to be noised, each keyed by its seed."""
    return Examples(
        images=on_device(pipe, asked.images.copy()),
        condition=asked.condition(pipe),
        keys=torch.from_numpy(asked.seeds.copy()).to(pipe.members.device),
    )


def measure(
    folders: Sequence[Path],
    objective: Objective,
    pictures: Examples,
    n_draws: int,
    side_by_side: int = 1,
) -> Float64[np.ndarray, "models pictures"]:
    """Mean denoising loss of every model at every picture.

    Args:
        folders: One a model.
        objective: What they were trained to predict.
        pictures: At which.
        n_draws: Timesteps, spread over the schedule, with one noise each.
        side_by_side: Models that are looked at the same time.
    """
    draws = Draws(n_timesteps=n_draws, seed=SEED)
    numbers = pictures.images[0].numel() * pictures.images.element_size()
    size = max(1, MOST_HELD // (numbers * n_draws))
    found = np.empty((len(folders), len(pictures)))
    for first in range(0, len(pictures), size):
        block = slice(first, first + size)
        states = per_example.draw_states(objective, pictures[block], draws)
        with ThreadPoolExecutor(side_by_side) as pool:
            rows = pool.map(lambda folder, at=states: _mean_loss(folder, at), folders)
            bar = tqdm(
                rows, total=len(folders), desc="measuring", unit=" models", disable=None
            )
            found[:, block] = np.stack(list(bar))
    return found


@torch.no_grad()
def _mean_loss(folder: Path, states: States) -> Float64[np.ndarray, " pictures"]:
    network = nn.Module.to(load_member(folder), states.noisy.device, states.noisy.dtype)
    n_pictures = len(states.noisy)
    # Not every device knows float64.
    total = torch.zeros(n_pictures, dtype=torch.float64)
    size = max(1, MOST_AT_ONCE // n_pictures)
    for first in range(0, states.n_draws, size):
        some = states.at(slice(first, first + size))
        losses = per_example.values(network, some, "loss")
        total += losses.cpu().sum(dim=1, dtype=torch.float64)
    return (total / states.n_draws).numpy()
