"""Rates by hand, the radius of placebos in closed form, and a tiny run."""

import itertools

import numpy as np
import pytest

from ensemble.ablation import influence, removal_sets
from ensemble.ablation.influence_request import Asked
from ensemble.ablation.measurements import MEASUREMENTS
from ensemble.evaluation import EVALUATIONS
from ensemble.evaluation.false_attribution import (
    expected_largest,
    nearest,
    radius,
    rates,
)
from ensemble.evaluation.options import Options
from ensemble.run import files
from ensemble.sampling import queries
from ensemble.scorers import runner
from splits.errors import BadInput
from tests import tiny

FAR = EVALUATIONS["far"]
OPTIONS = Options(name="three", n_random=2)


def test_the_rate_is_naming_it_again_over_naming_it_anyway():
    named = np.array([3, 5, 7, 9])
    without_it = np.array([3, 0, 0, 0])
    without_another = np.array([[3, 3], [5, 0], [0, 0], [9, 0]])
    found = rates(named, without_it, without_another)
    assert found == {
        "named_again": 0.25,
        "named_anyway": 0.5,
        "false_attribution": 0.5,
    }


def test_the_ends_of_the_rate():
    named = np.array([1, 2])
    same, other = np.stack([named, named], axis=1), np.array([[0, 0], [0, 0]])
    assert rates(named, named + 1, same)["false_attribution"] == 0
    assert rates(named, named, same)["false_attribution"] == 1
    assert np.isnan(rates(named, named, other)["false_attribution"])


def test_the_largest_of_some_placebos_is_a_mean_over_all_draws():
    placebo = np.random.default_rng(0).random((2, 6))
    for n in (1, 3, 6):
        expected = np.mean(
            [
                placebo[:, list(chosen)].max(axis=1)
                for chosen in itertools.combinations(range(6), n)
            ],
            axis=0,
        )
        np.testing.assert_allclose(expected_largest(placebo, n), expected, rtol=1e-9)
    assert np.isnan(expected_largest(placebo, 7)).all()


def test_sources_like_placebos_have_no_radius_of_their_own():
    rng = np.random.default_rng(0)
    found = radius(rng.random((200, 10)), rng.random((200, 50)), rng)
    excess = found["radius_minus_placebo"]
    assert excess["low"] < 0 < excess["high"]
    # The largest of ten uniform numbers is 10/11 on average.
    assert found["radius"]["value"] == pytest.approx(10 / 11, abs=0.02)


@pytest.fixture(scope="module")
def ablated(tmp_path_factory):
    run, plan = tiny.trained(
        tmp_path_factory.mktemp("far") / "run",
        data={"n_images": 6},
        splits={"design": "balanced", "n_members": 4, "weight": 2},
    )
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "three", [0, 1, 2])
    runner.score(run, pipe, plan, "three", "random")
    runner.score(run, pipe, plan, "three", "pixel_dot")
    each = removal_sets.each_source(plan)
    influence.measure_exactly(Asked(run, pipe, plan, "three", each, MEASUREMENTS), 3)
    return run, pipe, plan


def test_every_rule_is_judged_and_again_nothing_is_done(ablated):
    run, pipe, plan = ablated
    path = FAR.evaluate(run, pipe, plan, OPTIONS)
    table = files.read_json(path)
    rows = {row["rule"]: row for row in table["rows"]}
    assert set(rows) == {"nearest_pixels", "nearest_features", "random", "pixel_dot"}
    # Random scores do not look at the picture, so they never change their mind.
    assert rows["random"]["false_attribution"]["value"] == 1
    assert rows["random"]["named_anyway"]["value"] == 1
    assert table["n_images"] == 6
    displaced = np.load(run.influence("three") / "exact" / "displacement.npy")
    assert table["radius"]["ablation"]["radius"]["value"] == pytest.approx(
        displaced.max(axis=1).mean()
    )
    before, n_forwards = path.stat().st_mtime_ns, pipe.members.n_forwards
    assert FAR.evaluate(run, pipe, plan, OPTIONS).stat().st_mtime_ns == before
    assert pipe.members.n_forwards == n_forwards
    assert FAR.work(run, plan, OPTIONS) == ""


def test_the_nearest_training_image_names_its_source(ablated):
    _, _, plan = ablated
    rule = nearest(lambda images: images.reshape(len(images), -1), plan)
    assert (
        rule(plan.data.images[[4, 1]] * 0.9).tolist() == plan.source_of[[4, 1]].tolist()
    )


def test_a_source_that_everyone_saw_cannot_be_removed(tmp_path):
    run, plan = tiny.trained(tmp_path / "run", splits={"n_members": 1})
    pipe = tiny.pipeline_of(run)
    with pytest.raises(BadInput, match="none of the 1 members is left"):
        FAR.evaluate(run, pipe, plan, OPTIONS)
