"""Labels, objective, network, average and draws: each says what it has checked."""

import dataclasses
import json

from ensemble.certificate import model
from ensemble.run.folder import Run


def changed(config, **sections):
    """A config in which options of some sections are others."""
    parts = {
        name: dataclasses.replace(getattr(config, name), **options)
        for name, options in sections.items()
    }
    return dataclasses.replace(config, **parts)


def edited(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_classes_that_the_config_names_hold(whole, looked_at):
    (found,) = model.labels(looked_at(whole))
    assert found.holds
    assert "the 10 classes are those that data.classes names" in found.line


def test_members_that_are_told_nothing_have_no_labels(whole, looked_at):
    config = changed(whole.config, model={"class_conditional": False})
    (found,) = model.labels(looked_at(whole, config=config))
    assert (found.holds, "told nothing" in found.line) == (True, True)


def test_without_declared_classes_sources_are_named(whole, looked_at):
    """Each of the eight digits is of a class of its own."""
    config = changed(whole.config, data={"classes": None})
    found = [*model.labels(looked_at(whole, config=config))]
    assert [one.holds for one in found] == [None] * 8
    assert [one.sources for one in found] == [(source,) for source in range(8)]
    assert "not exact without source 3 " in found[3].line
    (asked,) = model.labels(looked_at(whole, [3], config))
    assert (asked.holds, asked.sources) == (False, (3,))
    assert "has the label '3'" in asked.line
    assert "data.classes" in asked.remedy


def test_an_edited_pipeline_is_found(run, looked_at):
    (found,) = model.pipeline(looked_at(run))
    assert found.holds
    path = run.path / "scheduler" / "scheduler_config.json"
    edited(path, num_train_timesteps=999)
    (found,) = model.pipeline(looked_at(run))
    assert found.holds is False
    assert "scheduler_config.json" in found.line


def test_a_pipeline_that_is_not_there_yet_is_not_said_to_hold(run, looked_at):
    subject = looked_at(run)
    del subject.manifest["stages"]["train"]
    (run.path / "model_index.json").unlink()
    for part in (model.pipeline, model.objective):
        (found,) = part(subject)
        assert found.holds is None
        assert "Not checked" in found.line


def test_a_pipeline_that_is_there_and_on_no_record_does_not_hold(run, looked_at):
    subject = looked_at(run)
    del subject.manifest["stages"]["train"]
    (found,) = model.pipeline(subject)
    assert found.holds is False
    assert "is on no record" in found.line


def test_a_scheduler_of_another_objective_is_found(run, looked_at):
    (found,) = model.objective(looked_at(run))
    assert found.holds
    assert "epsilon at 1000 timesteps of the schedule linear" in found.line
    path = run.path / "scheduler" / "scheduler_config.json"
    edited(path, prediction_type="v_prediction")
    (found,) = model.objective(looked_at(run))
    assert found.holds is False
    assert (
        "prediction_type 'v_prediction'; the config of the run says 'eps" in found.line
    )
    path.write_text("no JSON")
    (found,) = model.objective(looked_at(run))
    assert "prediction_type None" in found.line


def test_another_network_is_found(run, looked_at, reseal):
    (found,) = model.network(looked_at(run))
    assert found.holds
    assert "all 4 members are the network that the config says for 10 classes" in (
        found.line
    )
    edited(run.member(2) / "config.json", num_class_embeds=9)
    reseal(run, 2)
    (found,) = model.network(looked_at(run))
    assert found.holds is False
    assert "member 2 is another network" in found.line
    assert "num_class_embeds is 9, expected 11" in found.line


def test_a_network_that_cannot_be_built_is_found(whole, looked_at):
    config = changed(whole.config, model={"block_out_channels": [8] * 6})
    (found,) = model.network(looked_at(whole, config=config))
    assert found.holds is False
    assert "cannot be halved" in found.line


def test_another_seed_is_found(run, looked_at, reseal):
    (found,) = model.draws(looked_at(run))
    assert found.holds
    assert (
        "timesteps, noise, which labels are hidden follow from the seed" in found.line
    )
    reseal(run, 1, seed=7)
    (found,) = model.draws(looked_at(run))
    assert found.holds is False
    assert "member 1 was trained with the seed 7; training.seed is 0" in found.line


def test_only_draws_that_there_are_are_named(whole, looked_at):
    training = {"flip": True, "shared_noise": False, "label_dropout": 0.0}
    config = changed(whole.config, training=training, model={"dropout": 0.1})
    (found,) = model.draws(looked_at(whole, config=config))
    assert "(d) timesteps, noise, flips, dropout follow" in found.line
    assert "the step and the number of the member" in found.line


def with_average(run, reseal, decay):
    for member in range(4):
        options = {"training": {"ema_decay": decay}}
        reseal(run, member, trained_for={"options": options})


def test_an_average_is_of_a_members_own_training(run, looked_at, reseal):
    with_average(run, reseal, None)
    (found,) = model.average(looked_at(run))
    assert found.holds
    assert "the last weights of its own training" in found.line
    (found,) = model.average(
        looked_at(run, config=changed(run.config, training={"ema_decay": 0.9}))
    )
    assert found.holds is False
    assert "ema_decay None; the config of the run says 0.9" in found.line
    with_average(run, reseal, 0.9)
    (found,) = model.average(
        looked_at(run, config=changed(run.config, training={"ema_decay": 0.9}))
    )
    assert "the moving average (decay 0.9)" in found.line


def test_what_version_0_1_did_not_record_is_said_so(run, looked_at, reseal):
    for member in range(4):
        reseal(run, member, trained_for={})
    (found,) = model.average(looked_at(Run(run.path, run.config)))
    assert found.holds is None
    assert "Not recorded: whether members 0, 1, 2, 3 vote with an average" in found.line
