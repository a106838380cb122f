"""Quality of a tiny ensemble beside single models, and what its members remember."""

import dataclasses

import numpy as np
import pytest

from ensemble.evaluation import EVALUATIONS, quality
from ensemble.evaluation.options import Options
from ensemble.provenance import plans
from ensemble.run import files
from ensemble.run.folder import open_run
from ensemble.sampling.pipeline import EnsemblePipeline
from tests import tiny

OPTIONS = Options(n_images=24, n_seeds=2, n_draws=3, steps=2)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    run, plan = tiny.trained(
        tmp_path_factory.mktemp("quality") / "run",
        data={"n_images": 12},
        splits={"design": "balanced", "n_members": 6, "weight": 3},
    )
    pipe = tiny.pipeline_of(run)
    return run, pipe, plan, EVALUATIONS["quality"].evaluate(run, pipe, plan, OPTIONS)


def test_every_model_is_measured_with_intervals(evaluated):
    run, *_, path = evaluated
    table = files.read_json(path)
    rows = {row["model"]: row for row in table["rows"]}
    assert list(rows) == [
        "ensemble",
        "member",
        "single_equal_steps",
        "single_equal_compute",
        "real",
    ]
    assert rows["ensemble"]["interval_over"] == "batches of pictures"
    assert rows["single_equal_steps"]["interval_over"] == "training seeds"
    assert rows["single_equal_compute"]["steps"] == 6 * run.config.training.steps
    for row in rows.values():
        distance = row["frechet"]
        assert distance["low"] <= distance["value"] <= distance["high"]
    assert rows["real"]["frechet"]["value"] < rows["ensemble"]["frechet"]["value"]
    assert "to tell labels apart" in table["encoder"]
    assert table["audit"]["n_images"] == 12
    assert 0 <= table["audit"]["loss"]["auc"]["value"] <= 1


def test_evaluating_quality_twice_is_evaluating_once(evaluated):
    run, pipe, plan, path = evaluated
    before, work = path.stat().st_mtime_ns, pipe.members.n_forwards
    assert EVALUATIONS["quality"].evaluate(run, pipe, plan, OPTIONS) == path
    assert path.stat().st_mtime_ns == before
    assert pipe.members.n_forwards == work


def test_single_models_saw_everything_with_seeds_of_their_own(evaluated):
    run, *_ = evaluated
    folders = sorted((run.path / "evaluation" / "single").iterdir())
    assert [folder.name for folder in folders] == [
        "steps-2-seed-1",
        "steps-2-seed-2",
        "steps-36-seed-1",
        "steps-36-seed-2",
    ]
    single = open_run(folders[0])
    assert plans.load(single).codes.bits.all()
    exposure = np.load(single.member(0) / "exposure.npy")
    assert exposure.sum() == 2 * run.config.training.batch_size


def test_the_price_is_told_once(evaluated, tmp_path):
    run, _, plan, _ = evaluated
    work = EVALUATIONS["quality"].work
    assert work(run, plan, OPTIONS) == ""
    fresh = dataclasses.replace(run, path=tmp_path)
    # 2 seeds of 2 steps, and of 6 members' 6 steps.
    wanted = "4 single models, 76 steps of training"
    assert work(fresh, plan, OPTIONS) == wanted


def test_a_planted_copy_of_a_training_image_is_counted(evaluated):
    _, _, plan, _ = evaluated
    evaluator = quality.Evaluator(plan, 16)
    rng = np.random.default_rng(0)
    pictures = rng.uniform(-1, 1, (10, 1, 8, 8)).astype(np.float32)
    assert (
        quality.measures(pictures, evaluator.real, evaluator.encoder)["memorised"] == 0
    )
    pictures[3] = plan.data.images[5] + 0.01
    assert (
        quality.measures(pictures, evaluator.real, evaluator.encoder)["memorised"]
        == 0.1
    )


def test_conditional_models_are_asked_for_every_label_in_turn(tmp_path):
    run, plan = tiny.trained(
        tmp_path / "run", model={"class_conditional": True}, splits={"n_members": 2}
    )
    pipe = tiny.pipeline_of(run)
    batches = quality.Evaluator(plan, 16).pictures(pipe)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4]
    facts = quality.audit(run, pipe, plan, 2)
    assert facts["n_members"] == 2


def test_an_ensemble_whose_members_saw_everything_gives_nothing_away(tmp_path):
    run, plan = tiny.trained(tmp_path / "run", splits={"n_members": 1})
    pipe = EnsemblePipeline.from_pretrained(run.path)
    facts = quality.audit(run, pipe, plan, 2)
    assert "memorisation" not in facts
    assert facts["loss"]["auc"] is None
