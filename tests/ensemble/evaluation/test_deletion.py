"""What is removed is what a method names; what comes of it is beside random removals."""

import dataclasses

import numpy as np
import pytest

from ensemble.evaluation import EVALUATIONS, deletion, held_out
from ensemble.evaluation.deletion import (
    Removals,
    agreement,
    random_sources,
    rows_of,
    top_sources,
)
from ensemble.evaluation.options import Options
from ensemble.evaluation.predictors import Predictor
from ensemble.provenance import plans
from ensemble.run import files
from ensemble.run.folder import open_run
from ensemble.sampling import queries
from ensemble.scorers import runner, score_files
from splits.errors import BadInput
from tests import tiny

DELETION = EVALUATIONS["deletion"]
OPTIONS = Options(
    name="two", top=(1, 2), n_queries=1, n_random=2, n_seeds=2, steps=2, n_draws=3
)


def predictor(score):
    return Predictor("some", "score", np.asarray(score), "")


def test_the_highest_scores_of_each_query_are_removed():
    found = top_sources(
        predictor([[0.1, 3, 2], [9, 1, 5], [1, 2, 3]]), [1, 2], n_queries=2
    )
    assert found.removed.astype(int).tolist() == [
        [0, 1, 0],
        [0, 1, 1],
        [1, 0, 0],
        [1, 0, 1],
    ]
    assert found.query.tolist() == [0, 0, 1, 1]
    assert found.about(1, 2).tolist() == [3]


def test_random_sets_are_of_the_sizes_asked_for_and_meant_for_everyone():
    found = random_sources(10, [1, 4], 3)
    assert found.removed.sum(axis=1).tolist() == [1, 1, 1, 4, 4, 4]
    assert found.about(7, 4).tolist() == [3, 4, 5]
    more = random_sources(10, [4], 5)
    # More of them are the same ones and others.
    assert np.array_equal(more.removed[:3], found.removed[3:])
    assert len(np.unique(more.removed, axis=0)) > 1


def simulated(n_queries=12):
    """One method whose removals raise every effect by 2, random ones by 1 on average."""
    rng = np.random.default_rng(0)
    one = top_sources(predictor(rng.random((n_queries, 8))), [1], n_queries)
    control = random_sources(8, [1], 4)
    noise = 0.1 * rng.standard_normal((2, 3, n_queries, n_queries))
    of_control = 1 + 0.1 * rng.standard_normal((2, 3, 4, n_queries))
    return one, 2 + noise, control, of_control


def test_effects_are_told_beyond_those_of_random_removals():
    one, found, control, of_control = simulated()
    (row,) = rows_of(one, found, control, of_control)
    assert row["loss_rise"]["value"] == pytest.approx(2, abs=0.1)
    beyond = row["loss_rise_beyond_random"]
    assert 0.85 < beyond["low"] < 1 < beyond["high"] < 1.15
    own = np.array([found[:, 0, query, query] for query in range(12)])
    assert row["loss_rise"]["value"] == pytest.approx(own.mean())
    (row,) = rows_of(control, of_control, control, of_control)
    assert "loss_rise_beyond_random" not in row


def test_votes_that_tell_the_order_agree_perfectly():
    one, found, control, of_control = simulated()
    tables = {"some": found, deletion.RANDOM: of_control}
    effects_by_votes = {
        name: np.exp(table.mean(axis=0)) for name, table in tables.items()
    }
    facts = agreement([control, one], tables, effects_by_votes)
    assert facts["loss_rise"]["value"] == pytest.approx(1)
    assert facts["n_pairs"] == 12 * (4 + 1)
    effects_by_votes["some"][:] = np.nan
    facts = agreement([control, one], tables, effects_by_votes)
    assert facts["n_pairs"] == 12 * 4
    assert facts["sets_that_leave_no_member"] == 12


