"""The LDS of predictors whose worth is known, and the whole evaluation of a tiny run."""

import dataclasses
import shutil

import numpy as np
import pytest

from ensemble.ablation import influence, removal_sets
from ensemble.ablation.influence_request import Asked
from ensemble.ablation.measurements import MEASUREMENTS
from ensemble.evaluation import (
    EVALUATIONS,
    ground_truth,
    held_out,
    lds,
    losses,
    predictors,
)
from ensemble.evaluation.ground_truth import Truth
from ensemble.evaluation.lds import bootstrap, chosen_dampings, controls, rows_of
from ensemble.evaluation.metrics import rank_correlation
from ensemble.evaluation.options import Options
from ensemble.evaluation.predictors import Predictor
from ensemble.models.objective import objective_of
from ensemble.run import files
from ensemble.run.folder import Run, open_run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.scorers import runner
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.posterior.posterior import Posterior
from splits.designs import registry
from splits.errors import BadInput
from tests import tiny

LDS = EVALUATIONS["lds"]
N_QUERIES, N_SOURCES, N_SUBSETS = 6, 20, 40


def simulated(n_seeds=2, noise=0.0):
    """Losses that are minus the sum of what sources are worth, plus seed noise."""
    rng = np.random.default_rng(0)
    worth = rng.standard_normal((N_QUERIES, N_SOURCES))
    subsets = registry.draw("random_subsets", N_SOURCES, N_SUBSETS).bits
    losses = -worth @ subsets
    luck = noise * rng.standard_normal((n_seeds, *losses.shape))
    return worth, Truth(subsets, losses + luck, {})


def predictor(score, method="some", path=None):
    return Predictor(method, "score", score, "", {}, path or {})


