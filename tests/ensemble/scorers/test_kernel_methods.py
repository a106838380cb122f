"""Every method of the TRAK family against its formula, with whole gradients, in float64.

The naive twin differentiates one image at one draw at a time and inverts densely.
"""

import dataclasses

import numpy as np
import pytest
import torch

from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.per_example import (
    OUTPUTS,
    Draws,
)
from ensemble.scorers.methods.barshan2020relatif import RelativeInfluence
from ensemble.scorers.methods.charpiat2019similarity import (
    GradientCosine,
    GradientDot,
)
from ensemble.scorers.methods.georgiev2023journey import JourneyTrak
from ensemble.scorers.methods.hammoudeh2022gas import Gas
from ensemble.scorers.methods.hammoudeh2022renormalised import RenormalisedInfluence
from ensemble.scorers.methods.lin2025das import (
    MOST_LEVERAGE,
    Das,
)
from ensemble.scorers.methods.park2023trak import Trak
from ensemble.scorers.methods.pruthi2020tracin import TracIn
from ensemble.scorers.methods.zheng2024dtrak import DTrak
from splits.errors import BadInput
from tests.ensemble.scorers import references, tiny_setting
from tests.ensemble.scorers.tiny_setting import DRAWS, WHOLE

DAMPING = 0.3


def whole(**changes):
    return dataclasses.replace(WHOLE, **changes)


def expected(setting, formula, output="loss", unit=False):
    """Mean of formula(train, queries) over the networks that saw an image."""
    total = np.zeros((3, 12))
    for network, saw in zip(setting.networks, setting.saw, strict=True):
        train, queries = (
            references.features(setting, network, examples, output, DRAWS, unit)
            for examples in (setting.train, setting.queries)
        )
        total[:, saw] += formula(train[saw], queries)
    return total / setting.saw.sum(axis=0)


def agree(found, wanted):
    np.testing.assert_allclose(
        found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max()
    )


def norms(rows):
    return np.linalg.norm(rows, axis=1)


def trak(train, queries):
    return references.inverse_kernel(train, DAMPING)(queries) @ train.T


def test_gradient_dot_is_the_mean_inner_product_over_networks_that_saw(tmp_path):
    setting = tiny_setting.setting(tmp_path)
    wanted = expected(setting, lambda train, queries: queries @ train.T)
    agree(GradientDot(whole()).score(setting), wanted)


def test_gradient_cosine_is_the_mean_cosine(tmp_path):
    setting = tiny_setting.setting(tmp_path)
    wanted = expected(
        setting,
        lambda train, queries: (
            queries @ train.T / norms(queries)[:, None] / norms(train)
        ),
    )
    agree(GradientCosine(whole()).score(setting), wanted)


def test_trak_is_its_formula(tmp_path):
    setting = tiny_setting.setting(tmp_path)
    agree(Trak(whole(), DAMPING).score(setting), expected(setting, trak))


@pytest.mark.parametrize("output", sorted(set(OUTPUTS) - {"loss"}))
def test_dtrak_is_trak_with_another_output(tmp_path, output):
    setting = tiny_setting.of_reference(tiny_setting.setting(tmp_path))
    found = DTrak(whole(output=output), DAMPING).score(setting)
    agree(found, expected(setting, trak, output))


def test_relative_influence_is_divided_by_the_step_of_the_weights(tmp_path):
    setting = tiny_setting.setting(tmp_path)

    def formula(train, queries):
        steps = norms(references.inverse_kernel(train, DAMPING)(train))
        return trak(train, queries) / steps

    found = RelativeInfluence(whole(), DAMPING).score(setting)
    agree(found, expected(setting, formula))


def test_renormalised_influence_is_divided_by_the_gradients_length(tmp_path):
    setting = tiny_setting.setting(tmp_path)
    wanted = expected(
        setting, lambda train, queries: trak(train, queries) / norms(train)
    )
    agree(RenormalisedInfluence(whole(), DAMPING).score(setting), wanted)


def shares(setting):
    """The released residual, from every error at every draw."""
    states = per_example.drawn_states(setting.schedule, setting.train, DRAWS)
    errors = per_example.values(setting.networks[0], states, "loss").detach().sqrt()
    return (errors.mean(dim=1) / errors.norm(dim=1)).numpy()


@pytest.mark.parametrize(
    ("unit", "residual", "leverage", "square"),
    [
        (True, DRAWS, True, True),
        (False, DRAWS, True, True),
        (True, None, True, True),
        (True, DRAWS, False, True),
        (True, DRAWS, True, False),
        (False, None, False, False),
    ],
)
def test_das_is_its_formula_with_every_part_a_switch(
    tmp_path, unit, residual, leverage, square
):
    setting = tiny_setting.of_reference(tiny_setting.setting(tmp_path))

    def formula(train, queries):
        score = trak(train, queries)
        if residual is not None:
            score = score * shares(setting)
        if leverage:
            solved = references.inverse_kernel(train, DAMPING)(train)
            explained = np.einsum("iw,iw->i", train, solved)
            score = score / (1 - explained.clip(max=MOST_LEVERAGE))
        return score**2 if square else score

    feature = whole(output="mean", unit_draws=unit)
    found = Das(feature, DAMPING, residual, leverage, square).score(setting)
    agree(found, expected(setting, formula, "mean", unit))


