"""Queries that are sampled once more."""

import copy
import dataclasses

import numpy as np
import pytest

from ensemble.cli import attribute
from ensemble.evaluation import held_out, tables
from ensemble.report import report
from ensemble.sampling import queries
from ensemble.sampling.queries import Queries, ablated_pictures
from ensemble.scorers import runner
from splits.errors import BadInput
from tests import tiny


@pytest.fixture
def asked():
    pipe = tiny.ensemble()
    made = pipe.pictures([3, 8, 9]).float().numpy()
    return pipe, Queries(np.array([3, 8, 9]), None, made)


def test_by_all_votes_every_query_comes_out_as_it_was(asked):
    pipe, three = asked
    again = queries.sampled_again(pipe, three, np.full(4, 0.25))
    np.testing.assert_allclose(again, three.images, atol=1e-6)


def test_by_other_votes_it_comes_out_as_by_ablation(asked):
    pipe, three = asked
    votes = np.array([0.5, 0.0, 0.5, 0.0])
    again = queries.sampled_again(pipe, three, votes)
    wanted = ablated_pictures(pipe, three, np.arange(3), np.tile(votes, (3, 1)))
    np.testing.assert_allclose(again, wanted.numpy(), atol=1e-6)
    assert np.abs(again - three.images).max() > 1e-3


def test_distance_is_the_root_mean_square_of_pixels():
    black, grey = np.full((2, 1, 3, 3), -1.0), np.zeros((2, 1, 3, 3))
    grey[:, 0, 0, 0] = 2
    np.testing.assert_allclose(
        queries.distance(black, grey), np.full(2, np.sqrt((8 + 9) / 9))
    )
    assert not queries.distance(grey, grey).any()


def test_given_images_cannot_be_sampled_again(asked):
    pipe, three = asked
    given = dataclasses.replace(three, held_out=True)
    with pytest.raises(BadInput, match="no noise leads to them, so they cannot"):
        queries.sampled_again(pipe, given, np.full(4, 0.25))
    with pytest.raises(BadInput, match="Score them"):
        given.noise(pipe)
    with pytest.raises(BadInput, match="Held-out queries are given images"):
        given.generators(pipe, np.arange(3))
    assert three.noise(pipe).shape == three.images.shape


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run, plan = tiny.trained(tmp_path_factory.mktemp("queries") / "run")
    return run, plan, tiny.pipeline_of(run)


@pytest.mark.parametrize("seeds", [[-3], [2**63], [0, -1]])
def test_seeds_are_numbers_that_can_be_kept(trained, seeds):
    run, _, pipe = trained
    with pytest.raises(BadInput, match=f"cannot have the seed {seeds[-1]}; allowed: 0"):
        queries.generate(run, pipe, "bad", seeds)
    with pytest.raises(BadInput, match="There are no seeds"):
        queries.generate(run, pipe, "bad", [])
    assert not run.queries("bad").exists()


@pytest.mark.parametrize("name", ["../../esc", "a/b", "demo.part", "x" * 300])
def test_no_name_of_queries_leads_out_of_the_run(trained, name):
    run, plan, pipe = trained
    images = np.zeros((1, 1, 8, 8), np.float32)
    for make in (
        lambda: queries.generate(run, pipe, name, [0]),
        lambda: held_out.write(run, plan, name, images),
        lambda: runner.score(run, pipe, plan, name, "pixel_dot"),
        lambda: report.write(run, name, plan.data),
        lambda: tables.file(run, "lds", name),
    ):
        with pytest.raises(BadInput, match="A set of queries cannot be called"):
            make()


@pytest.mark.parametrize("name", ["../../esc", "/tmp/esc", "x" * 300])
@pytest.mark.parametrize(
    "command",
    [
        ["generate"],
        ["ablate"],
        ["score", "--method", "pixel_dot"],
        ["report"],
        ["evaluate", "--what", "far"],
    ],
)
def test_no_command_takes_a_name_that_leads_out_of_the_run(trained, command, name):
    run, *_ = trained
    before = {path for path in run.path.parent.rglob("*") if path.suffix != ".lock"}
    with pytest.raises(BadInput, match="A set of queries cannot be called"):
        attribute.main([str(run.path), *command, "--name", name])
    after = {path for path in run.path.parent.rglob("*") if path.suffix != ".lock"}
    assert after == before


def test_a_negative_seed_is_refused_by_the_command(trained):
    run, *_ = trained
    with pytest.raises(BadInput, match="--seed is -3: a seed from 0 up is wanted"):
        attribute.main([str(run.path), "generate", "--seed=-3"])


def test_members_from_elsewhere_make_no_queries_of_a_run(trained):
    run, _, pipe = trained
    pipe = copy.copy(pipe)
    pipe.membership = None
    with pytest.raises(BadInput, match="it is not known whose weights it has"):
        queries.generate(run, pipe, "foreign", [0])


def test_given_images_with_other_labels_are_other_queries(tmp_path):
    run, plan = tiny.trained(tmp_path / "run", model={"class_conditional": True})
    images = np.zeros((2, 1, 8, 8), np.float32)
    held_out.write(run, plan, "new", images, np.array([0, 1]))
    held_out.write(run, plan, "new", images, np.array([0, 1]))
    with pytest.raises(BadInput, match="'new' exist with other images or labels"):
        held_out.write(run, plan, "new", images, np.array([1, 0]))
