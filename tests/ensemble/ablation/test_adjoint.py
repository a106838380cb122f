"""The pass back is the transpose of the tangents; few members do, on average.

Everything here is float64, so that roads may be told apart from rounding.
"""

import numpy as np
import pytest
import torch

from ensemble.ablation import tangents
from ensemble.ablation.adjoint import adjoint, sketch
from ensemble.system import seeding
from splits.errors import BadInput
from tests import tiny
from tests.ensemble.ablation.test_first_order import (
    HALVES,
    IN_FLOAT32,
    SINGLE_STEP,
    Constant,
    Gaussian,
    Linear,
    ensemble_of,
    gaussian_pictures,
    queries_of,
)

WEIGHT = torch.randn(1, 8, 8, generator=seeding.generator(0, "weight")).double()


def weighted(images):
    return (images * WEIGHT).sum(dim=(1, 2, 3))


def by_tangents(pipe, queries):
    """The naive twin: all tangents, read off one by one."""
    jacobian = tangents.tangents(pipe, queries).jacobian
    found = np.einsum("p,qpm->qm", WEIGHT.flatten().numpy(), jacobian)
    return found - found.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("kind", [Constant, Linear, None])
@pytest.mark.parametrize("scheduler", SINGLE_STEP)
def test_the_adjoint_is_the_transpose_of_the_tangents(kind, scheduler):
    pipe = ensemble_of(kind, scheduler) if kind else tiny.ensemble(scheduler=scheduler)
    queries = queries_of(pipe)
    found = adjoint(pipe, queries, weighted)
    tolerance = 1e-4 if scheduler in IN_FLOAT32 else 1e-9
    np.testing.assert_allclose(
        found.by_vote, by_tangents(pipe, queries), rtol=tolerance, atol=1e-12
    )
    # Generating, and once more where derivatives are taken; 2 queries, 4 steps.
    assert found.member_forwards == 2 * 2 * 4 * 4
    assert found.reverse_passes == 2 * 4 * 4


def test_guidance_and_labels_enter_the_pass_back():
    pipe = tiny.ensemble(n_classes=3)
    pipe.register_to_config(guidance_scale=2.0)
    queries = queries_of(pipe, labels=[1, 2])
    np.testing.assert_allclose(
        adjoint(pipe, queries, weighted).by_vote,
        by_tangents(pipe, queries),
        rtol=1e-6,
        atol=1e-9,
    )


def test_one_member_a_step_is_right_on_average_and_costs_little():
    pipe = ensemble_of(Linear)
    queries = queries_of(pipe, 1)
    exact = adjoint(pipe, queries, weighted).by_vote
    draws = [adjoint(pipe, queries, weighted, 1, seed) for seed in range(60)]
    found = np.stack([draw.by_vote for draw in draws])
    spread = np.linalg.norm(found - exact, axis=(1, 2)).mean()
    assert spread > 1e-6
    off = np.linalg.norm(found.mean(axis=0) - exact)
    assert off / spread < 4 / np.sqrt(60)
    # 4 steps: 4 members to generate, one of them once more.
    assert draws[0].member_forwards == 4 * (4 + 1)
    assert draws[0].reverse_passes == 4


def test_members_side_by_side_find_the_same():
    pipe = tiny.ensemble()
    queries = queries_of(pipe)
    alone = adjoint(pipe, queries, weighted).by_vote
    pipe.members.side_by_side = 2
    np.testing.assert_array_equal(adjoint(pipe, queries, weighted).by_vote, alone)


def test_gaussian_data_has_a_closed_form():
    levels = tiny.ensemble().scheduler.alphas_cumprod.double()
    pipe = ensemble_of(lambda member: Gaussian(member, levels))
    queries = queries_of(pipe)
    equal = np.full((1, 4), 0.25)
    moved = gaussian_pictures(pipe, queries, HALVES)
    moved = moved - gaussian_pictures(pipe, queries, equal)
    found = adjoint(pipe, queries, lambda images: images.mean(dim=(1, 2, 3)))
    brighter = moved.mean(dim=(2, 3, 4)).numpy()
    np.testing.assert_allclose(found.by_vote @ (HALVES - equal).T, brighter, rtol=1e-4)


def test_the_sketch_approaches_the_gram_matrix():
    pipe = ensemble_of(Linear)
    queries = queries_of(pipe)
    jacobian = tangents.tangents(pipe, queries).jacobian
    jacobian = jacobian - jacobian.mean(axis=2, keepdims=True)
    gram = jacobian.transpose(0, 2, 1) @ jacobian / jacobian.shape[1]
    errors = [
        np.linalg.norm(sketch(pipe, queries, n_probes) - gram) / np.linalg.norm(gram)
        for n_probes in (4, 128)
    ]
    # Relative error about sqrt(2 / n_probes) for a Wishart matrix; 3 times that.
    assert errors[1] < 3 * np.sqrt(2 / 128)
    assert errors[1] < errors[0]


def test_schedulers_with_memory_have_no_adjoint():
    pipe = tiny.ensemble(scheduler="dpmsolver++")
    with pytest.raises(BadInput, match="uses earlier predictions"):
        adjoint(pipe, queries_of(pipe), lambda images: images.sum())
