"""Similarities of gradients against their formulas, with whole gradients."""

import dataclasses

import numpy as np
import pytest

from ensemble.scorers.methods.pruthi2020tracin import (
    Gas,
    GradientCosine,
    GradientDot,
    TracIn,
)
from tests.ensemble.scorers import tiny_context
from tests.ensemble.scorers.references import agree, expected, norms, whole


def test_gradient_dot_is_the_mean_inner_product_over_networks_that_saw(tmp_path):
    context = tiny_context.context(tmp_path)
    wanted = expected(context, lambda train, queries: queries @ train.T)
    agree(GradientDot(whole()).score(context), wanted)


def test_gradient_cosine_is_the_mean_cosine(tmp_path):
    context = tiny_context.context(tmp_path)
    wanted = expected(
        context,
        lambda train, queries: (
            queries @ train.T / norms(queries)[:, None] / norms(train)
        ),
    )
    agree(GradientCosine(whole()).score(context), wanted)


@pytest.mark.parametrize(
    ("method", "single"), [(TracIn, GradientDot), (Gas, GradientCosine)]
)
def test_checkpoints_are_averaged_and_the_finished_network_alone_is_similarity(
    tmp_path, method, single
):
    context = tiny_context.context(tmp_path)
    assert np.array_equal(
        method(whole()).score(context), single(whole()).score(context)
    )
    earlier = context.networks[1:] + context.networks[:1]
    pairs = list(zip(earlier, context.networks, strict=True))
    followed = dataclasses.replace(context, checkpoints=pairs.__getitem__, notes=[])
    found = method(whole()).score(followed)
    assert followed.notes == [{"checkpoints": 2}] * 4
    then = single(whole()).score(dataclasses.replace(context, networks=earlier))
    now = single(whole()).score(context)
    agree(found, (then.astype(np.float64) + now) / 2)
