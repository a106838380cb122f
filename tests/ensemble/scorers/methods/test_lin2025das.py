"""DAS against its formula, with whole gradients, in float64."""

import dataclasses

import numpy as np
import pytest

from ensemble.scorers.gradients import per_example
from ensemble.scorers.methods.lin2025das import MOST_LEVERAGE, Das
from tests.ensemble.scorers import references, tiny_setting
from tests.ensemble.scorers.references import DAMPING, agree, expected, trak, whole
from tests.ensemble.scorers.tiny_setting import DRAWS


def shares(setting):
    """The released residual, from every error at every draw."""
    states = per_example.drawn_states(setting.objective, setting.train, DRAWS)
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