def test_a_perfect_predictor_reaches_one_and_the_whole_ceiling():
    worth, found = simulated()
    (row, squared, signed) = rows_of(found, bootstrap(found, 50), [predictor(worth)])
    assert row["lds"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    assert row["share_of_ceiling"]["value"] == pytest.approx(1)
    assert [line["readout"] for line in (row, squared, signed)] == [
        "raw",
        "squared",
        "signed_squared",
    ]
    assert squared["lds"]["value"] < 0.7 < signed["lds"]["value"] < 1


def test_a_perfect_predictor_of_noisy_losses_reaches_the_ceiling():
    worth, found = simulated(n_seeds=3, noise=4.0)
    (row, *_) = rows_of(found, bootstrap(found, 200), [predictor(worth)])
    share = row["share_of_ceiling"]
    assert row["lds"]["high"] < 0.95
    assert share["low"] < 1 < share["high"]


def test_raising_all_scores_of_a_query_changes_no_rank():
    worth, found = simulated(noise=3.0)
    strapped = bootstrap(found, 20)
    raised = rows_of(found, strapped, [predictor(worth + 100.0)])[0]
    assert raised == rows_of(found, strapped, [predictor(worth)])[0]


def test_controls_that_know_nothing_get_nothing():
    _, found = simulated(noise=1.0)
    random, constant, again = controls(found, bootstrap(found, 100))
    assert constant["lds"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert random["lds"]["low"] < 0 < random["lds"]["high"]
    once = rank_correlation.as_they_are(N_SUBSETS, N_QUERIES)
    rho = rank_correlation.reliability(found.losses, once)[0]
    # With two seeds, one predicts the other: that is what reliability is.
    assert again["lds"]["value"] == pytest.approx(rho)


def test_a_single_seed_has_no_ceiling_and_no_exact_retraining():
    worth, found = simulated(n_seeds=1)
    strapped = bootstrap(found, 20)
    assert "share_of_ceiling" not in rows_of(found, strapped, [predictor(worth)])[0]
    assert len(controls(found, strapped)) == 2
    assert "ceiling" not in lds.reliability_facts(found, strapped)


def test_one_half_of_the_subsets_chooses_the_damping_that_the_other_reports():
    worth, found = simulated()
    path = {1.0: -worth, 2.0: worth, 3.0: np.ones_like(worth)}
    methods = [predictor(-worth, "m", path), predictor(worth, "other")]
    rows = chosen_dampings(found, methods, np.random.default_rng(0))
    raw = rows[0]
    assert (raw["method"], raw["readout"], raw["n_dampings"]) == ("m", "raw", 3)
    assert raw["damping"] == raw["oracle_damping"] == 2.0
    assert raw["lds"]["value"] == pytest.approx(1)
    assert raw["oracle_lds"] == pytest.approx(1)
    assert len(rows) == 3


def test_an_oracle_is_never_worse_than_the_choice():
    worth, found = simulated(noise=8.0)
    rng = np.random.default_rng(1)
    path = {
        size: worth + size * rng.standard_normal(worth.shape)
        for size in (1.0, 1.5, 2.0, 2.5)
    }
    for row in chosen_dampings(found, [predictor(worth, "m", path)], rng):
        assert row["oracle_lds"] >= row["lds"]["value"]


def combined(score, method="both"):
    facts = {"errors_sha256": ""}
    return Predictor(method, "score", score, "", facts)


def test_what_combines_scores_is_compared_with_the_best_single_one():
    worth, found = simulated(n_seeds=2, noise=3.0)
    rng = np.random.default_rng(3)
    worse, worst = (
        worth + size * rng.standard_normal(worth.shape) for size in (1.0, 3.0)
    )
    root = np.sign(worse) * np.sqrt(np.abs(worse))
    path = {0.1: worst, 1.0: root}
    singles = [predictor(worst, "worst"), predictor(worst, "damped", path)]
    measured = Predictor("ablation", "influence", worth, "")
    strapped = bootstrap(found, 200)
    methods = [*singles, measured, combined(worth), combined(-worst, "vain")]
    row, vain = lds.against_best(found, strapped, methods)
    assert row["method"] == "both"
    assert (row["best_single"], row["readout"]) == ("damped", "signed_squared")
    assert row["damping"] == 1.0
    (_, _, signed) = rows_of(found, strapped, [predictor(root)])
    assert row["best_single_lds"] == pytest.approx(signed["lds"]["value"])
    (own, *_) = rows_of(found, strapped, [combined(worth)])
    assert row["lds"] == own["lds"]
    assert row["share_of_ceiling"] == own["share_of_ceiling"]
    difference = row["difference"]
    wanted = own["lds"]["value"] - signed["lds"]["value"]
    assert difference["value"] == pytest.approx(wanted)
    assert difference["low"] > 0
    assert vain["difference"]["value"] < 0


def test_a_rival_looks_at_no_more_networks():
    worth, found = simulated(n_seeds=2, noise=3.0)
    rng = np.random.default_rng(3)
    worse = worth + rng.standard_normal(worth.shape)

    def of(score, method, n_networks, **facts):
        facts |= {"networks": n_networks, "options": {}}
        return Predictor(method, "score", score, "", facts)

    dear, cheap = of(worth, "dear", 64), of(worse, "cheap", 16)
    few, many = (of(worse, f"both_{n}", n, errors_sha256="") for n in (16, 64))
    rows = lds.against_best(found, bootstrap(found, 10), [dear, cheap, few, many])
    assert [(row["best_single"], row["n_networks"]) for row in rows] == [
        ("cheap", 16),
        ("dear", 64),
    ]


def test_the_difference_from_oneself_is_nothing_in_every_resample():
    worth, found = simulated(noise=3.0)
    methods = [predictor(worth), combined(worth)]
    (row,) = lds.against_best(found, bootstrap(found, 50), methods)
    assert row["readout"] == "raw"
    assert row["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_without_either_side_there_is_no_comparison():
    worth, found = simulated()
    strapped = bootstrap(found, 10)
    assert lds.against_best(found, strapped, [predictor(worth)]) == []
    assert lds.against_best(found, strapped, [combined(worth)]) == []


@pytest.fixture(scope="module")
def run_with_scores(tmp_path_factory):
    run, plan = tiny.trained(
        tmp_path_factory.mktemp("lds") / "run",
        data={"n_images": 6},
        splits={"design": "balanced", "n_members": 4, "weight": 2},
    )
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "two", [0, 1])
    for method in ("pixel_dot", "random"):
        runner.score(run, pipe, plan, "two", method)
    each = removal_sets.each_source(plan)
    asked = Asked(run, pipe, plan, "two", each, MEASUREMENTS)
    influence.measure_exactly(asked, n_placebos=2)
    return run, pipe, plan


OPTIONS = Options(name="two", n_subsets=8, n_seeds=2, steps=3, n_draws=4)


def test_every_method_is_in_the_table_and_again_nothing_is_done(run_with_scores):
    run, _, plan = run_with_scores
    work = LDS.work(run, plan, OPTIONS)
    assert "16 models of subsets x 3 steps = 48 steps" in work
    path = LDS.evaluate(*run_with_scores, OPTIONS)
    assert path == run.path / "evaluation" / "lds-two.json"
    table = files.read_json(path)
    methods = {row["method"] for row in table["rows"]}
    assert methods == {
        "pixel_dot",
        "random",
        "ablation_displacement",
        "ablation_loss",
        "control_random",
        "control_constant",
        "control_exact_retraining",
    }
    assert table["n_subsets"] == 8
    assert table["identity"]["truth"]["seeds"] == [1, 2]
    assert -1 <= table["reliability"]["value"] <= 1
    lines = path.with_suffix(".csv").read_text().splitlines()
    assert len(lines) == 1 + len(table["rows"])
    assert lines[0].startswith("method,kind,readout,lds,lds_low,lds_high")
    before = path.stat().st_mtime_ns
    assert LDS.evaluate(*run_with_scores, OPTIONS).stat().st_mtime_ns == before
    assert LDS.work(run, plan, OPTIONS) == ""


def test_the_truth_is_the_loss_of_models_that_the_trainer_made(run_with_scores):
    run, pipe, plan = run_with_scores
    found = ground_truth.find(run, pipe, plan, OPTIONS)
    assert (found.subsets.sum(axis=0) == 3).all()
    assert found.losses.shape == (2, 2, 8)
    models = open_run(run.path / "evaluation" / "subsets" / "seed-2")
    assert models.config.training.seed == 2
    assert models.config.splits.design == "random_subsets"
    assert models.config.training.steps == 3
    assert np.array_equal(np.load(models.codes), found.subsets)
    paths = [models.member(subset) for subset in range(8)]
    expected = losses.measure(
        paths,
        objective_of(run.config.model),
        losses.examples_of(pipe, queries.load(run, "two")),
        4,
    )
    np.testing.assert_allclose(found.losses[1], expected.T)


@pytest.fixture
def run_of_my_own(run_with_scores, tmp_path):
    """The same without any truth, to be changed."""
    run, pipe, plan = run_with_scores
    ignored = shutil.ignore_patterns("evaluation")
    path = shutil.copytree(run.path, tmp_path / "run", ignore=ignored)
    return open_run(path), pipe, plan


def trained_subsets(models: Run) -> list[int]:
    return [
        k for k in range(models.config.splits.n_members) if models.member(k).exists()
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_more_subsets_keep_what_was_measured(run_of_my_own, processes):
    run, pipe, plan = run_of_my_own
    training = dataclasses.replace(run.config.training, processes=processes)
    run = Run(run.path, dataclasses.replace(run.config, training=training))
    few = ground_truth.find(run, pipe, plan, OPTIONS)
    folder = run.evaluation / "truth" / "two"
    before = {file: file.read_bytes() for file in folder.iterdir()}
    more = dataclasses.replace(OPTIONS, n_subsets=10)
    assert ground_truth.work(run, more).startswith(
        "4 models of subsets x 3 steps = 12 steps"
    )
    with pytest.raises(BadInput, match="lacks 4 models of subsets x 3 steps"):
        ground_truth.read(run, plan, more)
    found = ground_truth.find(run, pipe, plan, more)
    assert found.losses.shape == (2, 2, 10)
    assert np.array_equal(found.losses[:, :, :8], few.losses)
    assert {file: file.read_bytes() for file in before} == before
    added = open_run(run.path / "evaluation" / "subsets" / "seed-1-from-8")
    assert trained_subsets(added) == [8, 9]
    # The same models as if all had been asked for at once.
    shutil.rmtree(run.evaluation)
    at_once = ground_truth.find(run, pipe, plan, more)
    np.testing.assert_allclose(at_once.losses, found.losses, rtol=1e-6)
    assert np.array_equal(at_once.subsets, found.subsets)
    assert ground_truth.work(run, OPTIONS) == ""
    assert ground_truth.no_fewer(run, OPTIONS) == more
    assert (
        ground_truth.no_fewer(run, dataclasses.replace(more, n_subsets=12)).n_subsets
        == 12
    )
    assert np.array_equal(
        ground_truth.read(run, plan, OPTIONS).losses, at_once.losses[:, :, :8]
    )


def test_another_measure_goes_along_with_the_models_that_are_there(run_of_my_own):
    run, pipe, plan = run_of_my_own
    ground_truth.find(run, pipe, plan, OPTIONS)
    more = dataclasses.replace(OPTIONS, measure="displacement", n_subsets=9)
    assert ground_truth.find(run, pipe, plan, more).losses.shape == (2, 2, 9)
    models = open_run(run.path / "evaluation" / "subsets" / "seed-2-from-8")
    assert trained_subsets(models) == [8]


def test_what_was_measured_with_other_draws_is_not_extended(run_of_my_own):
    run, pipe, plan = run_of_my_own
    ground_truth.find(run, pipe, plan, OPTIONS)
    other = dataclasses.replace(OPTIONS, n_draws=5, n_subsets=9)
    with pytest.raises(BadInput, match="another n_draws: 4, asked for 5"):
        ground_truth.find(run, pipe, plan, other)


def test_displacement_is_how_far_subset_models_draw_from_the_query(run_with_scores):
    run, pipe, plan = run_with_scores
    moved = dataclasses.replace(OPTIONS, measure="displacement")
    path = LDS.evaluate(*run_with_scores, moved)
    assert path == run.path / "evaluation" / "lds_displacement-two.json"
    found = ground_truth.read(run, plan, moved)
    asked = queries.load(run, "two")
    models = open_run(run.path / "evaluation" / "subsets" / "seed-2")
    for subset in (0, 7):
        alone = EnsemblePipeline.from_pretrained(models.path, members=[subset])
        alone.set_progress_bar_config(disable=True)
        pictures = alone.pictures([0, 1]).numpy()
        apart = (pictures - asked.images).reshape(2, -1)
        length = np.linalg.norm(apart, axis=1) / np.sqrt(apart.shape[1])
        np.testing.assert_allclose(found.losses[1, :, subset], length, rtol=1e-4)
    assert (found.losses != ground_truth.read(run, plan, OPTIONS).losses).any()
    assert LDS.work(run, plan, moved) == ""
    assert found.identity["sampling"]["n_steps"] == run.config.sampling.n_steps


def test_displacement_of_what_was_not_generated_is_refused(run_with_scores):
    run, pipe, plan = run_with_scores
    images = np.random.default_rng(0).uniform(-1, 1, (2, 1, 8, 8)).astype(np.float32)
    held_out.write(run, plan, "given", images)
    runner.score(run, pipe, plan, "given", "pixel_dot")
    moved = dataclasses.replace(OPTIONS, name="given", measure="displacement")
    with pytest.raises(BadInput, match="Held-out queries are given images: no noise"):
        LDS.evaluate(*run_with_scores, moved)
    scorer = Posterior(measured="displacement", priors=())
    with pytest.raises(BadInput, match="Held-out queries are given images: no noise"):
        runner.score(run, pipe, plan, "given", "both", scorer=scorer)


def test_a_new_score_is_a_new_table(run_with_scores):
    run, pipe, plan = run_with_scores
    LDS.evaluate(*run_with_scores, OPTIONS)
    runner.score(run, pipe, plan, "two", "constant")
    table = files.read_json(LDS.evaluate(*run_with_scores, OPTIONS))
    rows = [row for row in table["rows"] if row["method"] == "constant"]
    assert len(rows) == 3
    assert rows[0]["lds"]["value"] == 0


def test_ablation_and_scores_have_one_sign(run_with_scores):
    run, *_ = run_with_scores
    (found,) = predictors.find(run, "two", ["ablation_loss"])
    table = np.load(run.influence("two") / "exact" / "influence_denoising_loss.npy")
    assert np.array_equal(found.score, -table)


def test_other_dampings_are_scored_and_compared(run_with_scores):
    run, pipe, plan = run_with_scores
    runner.score(run, pipe, plan, "two", "trak", 0)
    chosen = Options(
        **{**vars(OPTIONS), "methods": ("trak-member-0",), "dampings": (0.1, 10.0)}
    )
    table = files.read_json(LDS.evaluate(run, pipe, plan, chosen))
    assert {row["method"] for row in table["rows"] if row["kind"] == "score"} == {
        "trak-member-0"
    }
    assert [row["n_dampings"] for row in table["dampings"]] == [3, 3, 3]
    assert {row["method"] for row in table["dampings"]} == {"trak-member-0"}
    assert all(row["damping"] in (0.1, 1.0, 10.0) for row in table["dampings"])


def test_a_posterior_is_evaluated_like_every_other_method(run_with_scores):
    run, pipe, plan = run_with_scores
    scorer = Posterior(priors=("pixel_dot",), prior_model=0, draws=Draws(2))
    runner.score(run, pipe, plan, "two", "posterior", scorer=scorer)
    changes = {"methods": ("posterior", "random"), "dampings": (0.1,)}
    chosen = Options(**{**vars(OPTIONS), **changes})
    table = files.read_json(LDS.evaluate(run, pipe, plan, chosen))
    rows = [row for row in table["rows"] if row["method"] == "posterior"]
    assert [row["readout"] for row in rows] == ["raw", "squared", "signed_squared"]
    (compared,) = table["against_best"]
    assert (compared["method"], compared["best_single"]) == ("posterior", "random")
    assert compared["lds"] == rows[0]["lds"]
    # Its noise is chosen by the members, never by the subsets.
    assert table["dampings"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5}, "another steps: 3, asked for 5"),
        ({"methods": ("track",)}, "nothing by the method 'track'.*known: .*pixel_dot"),
        ({"name": "none"}, "There are no queries called 'none'"),
    ],
)
def test_what_does_not_fit_is_refused(run_with_scores, changes, message):
    LDS.evaluate(*run_with_scores, OPTIONS)
    with pytest.raises(BadInput, match=message):
        LDS.evaluate(*run_with_scores, Options(**{**vars(OPTIONS), **changes}))