def test_every_part_of_das_matters(tmp_path):
    setting = tiny_setting.of_reference(tiny_setting.setting(tmp_path))
    feature = whole(output="mean", unit_draws=True)
    full = Das(feature, DAMPING, DRAWS)
    variants = [
        full,
        dataclasses.replace(full, feature=whole(output="mean")),
        dataclasses.replace(full, residual=None),
        dataclasses.replace(full, leverage=False),
        dataclasses.replace(full, square=False),
        dataclasses.replace(full, damping=2 * DAMPING),
    ]
    scores = [variant.score(setting) for variant in variants]
    for another in scores[1:]:
        assert not np.allclose(another, scores[0], rtol=1e-3)


def test_das_squares_after_dividing_so_its_scores_are_never_negative(tmp_path):
    setting = tiny_setting.of_reference(tiny_setting.setting(tmp_path))
    full = Das(whole(output="mean", unit_draws=True), DAMPING, DRAWS)
    signed = dataclasses.replace(full, square=False).score(setting)
    assert (signed < 0).any()
    agree(full.score(setting), signed.astype(np.float64) ** 2)


def test_journey_trak_asks_for_the_loss_at_what_the_sampler_saw(tmp_path):
    setting = tiny_setting.of_reference(tiny_setting.setting(tmp_path))
    draws = Draws(n_timesteps=3, n_noises=2)
    journey, network = tiny_setting.journey(), setting.networks[0]
    levels = journey.timesteps.repeat_interleave(2)
    noise = draws.noise(setting.queries, levels)
    rows = []
    for query in range(3):
        drawn = []
        for draw in range(4):
            clean = journey.clean[query, draw // 2].clamp(-1, 1)[None, None]
            states = per_example.noised(
                setting.schedule,
                clean,
                noise[query, draw][None, None],
                levels[draw : draw + 1],
                None,
            )
            drawn.append(references.gradient_of(network, states, 0, 0, "loss"))
        rows.append(torch.stack(drawn).mean(dim=0).numpy())
    train = references.features(setting, network, setting.train, "loss", draws)
    wanted = trak(train, np.stack(rows))
    agree(JourneyTrak(whole(draws=draws), DAMPING).score(setting), wanted)


def test_without_a_journey_there_is_no_journey_trak(tmp_path):
    setting = dataclasses.replace(tiny_setting.setting(tmp_path), journey=None)
    with pytest.raises(BadInput, match="pictures without a journey"):
        JourneyTrak().score(setting)


def test_infinite_damping_makes_trak_the_inner_product(tmp_path):
    setting = tiny_setting.of_reference(tiny_setting.setting(tmp_path))
    dot = GradientDot(whole()).score(setting)
    found = Trak(whole(), 1e9).score(setting)
    agree(found / np.abs(found).max(), dot / np.abs(dot).max())


@pytest.mark.parametrize(
    ("method", "single"), [(TracIn, GradientDot), (Gas, GradientCosine)]
)
def test_checkpoints_are_averaged_and_the_finished_network_alone_is_similarity(
    tmp_path, method, single
):
    setting = tiny_setting.setting(tmp_path)
    assert np.array_equal(
        method(whole()).score(setting), single(whole()).score(setting)
    )
    earlier = setting.networks[1:] + setting.networks[:1]
    pairs = list(zip(earlier, setting.networks, strict=True))
    followed = dataclasses.replace(setting, checkpoints=pairs.__getitem__, notes=[])
    found = method(whole()).score(followed)
    assert followed.notes == [{"checkpoints": 2}] * 4
    then = single(whole()).score(dataclasses.replace(setting, networks=earlier))
    now = single(whole()).score(setting)
    agree(found, (then.astype(np.float64) + now) / 2)


def test_an_image_that_fewer_networks_saw_scores_no_less_for_that(tmp_path):
    setting = tiny_setting.first(tiny_setting.setting(tmp_path), 3)
    assert set(setting.saw.sum(axis=0)) == {1, 2}
    same = dataclasses.replace(setting, networks=setting.networks[:1] * 3)
    reference = tiny_setting.of_reference(setting)
    agree(GradientDot(whole()).score(same), GradientDot(whole()).score(reference))
    agree(Trak(whole(), DAMPING).score(setting), expected(setting, trak))


def test_a_network_scores_only_what_it_saw(tmp_path):
    plain = tiny_setting.setting(tmp_path)
    alone = dataclasses.replace(plain, networks=plain.networks[:1], saw=plain.saw[:1])
    for method in (GradientDot(whole()), Trak(whole()), Das(whole(output="mean"))):
        score = method.score(alone)
        assert (score[:, ~plain.saw[0]] == 0).all()
        assert (score[:, plain.saw[0]] != 0).all()


def test_training_on_the_query_itself_is_the_most_helpful(tmp_path):
    """Its removal raises the query's loss most: the sign, in a single case."""
    plain = tiny_setting.of_reference(tiny_setting.setting(tmp_path))
    asked = torch.tensor([7, 2, 4])
    setting = dataclasses.replace(plain, queries=plain.train[asked])
    feature = whole(draws=Draws(n_timesteps=3))
    for method in (GradientCosine(feature), RelativeInfluence(feature)):
        score = method.score(setting)
        assert score.argmax(axis=1).tolist() == asked.tolist()
        assert (score.max(axis=1) > 0).all()


@pytest.mark.parametrize(
    "method", [Trak, DTrak, Das, JourneyTrak, RelativeInfluence, RenormalisedInfluence]
)
def test_damping_that_is_not_positive_is_refused_before_the_work(method):
    with pytest.raises(BadInput, match="must be greater than 0"):
        method(damping=0.0)


def test_dtrak_with_the_loss_is_refused():
    with pytest.raises(BadInput, match="is TRAK"):
        DTrak(whole(output="loss"))
