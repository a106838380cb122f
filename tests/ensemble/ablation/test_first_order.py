"""All roads lead to the same derivative; on members with closed forms, to the formula.

Everything here is float64, so that roads may be told apart from rounding.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ensemble.ablation import coupled, first_order, tangents
from ensemble.ablation.first_order import DESIGNED_ROADS, Road
from ensemble.sampling.queries import Queries, ablated_pictures
from ensemble.system import seeding
from tests import tiny

SINGLE_STEP = ["ddim", "ddpm", "euler"]
ALL = [*SINGLE_STEP, "dpmsolver++"]
IN_FLOAT32 = ["euler", "dpmsolver++"]  # these schedulers compute their steps so


class Constant(nn.Module):
    """A member that predicts one picture, whatever it sees."""

    def __init__(self, member):
        super().__init__()
        keyed = seeding.generator(member, "constant")
        picture = torch.randn(1, 8, 8, generator=keyed).double()
        self.picture = nn.Parameter(picture)

    def forward(self, noisy, timestep, class_labels=None):
        return SimpleNamespace(sample=self.picture.expand_as(noisy))


class Linear(nn.Module):
    """A member whose prediction is linear in the state: what Gaussian data asks for."""

    def __init__(self, member):
        super().__init__()
        keyed = seeding.generator(member, "linear")
        common = torch.randn(64, 64, generator=seeding.generator(0, "common"))
        own = torch.randn(64, 64, generator=keyed)
        self.matrix = nn.Parameter(((common + 0.3 * own) / 40).double())
        self.offset = nn.Parameter(torch.randn(64, generator=keyed).double())

    def forward(self, noisy, timestep, class_labels=None):
        flat = noisy.flatten(1) @ self.matrix.T + self.offset
        return SimpleNamespace(sample=flat.reshape(noisy.shape))


def ensemble_of(kind, scheduler="ddim", n_members=4):
    pipe = tiny.ensemble(n_members, scheduler=scheduler, codes=tiny.codes())
    for member in range(n_members):
        pipe.members.networks[member] = kind(member)
    return pipe


def queries_of(pipe, n_queries=2, labels=None):
    seeds = np.arange(n_queries)
    images = pipe(seeds=seeds, class_labels=labels, output_type="latent").images
    conditions = None if labels is None else np.array(labels)
    return Queries(seeds, conditions, images.float().numpy())


def pictures_at(pipe, queries, votes):
    """The naive twin: sampling with these votes, exactly."""
    of_query = np.repeat(np.arange(len(queries.seeds)), len(votes))
    rows = np.tile(votes, (len(queries.seeds), 1))
    found = ablated_pictures(pipe, queries, of_query, rows)
    return found.unflatten(0, (len(queries.seeds), len(votes)))


def by_differences(pipe, queries, size=1e-5):
    """The naive twin of J: central differences along each member's vote."""
    equal = np.full(4, 0.25)
    directions = np.eye(4) - 0.25
    ends = [
        pictures_at(pipe, queries, equal + sign * size * directions) for sign in (1, -1)
    ]
    return ((ends[0] - ends[1]) / (2 * size)).flatten(2).transpose(1, 2).numpy()


HALVES = np.array([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [1 / 3, 1 / 3, 0, 1 / 3]])


@pytest.mark.parametrize("scheduler", ALL)
def test_following_every_voting_member_is_exact_ablation(scheduler):
    pipe = tiny.ensemble(scheduler=scheduler)
    queries = queries_of(pipe)
    full, beside = coupled.ablated_beside(pipe, queries, HALVES, n_feedback=None)
    torch.testing.assert_close(beside, pictures_at(pipe, queries, HALVES))
    equal = pictures_at(pipe, queries, np.full((1, 4), 0.25))[:, 0]
    torch.testing.assert_close(full, equal)


@pytest.mark.parametrize("kind", [Constant, Linear, None])
@pytest.mark.parametrize("scheduler", ALL)
def test_tangents_are_the_derivative(kind, scheduler):
    pipe = ensemble_of(kind, scheduler) if kind else tiny.ensemble(scheduler=scheduler)
    queries = queries_of(pipe)
    found = tangents.tangents(pipe, queries).jacobian
    # Only changes of votes that sum to zero matter: centre both.
    found = found - found.mean(axis=2, keepdims=True)
    if scheduler in IN_FLOAT32:
        expected, tolerance = by_differences(pipe, queries, size=1e-2), 1e-2
    else:
        expected, tolerance = by_differences(pipe, queries), 1e-6
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < tolerance


