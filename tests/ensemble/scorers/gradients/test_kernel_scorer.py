"""What all methods of the TRAK family promise, and those that look at gradients."""

import dataclasses

import numpy as np
import pytest
import torch

from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.methods.georgiev2023journey import JourneyTrak
from ensemble.scorers.methods.lin2025das import Das
from ensemble.scorers.methods.park2023trak import (
    DTrak,
    RelativeInfluence,
    RenormalisedInfluence,
    Trak,
)
from ensemble.scorers.methods.pruthi2020tracin import GradientCosine, GradientDot
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_context
from tests.ensemble.scorers.references import DAMPING, agree, expected, trak, whole


def test_infinite_damping_makes_trak_the_inner_product(tmp_path):
    context = tiny_context.of_reference(tiny_context.context(tmp_path))
    dot = GradientDot(whole()).score(context)
    found = Trak(whole(), 1e9).score(context)
    agree(found / np.abs(found).max(), dot / np.abs(dot).max())


def test_an_image_that_fewer_networks_saw_scores_no_less_for_that(tmp_path):
    context = tiny_context.first(tiny_context.context(tmp_path), 3)
    assert set(context.saw.sum(axis=0)) == {1, 2}
    same = dataclasses.replace(context, networks=context.networks[:1] * 3)
    reference = tiny_context.of_reference(context)
    agree(GradientDot(whole()).score(same), GradientDot(whole()).score(reference))
    agree(Trak(whole(), DAMPING).score(context), expected(context, trak))


def test_a_network_scores_only_what_it_saw(tmp_path):
    plain = tiny_context.context(tmp_path)
    alone = dataclasses.replace(plain, networks=plain.networks[:1], saw=plain.saw[:1])
    for method in (GradientDot(whole()), Trak(whole()), Das(whole(output="mean"))):
        score = method.score(alone)
        assert (score[:, ~plain.saw[0]] == 0).all()
        assert (score[:, plain.saw[0]] != 0).all()


def test_training_on_the_query_itself_is_the_most_helpful(tmp_path):
    """Its removal raises the query's loss most: the sign, in a single case."""
    plain = tiny_context.of_reference(tiny_context.context(tmp_path))
    asked = torch.tensor([7, 2, 4])
    context = dataclasses.replace(plain, queries=plain.train[asked])
    feature = whole(draws=Draws(n_timesteps=3))
    for method in (GradientCosine(feature), RelativeInfluence(feature)):
        score = method.score(context)
        assert score.argmax(axis=1).tolist() == asked.tolist()
        assert (score.max(axis=1) > 0).all()


@pytest.mark.parametrize(
    "method", [Trak, DTrak, Das, JourneyTrak, RelativeInfluence, RenormalisedInfluence]
)
def test_damping_that_is_not_positive_is_refused_before_the_work(method):
    with pytest.raises(BadInput, match="must be greater than 0"):
        method(damping=0.0)
