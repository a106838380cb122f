"""What every objective promises: noising, target and clean image belong together."""

import pytest
import torch

from ensemble.models.objective import OBJECTIVES, objective_of
from ensemble.run.config import ModelConfig
from splits.errors import BadInput

N_TIMES = 50


def built(name, **changes):
    settings = ModelConfig(n_timesteps=N_TIMES, **changes)
    return OBJECTIVES[name](settings)


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return built(request.param)


def drawn(n_images=6):
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(
        2, n_images, 1, 4, 4, generator=generator, dtype=torch.float64
    )
    return clean, noise


def test_a_config_chooses_its_objective():
    for name in ("epsilon", "v_prediction"):
        found = objective_of(ModelConfig(prediction_type=name, n_timesteps=N_TIMES))
        assert (found.name, found.n_times) == (name, N_TIMES)


def test_a_right_prediction_leads_back_to_the_clean_image(objective):
    clean, noise = drawn(1)
    for time in objective.even_times(7):
        noisy = objective.perturb(clean, noise, time[None])
        prediction = objective.target(clean, noise, time[None])
        found = objective.clean_estimate(noisy, prediction, time)
        torch.testing.assert_close(found, clean, rtol=1e-4, atol=1e-4)


def test_images_at_times_of_their_own_do_not_mix(objective):
    clean, noise = drawn()
    times = objective.even_times(len(clean)).flip(0)
    for image in range(len(clean)):
        one = slice(image, image + 1)
        for made in (objective.perturb, objective.target):
            together = made(clean, noise, times)[one]
            alone = made(clean[one], noise[one], times[one])
            torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_a_clean_estimate_is_affine_in_the_prediction(objective):
    # So that guidance and averaging by votes may act on predictions.
    clean, noise = drawn(2)
    time = objective.even_times(3)[1]
    noisy = objective.perturb(clean, noise, time.expand(2))
    ends = [objective.clean_estimate(noisy, one, time) for one in (clean, noise)]
    middle = objective.clean_estimate(noisy, 0.3 * clean + 0.7 * noise, time)
    torch.testing.assert_close(middle, 0.3 * ends[0] + 0.7 * ends[1])


def test_times_are_those_that_the_denoiser_knows(objective):
    first, last = objective.first_time, objective.first_time + N_TIMES - 1
    every = objective.even_times(N_TIMES)
    assert every.tolist() == list(range(first, last + 1))
    sampled = objective.sample_times(4000, torch.Generator().manual_seed(0))
    assert sampled.unique().tolist() == every.tolist()
    for shift in (0.0, 0.5, 0.999999):
        shifted = objective.shifted_times(5, torch.tensor(shift))
        assert (shifted.diff() > 0).all()
        assert first <= shifted.min() <= shifted.max() <= last


def test_more_noise_is_left_at_later_times(objective):
    clean, noise = drawn(1)
    kept = [
        float((objective.perturb(clean, noise, time[None]) - noise).square().mean())
        for time in objective.even_times(9)
    ]
    assert all(late < early for early, late in zip(kept, kept[1:], strict=False))


def test_a_bound_has_weights_and_what_has_none_refuses(objective):
    times = objective.even_times(5)
    if objective.has_bound:
        assert (objective.elbo_weight(times) > 0).all()
        assert objective.elbo_weight(times).shape == times.shape
    else:
        with pytest.raises(BadInput, match="no variational bound to weigh losses by"):
            objective.elbo_weight(times)


def test_a_velocity_is_weighted_so_that_its_error_counts_as_that_of_noise():
    clean, noise = drawn(1)
    epsilon, velocity = built("epsilon"), built("v_prediction")
    for time in epsilon.even_times(5):
        noisy = epsilon.perturb(clean, noise, time[None])
        error = torch.full_like(clean, 0.1)
        wrong = velocity.target(clean, noise, time[None]) + error
        found = velocity.clean_estimate(noisy, wrong, time)
        kept = epsilon.schedule.alphas_cumprod[time].double()
        as_noise = (noisy - kept.sqrt() * found) / (1 - kept).sqrt() - noise
        torch.testing.assert_close(
            velocity.elbo_weight(time[None]) * error.square().mean(),
            (epsilon.elbo_weight(time[None]) * as_noise.square().mean()),
            rtol=1e-3,
            atol=1e-9,
            check_dtype=False,
        )


def test_flow_goes_straight():
    flow, (clean, noise) = built("flow"), drawn(2)
    times = torch.tensor([1, N_TIMES])
    noisy = flow.perturb(clean, noise, times)
    torch.testing.assert_close(noisy[0], clean[0] + (noise - clean)[0] / N_TIMES)
    torch.testing.assert_close(noisy[1], noise[1])
    torch.testing.assert_close(flow.target(clean, noise, times), noise - clean)


def test_other_objectives_have_other_identities():
    def told(objective):
        return {
            name: fact.tolist() if isinstance(fact, torch.Tensor) else fact
            for name, fact in objective.identity().items()
        }

    made = [built(name) for name in OBJECTIVES]
    made += [built("epsilon", schedule="cosine")]
    made += [one(ModelConfig(n_timesteps=9)) for one in OBJECTIVES.values()]
    found = [told(one) for one in made]
    assert all(one != other for one in found for other in found if one is not other)
