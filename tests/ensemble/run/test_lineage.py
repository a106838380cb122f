"""Models belong to the run that they were trained for; whatever loads them compares."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from ensemble.certificate import certificate
from ensemble.cli import attribute, train
from ensemble.data import datasets
from ensemble.evaluation import retraining
from ensemble.models.denoisers import load_member
from ensemble.provenance import drawing, plans, removal, repair
from ensemble.run import files, lineage, records
from ensemble.run.folder import (
    CHECKPOINT,
    REFERENCE,
    SLICE,
    WEIGHTS,
    Run,
    create,
    open_run,
    read_codes,
)
from ensemble.run.lineage import Expected
from ensemble.sampling import loading
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.scorers import scored_models
from ensemble.system import exits
from ensemble.training import checkpoint, snapshots
from ensemble.training.members import member_images, train_members
from ensemble.training.process import Interrupted, Stopping
from ensemble.training.trainer import MemberTrainer
from splits.codes import CodeBook
from splits.errors import BadInput
from tests import tiny

# Options that decide nothing of the weights, with another value than the tests' runs.
NO_PART = {
    "processes": 2,
    "checkpoint_every_steps": 2,
    "log_every_steps": 3,
    "tensorboard": True,
}
OTHERS = {
    "learning rate": (
        {"training": {"learning_rate": 0.01}},
        "training.learning_rate: 0.01",
    ),
    "steps": ({"training": {"steps": 4}}, "training.steps: 4 there, 6 here"),
    "seed": ({"training": {"seed": 5}}, "training.seed: 5 there, 0 here"),
    "model": ({"model": {"dropout": 0.5}}, "model.dropout: 0.5 there, 0.0 here"),
    "other images": ({"data": {"channels": 1, "n_images": 8}}, "the digest of all"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Eight sources, four members and a reference; nobody may change it."""
    run, ready = tiny.trained(tmp_path_factory.mktemp("whole") / "run")
    assert not train_members(run, [REFERENCE], ready, Stopping())
    return run


@pytest.fixture
def run(whole, tmp_path):
    return copied(whole, tmp_path / "run")


def copied(run, to):
    shutil.copytree(run.path, to)
    return Run(to, run.config)


def other(folder, monkeypatch, name):
    """A run that differs from `whole` in one thing, of the same design."""
    changes, said = OTHERS[name]
    if name == "other images":
        brighter(monkeypatch)
    run, ready = tiny.trained(folder, **changes)
    train_members(run, [REFERENCE], ready, Stopping())
    monkeypatch.undo()
    return run, said


def brighter(monkeypatch):
    """From now on the digits are other pictures, under the same names."""

    read = datasets.DATA_SETS["digits"]

    def load(config, inventory):
        images, columns, names = read(config, inventory)
        return np.minimum(images + 0.125, 1), columns, names

    monkeypatch.setitem(datasets.DATA_SETS, "digits", load)


def replaced(of, by):
    shutil.rmtree(of)
    shutil.copytree(by, of)


def rerecorded(folder, change):
    """Change a record, as if training had written it so."""
    record = files.read_json(folder / "member.json")
    record.pop("files")
    change(record)
    records.write_done_mark(folder, "member.json", record)


def forget(record):
    """Leave what version 0.1 wrote."""
    record.pop("trained_for", None)