def test_attention_has_tangents_too():
    pipe = tiny.ensemble(add_attention=True)
    queries = queries_of(pipe, 1)
    found = tangents.tangents(pipe, queries).jacobian
    expected = by_differences(pipe, queries)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 1e-6


def test_guidance_and_labels_enter_the_derivative():
    pipe = tiny.ensemble(n_classes=3)
    pipe.register_to_config(guidance_scale=2.0)
    queries = queries_of(pipe, labels=[1, 2])
    found = tangents.tangents(pipe, queries).jacobian
    expected = by_differences(pipe, queries)
    np.testing.assert_allclose(
        found - found.mean(axis=2, keepdims=True), expected, rtol=1e-4, atol=1e-5
    )


def test_members_that_predict_a_constant_have_a_closed_form():
    """Pictures are then linear in the votes: first order is exact, for any code."""
    pipe = ensemble_of(Constant)
    queries = queries_of(pipe)
    exact = pictures_at(pipe, queries, HALVES)
    moved = exact - pictures_at(pipe, queries, np.full((1, 4), 0.25))
    expected = moved.square().mean(dim=(2, 3, 4)).sqrt().numpy()
    for found in (
        tangents.tangents(pipe, queries),
        first_order.designed(pipe, queries),
        first_order.designed(pipe, queries, Road(paired=True)),
    ):
        np.testing.assert_allclose(
            first_order.displacement(found.gram, HALVES), expected, rtol=1e-9
        )


SPREAD = 0.5


class Gaussian(nn.Module):
    """The best denoiser of data that is N(mean, SPREAD²) in every pixel.

    ε(x, t) = sqrt(1 - a) (x - sqrt(a) mean) / (a SPREAD² + 1 - a)
    """

    def __init__(self, member, levels):
        super().__init__()
        keyed = seeding.generator(member, "gaussian")
        self.mean = nn.Parameter(torch.randn(1, 8, 8, generator=keyed).double())
        self.levels = levels

    def forward(self, noisy, timestep, class_labels=None):
        level = self.levels[timestep]
        residual = noisy - level.sqrt() * self.mean
        scale = (1 - level).sqrt() / (level * SPREAD**2 + 1 - level)
        return SimpleNamespace(sample=scale * residual)


def gaussian_pictures(pipe, queries, votes):
    """The formula: DDIM shrinks what differs from the mean by a factor a step.

    With a and a' the levels before and after a step, x - sqrt(a) mean is multiplied by
    (sqrt(a a') SPREAD² + sqrt((1 - a) (1 - a'))) / (a SPREAD² + 1 - a).
    """
    levels = pipe.scheduler.alphas_cumprod.double()
    pipe.scheduler.set_timesteps(pipe.sampling().n_steps)
    before = levels[pipe.scheduler.timesteps]
    final = pipe.scheduler.final_alpha_cumprod.double()
    after = torch.cat([before[1:], final[None]])
    kept = (before * after).sqrt() * SPREAD**2 + ((1 - before) * (1 - after)).sqrt()
    factor = (kept / (before * SPREAD**2 + 1 - before)).prod()
    means = torch.stack([network.mean.detach() for network in pipe.members.networks])
    mean = torch.einsum("vm,m...->v...", torch.from_numpy(votes), means)
    noise = queries.noise(pipe).double()[:, None]
    return final.sqrt() * mean + factor * (noise - before[0].sqrt() * mean)


def test_gaussian_data_has_a_closed_form_on_every_road():
    levels = tiny.ensemble().scheduler.alphas_cumprod.double()
    pipe = ensemble_of(lambda member: Gaussian(member, levels))
    queries = queries_of(pipe)
    equal = np.full((1, 4), 0.25)
    expected = gaussian_pictures(pipe, queries, HALVES)
    tolerance = {"rtol": 1e-5, "atol": 1e-6}  # the scheduler's levels are float32
    torch.testing.assert_close(
        pictures_at(pipe, queries, HALVES), expected, **tolerance
    )
    moved = expected - gaussian_pictures(pipe, queries, equal)
    displaced = moved.square().mean(dim=(2, 3, 4)).sqrt().numpy()
    for found in (
        tangents.tangents(pipe, queries),
        *(first_order.designed(pipe, queries, road) for road in DESIGNED_ROADS),
    ):
        predicted = first_order.displacement(found.gram, HALVES)
        np.testing.assert_allclose(predicted, displaced, rtol=1e-5)