@pytest.fixture(scope="module")
def run_with_scores(tmp_path_factory):
    run, plan = tiny.trained(
        tmp_path_factory.mktemp("deletion") / "run",
        data={"n_images": 6},
        splits={"design": "balanced", "n_members": 4, "weight": 2},
    )
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "two", [0, 1])
    runner.score(run, pipe, plan, "two", "pixel_dot")
    return run, pipe, plan


def test_models_are_trained_without_what_is_named_and_again_nothing_is_done(
    run_with_scores,
):
    run, pipe, plan = run_with_scores
    # Nothing, 2 x 2 random sets, and 2 of the method.
    assert "7 sets of sources x 2 seeds x 2 steps = 28" in DELETION.work(
        run, plan, OPTIONS
    )
    path = DELETION.evaluate(run, pipe, plan, OPTIONS)
    table = files.read_json(path)
    assert [(row["method"], row["top"]) for row in table["rows"]] == [
        ("control_random", 1),
        ("control_random", 2),
        ("pixel_dot", 1),
        ("pixel_dot", 2),
    ]
    assert table["rows"][2]["pixel_distance"]["value"] > 0
    assert table["votes"]["n_sets"] == 6
    (folder,) = (run.path / "evaluation" / "deletion").glob("pixel_dot-*")
    models = open_run(folder / "seed-2")
    assert models.config.training.seed == 2
    score = score_files.load(run, "two", "pixel_dot")[0]
    missing = [np.flatnonzero(~row).tolist() for row in plans.load(models).codes.bits.T]
    order = np.argsort(-score)
    assert missing == [[order[0]], sorted(order[:2].tolist())]
    exposure = np.load(models.member(1) / "exposure.npy")
    assert exposure[order[:2]].sum() == 0
    before = path.stat().st_mtime_ns
    assert DELETION.evaluate(run, pipe, plan, OPTIONS).stat().st_mtime_ns == before


def test_the_model_of_everything_is_its_own_measure(run_with_scores):
    run, pipe, plan = run_with_scores
    asked = queries.load(run, "two")
    experiment = deletion.DeletionExperiment(run, pipe, plan, OPTIONS, asked)
    effects = experiment.effects_of_retraining(deletion.no_sources(6), 1)
    assert np.array_equal(effects, np.zeros((3, 1, 2)))


def test_held_out_queries_have_a_loss_and_no_picture(run_with_scores):
    run, pipe, plan = run_with_scores
    images = queries.load(run, "two").images[::-1].copy()
    held_out.write(run, plan, "given", images)
    runner.score(run, pipe, plan, "given", "pixel_dot")
    options = dataclasses.replace(OPTIONS, name="given")
    table = files.read_json(DELETION.evaluate(run, pipe, plan, options))
    for row in table["rows"]:
        assert row["loss_rise"]["value"] is not None
        assert (
            row["pixel_distance"]["value"] is row["feature_distance"]["value"] is None
        )
    votes = table["votes"]
    assert votes["n_pairs"] > 0
    assert votes["loss_rise"]["value"] is not None
    assert votes["pixel_distance"]["value"] is None


def test_votes_without_a_set_are_the_ensembles_ablation(run_with_scores):
    run, pipe, plan = run_with_scores
    asked = queries.load(run, "two")
    experiment = deletion.DeletionExperiment(run, pipe, plan, OPTIONS, asked)
    removed = np.zeros((2, 6), dtype=bool)
    removed[0, 3], removed[1] = True, True
    sets = Removals("some", removed, np.array([-1, -1]), np.array([1, 6]))
    found = experiment.effects_by_votes(sets)
    without = pipe(seeds=[0, 1], ablate=[3], output_type="latent").images.numpy()
    moved = np.sqrt(np.square(without - asked.images).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(found[1, 0], moved, rtol=1e-3)
    assert np.isnan(found[:, 1]).all()


def test_more_than_all_but_one_source_cannot_be_removed(run_with_scores):
    run, pipe, plan = run_with_scores
    everything = Options(name="two", top=(6,))
    with pytest.raises(BadInput, match="--top has 6, and there are 6 sources"):
        DELETION.evaluate(run, pipe, plan, everything)