def said_by_main(main, *arguments, capsys):
    code = exits.run_guarded(main, [*map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out + out.err


def test_a_record_names_what_it_was_trained_for(whole):
    ready = drawing.prepare(whole)
    record = files.read_json(whole.member(1) / "member.json")
    found = record["trained_for"]
    assert found["options"]["training"]["learning_rate"] == 0.002
    assert found["code_book_digest"] == ready.codes.digest()
    assert found["data_fingerprint"] == ready.data.fingerprint()
    images = member_images(ready.codes, ready.source_of, 1)
    assert found["images_digest"] == ready.data.digest_of(images, False)
    assert not certificate.violations(whole)
    assert "every member's record names" in certificate.statement(whole)
    assert lineage.unrecorded(whole.path) == []


@pytest.mark.parametrize("option", NO_PART)
def test_what_decides_nothing_of_the_weights_is_not_asked_for(option):
    one = tiny.config("none")
    changed = tiny.config("none", training={option: NO_PART[option]})
    assert lineage.options(one) == lineage.options(changed)


def test_every_other_option_of_model_and_training_counts():
    found = lineage.options(tiny.config("none"))
    assert set(found["training"]) | set(NO_PART) == set(
        vars(tiny.config("none").training)
    )
    assert set(found["model"]) == set(vars(tiny.config("none").model))


def test_options_that_came_later_have_their_defaults_in_older_records():
    wanted = {"options": lineage.options(tiny.config("none"))}
    recorded = json.loads(json.dumps(wanted))
    del recorded["options"]["training"]["flip"]
    assert lineage.differences(recorded, wanted) == []
    wanted["options"]["training"]["flip"] = True
    assert lineage.differences(recorded, wanted) == [
        "training.flip: False there, True here"
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_another_run_are_refused_wherever_they_are_loaded(
    run, tmp_path, monkeypatch, capsys, name
):
    foreign, said = other(tmp_path / "other", monkeypatch, name)
    replaced(run.member(2), foreign.member(2))
    wanted = f"members/002 was not trained for this run: .*{said}"
    with pytest.raises(BadInput, match=wanted):
        EnsemblePipeline.from_pretrained(run.path)
    with pytest.raises(BadInput, match=wanted):
        snapshots.load(run.member(2))
    code, text = said_by_main(train.main, run.path / "config.yaml", capsys=capsys)
    assert code == 2
    assert said in text
    found = certificate.violations(run)
    assert any("members/002 was not trained for this run" in one for one in found)
    assert any(said in one for one in found)
    replaced(run.reference, foreign.reference)
    with pytest.raises(BadInput, match="reference was not trained for this run"):
        load_member(run.reference)
    assert any(
        "reference was not trained" in one for one in certificate.violations(run)
    )


def test_a_scorer_refuses_a_foreign_reference(run, tmp_path, monkeypatch):
    foreign, _ = other(tmp_path / "other", monkeypatch, "learning rate")
    replaced(run.reference, foreign.reference)
    pipe = tiny.pipeline_of(run)
    with pytest.raises(BadInput, match="--reference"):
        scored_models.scored_model(run, pipe, plans.load(run), REFERENCE)


def test_a_deleted_foreign_member_is_trained_again_as_the_message_says(
    run, whole, tmp_path, monkeypatch
):
    foreign, _ = other(tmp_path / "other", monkeypatch, "seed")
    replaced(run.member(2), foreign.member(2))
    shutil.rmtree(run.member(2))
    assert train.main([str(run.path / "config.yaml")]) == 0
    assert weights(run) == weights(whole)
    assert not certificate.violations(run)


def weights(run, member=2):
    return files.sha256(run.member(member) / WEIGHTS)


def test_another_code_book_and_another_split_are_named(run, tmp_path):
    other_codes, _ = tiny.trained(tmp_path / "other", splits={"seed": 4})
    record = files.read_json(other_codes.member(0) / "member.json")
    (split, book) = Expected.of(run.path).contradictions(0, record)
    assert split.startswith("its split: ")
    assert book.startswith("the code book: ")


def test_a_record_of_another_number_is_named(whole):
    expected = Expected.of(whole.path)
    record = files.read_json(whole.member(1) / "member.json")
    assert expected.contradictions(2, record) == ["it is 1, and has the place of 2"]
    beyond = {**record, "member": 7}
    assert expected.contradictions(7, beyond) == ["this run has members 0 to 3 only"]


def test_a_member_cannot_claim_to_be_taken_over_where_nothing_is_extended(whole):
    record = files.read_json(whole.member(1) / "member.json")
    (found,) = Expected.of(whole.path).contradictions(1, {**record, "taken_over": "x"})
    assert found == "taken over from an earlier run: True there, False here"


def test_other_images_under_the_same_fingerprint_are_found_by_verify(run):
    def change(record):
        record["trained_for"]["images_digest"] = "0" * 64

    rerecorded(run.member(1), change)
    EnsemblePipeline.from_pretrained(run.path)
    (found,) = certificate.violations(run)
    assert "the digest of the images that it is shown: 0000" in found


def test_members_of_version_0_1_load_and_are_said_to_be_unrecorded(run):
    for which in (0, 1, 2, 3, REFERENCE):
        rerecorded(run.trained(which), forget)
    EnsemblePipeline.from_pretrained(run.path)
    assert train.main([str(run.path / "config.yaml")]) == 0
    assert not certificate.violations(run)
    said = certificate.statement(run)
    assert "Not recorded: what members 0, 1, 2, 3 and the reference were" in said
    assert "every member's record names" not in said


def test_even_of_version_0_1_a_member_with_another_seed_is_refused(run, tmp_path):
    foreign, _ = tiny.trained(tmp_path / "other", training={"seed": 5})
    rerecorded(foreign.member(2), forget)
    replaced(run.member(2), foreign.member(2))
    with pytest.raises(BadInput, match=r"training\.seed: 5 there, 0 here"):
        EnsemblePipeline.from_pretrained(run.path)


def test_after_a_removal_those_who_never_saw_the_source_still_belong(run):
    removal.request(run, [0], "asked")
    saw = read_codes(run.codes).bits[0]
    before = {m: files.read_json(run.member(m) / "member.json") for m in range(4)}
    assert not certificate.violations(run)
    assert train.main([str(run.path / "config.yaml"), "--repair"]) == 0
    assert not certificate.violations(run)
    expected = Expected.of(run.path)
    first, now = expected.fingerprints
    assert first != now
    for member in range(4):
        record = files.read_json(run.member(member) / "member.json")
        found = record["trained_for"]
        assert found["data_fingerprint"] == (now if saw[member] else first)
        same = record == before[member]
        assert same != saw[member]
    assert len(EnsemblePipeline.from_pretrained(run.path).members.member_ids) == 4


def test_a_member_of_another_run_that_was_repaired_there_is_refused(run, tmp_path):
    foreign, _ = tiny.trained(tmp_path / "other", training={"learning_rate": 0.01})
    for one in (run, foreign):
        removal.request(one, [0], "asked")
        assert train.main([str(one.path / "config.yaml"), "--repair"]) == 0
    (member,) = np.flatnonzero(read_codes(run.codes).bits[0]).tolist()
    replaced(run.member(member), foreign.member(member))
    with pytest.raises(BadInput, match=r"training\.learning_rate: 0\.01 there"):
        EnsemblePipeline.from_pretrained(run.path)


# Members in the making.


def interrupted(folder, after=5, **changes):
    """A run whose member 0 has a checkpoint, and no member that is finished."""
    run = create(tiny.config(folder, **changes))
    ready = drawing.prepare(run)
    with pytest.raises(Interrupted):
        train_members(run, [0], ready, tiny.StopsAfter(after - 1))
    return run, run.members / "000.part"


def go_on(run):
    assert not train_members(run, [0], drawing.prepare(run), Stopping())


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_training_is_not_gone_on_from(
    whole, tmp_path, monkeypatch, capsys, name
):
    changes, said = OTHERS[name]
    if name == "other images":
        brighter(monkeypatch)
        said = "the digest of the images that it is shown"
    _, part = interrupted(tmp_path / "other", 3, **changes)
    monkeypatch.undo()
    run = create(tiny.config(tmp_path / "run"))
    drawing.prepare(run)
    shutil.copytree(part, run.members / "000.part")
    go_on(run)
    out = capsys.readouterr().out
    assert f"of another training ({said}" in out
    assert "member 000 goes back" in out
    assert weights(run, 0) == weights(whole, 0)
    assert lineage.unrecorded(run.path) == []


def test_a_checkpoint_of_another_member_is_not_gone_on_from(tmp_path, capsys):
    run = create(tiny.config(tmp_path / "run"))
    ready = drawing.prepare(run)
    alike = dataclasses.replace(ready, codes=CodeBook(np.ones((8, 4), dtype=bool)))
    with pytest.raises(Interrupted):
        train_members(run, [0], alike, tiny.StopsAfter(2))
    (run.members / "000.part").rename(run.members / "001.part")
    assert not train_members(run, [1], alike, Stopping())
    assert (
        "of another training (its number: 0 there, 1 here)" in capsys.readouterr().out
    )


def test_a_finished_member_in_the_making_of_another_run_is_trained_again(
    whole, tmp_path, capsys
):
    foreign, _ = tiny.trained(tmp_path / "other", training={"learning_rate": 0.01})
    run = create(tiny.config(tmp_path / "run"))
    drawing.prepare(run)
    shutil.copytree(foreign.member(0), run.members / "000.part")
    go_on(run)
    out = capsys.readouterr().out
    assert "000.part was not trained for this run (training.learning_rate: 0.01" in out
    assert weights(run, 0) == weights(whole, 0)


def as_of_version_0_1(part):
    """Take out of a checkpoint what version 0.1 did not write."""
    kept = checkpoint.read(part / CHECKPOINT)
    assert kept is not None
    tensors, facts = kept
    for name in ("trained_for", "loss_seconds", "unrecorded_steps", "kept"):
        facts.pop(name)
    checkpoint.write(part / CHECKPOINT, tensors, facts)


def test_a_checkpoint_of_version_0_1_is_gone_on_from_and_said_to_be_unrecorded(
    whole, tmp_path
):
    run, part = interrupted(tmp_path / "run", training={"keep_every_steps": 2})
    as_of_version_0_1(part)
    go_on(run)
    assert weights(run, 0) == weights(whole, 0)
    record = files.read_json(run.member(0) / "member.json")
    assert record["unrecorded_steps"] == 5
    assert lineage.unrecorded(run.path) == [0]
    assert {"step-00000002.safetensors", "step-00000004.safetensors"} < set(
        record["files"]
    )
    lines = (run.member(0) / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    assert all("seconds" in json.loads(line) for line in lines)


def test_weights_on_the_way_of_another_training_are_not_sealed(tmp_path, capsys):
    kept = {"training": {"keep_every_steps": 2}}
    _, part = interrupted(tmp_path / "other", training={"keep_every_steps": 1})
    run = create(tiny.config(tmp_path / "run", **kept))
    drawing.prepare(run)
    shutil.copytree(part, run.members / "000.part")
    go_on(run)
    assert "training.keep_every_steps: 1 there, 2 here" in capsys.readouterr().out
    names = sorted(path.name for path in run.member(0).glob("step-*"))
    assert names == ["step-00000002.safetensors", "step-00000004.safetensors"]


@pytest.mark.parametrize("harm", ["replaced", "lost"])
def test_weights_on_the_way_that_were_changed_are_made_again(tmp_path, capsys, harm):
    kept = {"training": {"keep_every_steps": 2}}
    undisturbed, _ = tiny.trained(tmp_path / "whole", **kept)
    run, part = interrupted(tmp_path / "run", **kept)
    name = "step-00000002.safetensors"
    if harm == "lost":
        (part / name).unlink()
    else:
        shutil.copyfile(part / "step-00000004.safetensors", part / name)
    go_on(run)
    assert "whose weights on the way were lost or changed" in capsys.readouterr().out
    assert files.sha256(run.member(0) / name) == files.sha256(
        undisturbed.member(0) / name
    )


def test_a_slice_of_another_training_is_not_repaired_from_and_is_found(
    tmp_path, capsys
):
    settings = {"splits": {"design": "partition", "n_members": 2}}
    run, _ = tiny.trained(tmp_path / "run", training={"slices": 2}, **settings)
    foreign, _ = tiny.trained(
        tmp_path / "other",
        training={"slices": 2, "learning_rate": 0.01},
        **settings,
    )
    slice_ = SLICE.format(1)
    for member in range(2):
        shutil.copyfile(foreign.member(member) / slice_, run.member(member) / slice_)
        rerecorded(run.member(member), lambda _: None)
    found = certificate.violations(run)
    assert len(found) == 2
    assert all("training.learning_rate: 0.01 there, 0.002 here" in one for one in found)
    removal.request(run, [0], "asked", force=True)
    ready = drawing.prepare(run)
    train_members(run, repair.affected(run), ready, Stopping())
    assert "training goes on from before it" in capsys.readouterr().out
    saw = int(np.flatnonzero(read_codes(run.codes).bits[0])[0])
    assert files.read_json(run.member(saw) / "member.json")["steps_kept"] == 0


# Models that evaluation trains.


def test_models_that_evaluation_trained_belong_to_their_folder(whole, tmp_path):
    ready = drawing.prepare(whole)
    kept = np.ones((8, 1), dtype=bool)

    def models(folder, **changes):
        given = tiny.config(
            folder, splits={"design": "given", "n_members": 1}, **changes
        )
        return retraining.train(ready, kept, given)

    one = models(tmp_path / "one")
    two = models(tmp_path / "two", training={"learning_rate": 0.01})
    replaced(one.member(0), two.member(0))
    with pytest.raises(BadInput, match=r"training\.learning_rate: 0\.01 there"):
        load_member(one.member(0))
    with pytest.raises(BadInput, match="was not trained for this run"):
        models(tmp_path / "one")


# The log and the scheduler.


def test_a_log_without_its_last_lines_is_whole_again_in_the_finished_member(tmp_path):
    for harm in ("missing", "torn", "surplus", "lost"):
        run, part = interrupted(tmp_path / harm)
        log = part / "log.jsonl"
        lines = log.read_text().splitlines(keepends=True)
        assert len(lines) == 2
        if harm == "lost":
            log.unlink()
        else:
            texts = {"missing": lines[:1], "torn": [lines[0], lines[1][:9]]}
            log.write_text("".join(texts.get(harm, [*lines, '{"step": 6'])))
        go_on(run)
        found = [json.loads(one) for one in (run.member(0) / "log.jsonl").open()]
        assert [one["step"] for one in found] == [2, 4, 6]
        curve = files.read_json(run.member(0) / "member.json")["loss_curve"]
        assert [one["loss"] for one in found] == [round(x, 6) for x in curve["loss"]]
        assert all(one["seconds"] > 0 for one in found)
        assert records.check_done_mark(run.member(0), "member.json")


def test_a_kill_after_a_slice_leaves_no_torn_line(tmp_path, monkeypatch):
    run = create(tiny.config(tmp_path / "run", training={"slices": 3}))
    ready = drawing.prepare(run)
    save = MemberTrainer.save_checkpoint

    def killed(trainer, name=CHECKPOINT):
        save(trainer, name)
        if name == SLICE.format(1):
            raise RuntimeError("killed")

    monkeypatch.setattr(MemberTrainer, "save_checkpoint", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train_members(run, [0], ready, Stopping())
    monkeypatch.undo()
    log = run.members / "000.part/log.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    go_on(run)
    found = [json.loads(one) for one in (run.member(0) / "log.jsonl").open()]
    assert [one["step"] for one in found] == [2, 4, 6]


def edited_scheduler(run):
    path = run.path / "scheduler/scheduler_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "beta_end": 0.5}))


def test_a_scheduler_that_is_on_no_record_is_never_accepted(run, whole, tmp_path):
    tiny.forget_stage(run, "train")
    edited_scheduler(run)
    with pytest.raises(BadInput, match="is on no record"):
        EnsemblePipeline.from_pretrained(run.path)
    assert any("is on no record" in one for one in certificate.violations(run))
    before = copied(run, tmp_path / "again")
    # A command writes it anew from the config, and so does train.py.
    pipe = attribute.ensemble_of(open_run(run.path))
    assert train.main([str(before.path / "config.yaml")]) == 0
    name = "scheduler/scheduler_config.json"
    for one in (run, before):
        assert files.sha256(one.path / name) == files.sha256(whole.path / name)
        assert not certificate.violations(one)
    picture = pipe(seeds=[0], output_type="np").images
    assert np.array_equal(
        picture, tiny.pipeline_of(whole)(seeds=[0], output_type="np").images
    )


def test_an_edited_scheduler_that_is_on_record_is_refused(run):
    edited_scheduler(run)
    with pytest.raises(BadInput, match="is damaged: expected sha256"):
        loading.check_pipeline(run.path, files.read_json(run.manifest))


def test_images_of_their_own_are_known_whatever_the_others_are(whole):
    data = drawing.prepare(whole).data
    some = np.array([1, 4])
    assert data.digest_of(some, False) != data.digest_of(some[::-1].copy(), False)
    assert data.digest_of(some, False) != data.digest_of(some, True)
    assert data.digest_of(some, False) != data.digest_of(np.array([1, 5]), False)
    assert torch.is_tensor(load_member(whole.member(0)).conv_in.weight)