def test_one_step_of_constant_members_is_the_schedulers_own_coefficient():
    pipe = ensemble_of(Constant)
    pipe.register_to_config(num_inference_steps=1)
    queries = queries_of(pipe, 1)
    found = tangents.tangents(pipe, queries).jacobian[0]
    scheduler = pipe.scheduler
    level = scheduler.alphas_cumprod[0].double()
    final = scheduler.final_alpha_cumprod.double()
    coefficient = (1 - final).sqrt() - (final * (1 - level) / level).sqrt()
    predicted = torch.stack(
        [network.picture.detach() for network in pipe.members.networks]
    )
    expected = float(coefficient) * predicted.flatten(1).T.numpy()
    np.testing.assert_allclose(
        found - found.mean(axis=1, keepdims=True),
        expected - expected.mean(axis=1, keepdims=True),
        rtol=1e-5,
    )


def test_members_that_bend_alike_are_followed_exactly():
    """Where members differ by constants, any one tells how all of them change."""
    pipe = ensemble_of(Linear)
    for network in pipe.members.networks[1:]:
        network.matrix.data = pipe.members.networks[0].matrix.data
    queries = queries_of(pipe, 2)
    exact = pictures_at(pipe, queries, HALVES)
    for n_feedback in (1, 3):
        found = coupled.ablated_beside(pipe, queries, HALVES, n_feedback)[1]
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("n_feedback", [1, 2, 3, 4, 9])
def test_every_member_has_its_turn_before_any_has_its_second(n_feedback):
    votes, rng = np.full((5, 6), 1 / 6), np.random.default_rng(0)
    ahead = [0, 0, 0, 3, 3]
    shares = coupled._turns(votes, n_feedback, rng, ahead)
    at_once = min(n_feedback, 6)
    for _ in range(3):
        taken = np.stack([next(shares) for _ in range(-(-6 // at_once))])
        np.testing.assert_allclose(taken.sum(axis=2), 1)
        assert ((taken > 0).sum(axis=2) == at_once).all()
        turns = (taken > 0).sum(axis=0)
        assert turns.min() >= 1
        assert turns.max() <= (1 if 6 % at_once == 0 else 2)
        # Those ahead follow others, unless everybody is followed.
        assert (taken[:, 0] == taken[:, 2]).all()
        assert (taken[:, 3] == taken[:, 4]).all()
        assert (taken[0, 0] == taken[0, 3]).all() == (at_once == 6)


def test_all_members_in_turn_are_the_mean_over_members():
    """The naive twin: the recursion written out, with the mean over all of them."""
    pipe = tiny.ensemble()
    queries = queries_of(pipe)
    found = coupled.ablated_beside(pipe, queries, HALVES, n_feedback=4)[1]
    model, scheduler = pipe.members, copy.deepcopy(pipe.sampling().scheduler)
    scheduler.set_timesteps(pipe.sampling().n_steps)
    for query, start in enumerate(queries.noise(pipe)):
        for vector, votes in enumerate(torch.from_numpy(HALVES)):
            full = moved = start[None].double()
            for timestep in scheduler.timesteps:
                at_full, at_moved = (
                    torch.stack([model.predict_by(m, at, timestep) for m in range(4)])
                    for at in (full, moved)
                )
                mean = at_full.mean(dim=0)
                voted = torch.einsum("m,m...->...", votes, at_full)
                voted = voted + at_moved.mean(dim=0) - mean
                moved = scheduler.step(voted, timestep, moved).prev_sample
                full = scheduler.step(mean, timestep, full).prev_sample
            torch.testing.assert_close(found[query, vector], moved[0])


def test_blocks_side_by_side_find_the_same(monkeypatch):
    monkeypatch.setattr(coupled, "IMAGES_OF_A_BLOCK", 2)
    pipe = tiny.ensemble()
    queries = queries_of(pipe)
    alone = first_order.designed(pipe, queries, Road(paired=True))
    pipe.members.side_by_side = 3
    beside = first_order.designed(pipe, queries, Road(paired=True))
    np.testing.assert_array_equal(beside.jacobian, alone.jacobian)
    assert beside.member_forwards == alone.member_forwards


def test_displacement_is_the_quadratic_form():
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(2, 10, 4))
    gram = jacobian.transpose(0, 2, 1) @ jacobian / 10
    found = first_order.displacement(gram, HALVES)
    for query in range(2):
        for vector, votes in enumerate(HALVES):
            moved = jacobian[query] @ (votes - 0.25)
            assert found[query, vector] == pytest.approx(
                np.sqrt(np.square(moved).mean()), rel=1e-12
            )


@pytest.mark.parametrize("n_members", [4, 8, 6, 7])
@pytest.mark.parametrize("paired", [False, True])
def test_a_design_tells_all_members_apart(n_members, paired):
    votes = first_order.design(n_members, paired)
    np.testing.assert_allclose(votes.sum(axis=1), 1)
    centred = votes - 1 / n_members
    assert np.linalg.matrix_rank(centred) == n_members - 1
    half = (votes > 0).sum(axis=1)
    assert set(half) <= {n_members // 2, n_members - n_members // 2}


def test_the_designed_road_does_what_its_options_say():
    pipe = tiny.ensemble()
    queries = queries_of(pipe)
    single = first_order.designed(pipe, queries)
    paired = first_order.designed(pipe, queries, Road(paired=True))
    whole = first_order.designed(pipe, queries, Road(n_feedback=None))
    other = first_order.designed(pipe, queries, seed=1)
    assert tiny.different(single.gram, paired.gram)
    assert tiny.different(single.gram, whole.gram)
    assert tiny.different(single.gram, other.gram)
    # 4 steps x 2 queries x (4 members + vectors followed by one member each)
    assert single.member_forwards == 4 * 2 * (4 + 3)
    assert paired.member_forwards == 4 * 2 * (4 + 6)


@pytest.mark.parametrize("scheduler", ALL)
def test_one_by_one_with_all_that_vote_is_exact_ablation(scheduler):
    pipe = tiny.ensemble(scheduler=scheduler)
    queries = queries_of(pipe)
    everyone = first_order.OneByOne(n_feedback=4)
    moved = first_order.one_by_one(pipe, queries, HALVES, everyone)
    equal = pictures_at(pipe, queries, np.full((1, 4), 0.25))
    expected = (pictures_at(pipe, queries, HALVES) - equal).numpy()
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_one_by_one_follows_only_members_that_vote_each_as_often():
    shares = coupled._own_turns(HALVES, 1, np.random.default_rng(0))
    total = sum(next(shares) for _ in range(6))
    np.testing.assert_allclose(total / 6, HALVES)
    # Of two voting members two are followed at once, of three two by turns.
    shares = coupled._own_turns(HALVES, 2, np.random.default_rng(0))
    first, second, third = (next(shares) for _ in range(3))
    np.testing.assert_allclose(first[:2], HALVES[:2])
    assert sorted(first[2]) == [0, 0, 0.5, 0.5]
    np.testing.assert_allclose((first + second + third) / 3, HALVES)


def test_one_by_one_is_exact_where_members_bend_alike():
    """Members that differ in constants only: a plane and one member's bending."""

    class Bent(nn.Module):
        def __init__(self, member):
            super().__init__()
            own = torch.randn(1, 8, 8, generator=seeding.generator(member, "constant"))
            self.own = nn.Parameter(own.double())

        def forward(self, noisy, timestep, class_labels=None):
            return SimpleNamespace(sample=torch.tanh(2 * noisy) + self.own)

    pipe = ensemble_of(Bent)
    queries = queries_of(pipe)
    moved = first_order.one_by_one(pipe, queries, HALVES)
    equal = pictures_at(pipe, queries, np.full((1, 4), 0.25))
    expected = (pictures_at(pipe, queries, HALVES) - equal).numpy()
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    # What every designed road misses.
    found = first_order.designed(pipe, queries, Road(True, None))
    read_off = first_order.displacement(found.gram, HALVES)
    exact = np.sqrt(np.square(expected).mean(axis=(2, 3, 4)))
    assert np.abs(read_off / exact - 1).max() > 1e-3


def test_one_by_one_costs_what_it_says():
    pipe = tiny.ensemble()
    queries = queries_of(pipe)
    generation = first_order.generation_forwards(pipe, 2)
    for road in (first_order.OneByOne(), first_order.OneByOne(2)):
        before = pipe.members.n_forwards
        first_order.one_by_one(pipe, queries, HALVES, road)
        spent = (pipe.members.n_forwards - before) / generation
        assert spent == pytest.approx(road.generations(4, len(HALVES)))
    first, *others = (
        first_order.one_by_one(pipe, queries, HALVES[2:], seed=seed)
        for seed in range(6)
    )
    assert any(tiny.different(first, other) for other in others)


def test_roads_are_named_by_their_options():
    own = [road.name for road in first_order.ONE_BY_ONE_ROADS]
    assert own == ["one by one", "one by one, 2 followed", "one by one, 4 followed"]
    names = [road.name for road in first_order.DESIGNED_ROADS]
    assert names == [
        "designed",
        "designed, paired",
        "designed, paired, 2 followed",
        "designed, paired, all followed",
    ]
