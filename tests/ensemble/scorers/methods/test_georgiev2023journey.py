"""Journey-TRAK against its formula, with whole gradients, in float64."""

import dataclasses

import numpy as np
import pytest
import torch

from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.methods.georgiev2023journey import JourneyTrak
from splits.errors import BadInput
from tests.ensemble.scorers import references, tiny_context
from tests.ensemble.scorers.references import DAMPING, agree, trak, whole


def test_journey_trak_asks_for_the_loss_at_what_the_sampler_saw(tmp_path):
    context = tiny_context.of_reference(tiny_context.context(tmp_path))
    draws = Draws(n_timesteps=3, n_noises=2)
    trajectory, network = tiny_context.trajectory(), context.networks[0]
    levels = trajectory.timesteps.repeat_interleave(2)
    noise = draws.noise(context.queries, levels)
    rows = []
    for query in range(3):
        drawn = []
        for draw in range(4):
            clean = trajectory.clean[query, draw // 2].clamp(-1, 1)[None, None]
            states = per_example.add_noise(
                context.objective,
                clean,
                noise[query, draw][None, None],
                levels[draw : draw + 1],
                UNCONDITIONAL,
            )
            drawn.append(references.gradient_of(network, states, 0, 0, "loss"))
        rows.append(torch.stack(drawn).mean(dim=0).numpy())
    train = references.features(context, network, context.train, "loss", draws)
    wanted = trak(train, np.stack(rows))
    agree(JourneyTrak(whole(draws=draws), DAMPING).score(context), wanted)


def test_without_a_journey_there_is_no_journey_trak(tmp_path):
    context = dataclasses.replace(tiny_context.context(tmp_path), trajectory=None)
    with pytest.raises(BadInput, match="pictures without a journey"):
        JourneyTrak().score(context)
