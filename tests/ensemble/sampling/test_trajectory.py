"""The one sampling loop, with every scheduler."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ensemble.models.objective import OBJECTIVES
from ensemble.run.config import ModelConfig, SamplingConfig
from ensemble.sampling import schedulers
from ensemble.sampling.schedulers import SCHEDULERS, sampler
from ensemble.sampling.trajectory import Sampling, Trajectory
from splits.errors import BadInput

PAIRS = [
    (scheduler, prediction)
    for scheduler in SCHEDULERS
    for prediction in ("epsilon", "v_prediction")
]


def drawn(seed, n_images=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_images, 1, 4, 4, generator=generator, dtype=torch.float64)


def sampling_of(scheduler, prediction="epsilon", n_steps=20):
    settings = SamplingConfig(scheduler=scheduler, n_steps=n_steps)
    model = ModelConfig(prediction_type=prediction)
    return Sampling(sampler(model, settings), n_steps)


@pytest.mark.parametrize(("scheduler", "prediction"), PAIRS)
def test_every_sampler_ends_at_the_only_image_there_is(scheduler, prediction):
    # A perfect denoiser of one image knows what was added to it, at any state.
    objective = OBJECTIVES[prediction](ModelConfig(prediction_type=prediction))
    clean = drawn(0)
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    walk = Trajectory(sampling_of(scheduler, prediction), drawn(1), generators)
    for moment in walk:
        time = moment.timestep.round().long()
        kept = objective.schedule.alphas_cumprod[time].double()
        noise = (moment.scaled - kept.sqrt() * clean) / (1 - kept).sqrt()
        walk.step(objective.target(clean, noise, time.expand(len(clean))))
    torch.testing.assert_close(walk.states, clean, rtol=0.05, atol=0.05)


def test_flow_matching_ends_at_the_only_image_there_is():
    flow = OBJECTIVES["flow"](ModelConfig())
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(flow.scheduler_config)
    clean, noise = drawn(0), drawn(1)
    walk = Trajectory(Sampling(scheduler, 7), noise)
    for moment in walk:
        share = moment.timestep.double() / flow.n_times
        torch.testing.assert_close(
            moment.scaled.double(),
            (1 - share) * clean + share * noise,
            rtol=1e-4,
            atol=1e-4,
        )
        walk.step(noise - clean)
    torch.testing.assert_close(walk.states.double(), clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_trajectory_leaves_the_scheduler_as_it_was(scheduler):
    sampling = sampling_of(scheduler, n_steps=3)
    ends = []
    for _ in range(2):
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        walk = Trajectory(sampling, drawn(1), generators)
        assert [moment.number for moment in walk if not walk.step(moment.states)] == [
            0,
            1,
            2,
        ]
        ends.append(walk.states)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_states_can_become_several():
    walk = Trajectory(sampling_of("ddim", n_steps=2), drawn(1))
    state_of = torch.tensor([0, 0, 1])
    for moment in walk:
        if moment.number == 0:
            walk.step(moment.scaled[state_of], state_of)
        else:
            walk.step(moment.scaled)
    assert len(walk.states) == 3
    torch.testing.assert_close(walk.states[0], walk.states[1], rtol=0, atol=0)


def test_a_step_that_is_left_out_is_noticed():
    with pytest.raises(RuntimeError, match="was to go on before it was stepped"):
        for _ in Trajectory(sampling_of("ddim", n_steps=2), drawn(1)):
            pass


def test_a_state_that_is_not_finite_names_the_scheduler():
    walk = Trajectory(sampling_of("ddim", n_steps=2), drawn(1))
    moment = next(iter(walk))
    with pytest.raises(BadInput, match="DDIMScheduler"):
        walk.step(moment.states * math.nan)


def test_schedulers_that_scale_nothing_are_given_the_states_themselves():
    scheduler = FlowMatchEulerDiscreteScheduler()
    states = drawn(0)
    assert schedulers.initial_scale(scheduler) == 1
    assert schedulers.scaled_input(scheduler, states, torch.tensor(1.0)) is states
