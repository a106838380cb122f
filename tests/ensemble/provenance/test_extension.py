"""Extension: what was there keeps its codes and members, and what comes is kept apart."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from ensemble.certificate import certificate
from ensemble.cli import train
from ensemble.evaluation import retraining
from ensemble.provenance import drawing, extension, plans, removal, repair
from ensemble.run import config_file, files, lineage, records
from ensemble.run.folder import Run, create, open_run
from ensemble.run.lineage import Expected
from ensemble.sampling import completion
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.training.members import train_members
from ensemble.training.process import Stopping, prepared
from ensemble.training.trainer import MemberTrainer
from splits.errors import BadInput
from tests import tiny

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write(folder, numbers, artist=None):
    """Digits as an image folder, each by the artist that `artist` names."""
    folder.mkdir(parents=True)
    digits = load_digits().images
    lines = ["file_name,artist"]
    for number in numbers:
        name = f"{number:03d}.png"
        Image.fromarray((digits[number] * 15.9).astype(np.uint8)).save(folder / name)
        lines += [f"{name},{artist(number)}"] if artist else []
    if artist:
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return {"kind": "folder", "path": str(folder), "n_images": None}


def tree(folder, data, n_members=4, design="balanced", **changes):
    splits = {"design": design, "n_members": n_members}
    made = config_file.to_dict(tiny.config(folder, data=data, splits=splits))
    for section, values in changes.items():
        made[section] = {**made[section], **values}
    return made


def made(config_tree):
    """The run and plan of a config, all members trained."""
    run = create(config_file.from_dict(config_tree))
    ready = drawing.prepare(run)
    todo = [m for m in range(ready.codes.n_members) if not run.member(m).exists()]
    assert not train_members(run, todo, ready, Stopping())
    completion.complete(run)
    return run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("extension")
    data = {
        "old": write(root / "old", range(6)),
        "new": write(root / "new", range(6, 10)),
    }
    first = made(tree(root / "first", data["old"], 6))
    on = tree(root / "on", data["new"], 6)
    more = tree(root / "more", data["new"], 12)
    on["extends"] = more["extends"] = str(first.path)
    return root, data, first, made(on), made(more)


def weights(run, member):
    return load_file(run.member(member) / WEIGHTS)


def test_old_images_and_codes_come_first_and_are_unchanged(folders):
    _, _, first, on, more = folders
    before = plans.load(first)
    for run in (on, more):
        now = plans.load(run)
        np.testing.assert_array_equal(now.data.images[:6], before.data.images)
        np.testing.assert_array_equal(now.codes.bits[:6, :6], before.codes.bits)
        assert now.data.names == tuple(f"{number:03d}.png" for number in range(10))
        assert now.source_names == [*now.data.names]


def test_members_that_go_on_begin_from_their_own_weights_with_other_draws(folders):
    _, _, first, on, _ = folders
    plan = plans.load(on)
    start = extension.start_of(on, 2, len(plan.source_of))
    split = np.flatnonzero(plan.codes.bits[:, 2])
    accelerator = prepared(on.config.training)
    trainer = MemberTrainer(on, 2, plan.data, split, accelerator, start=start)
    for name, value in trainer.network.state_dict().items():
        torch.testing.assert_close(value, weights(first, 2)[name], rtol=0, atol=0)
    fresh = MemberTrainer(on, 2, plan.data, split, accelerator)
    assert not torch.equal(trainer._noise(3, 0)[1], fresh._noise(3, 0)[1])
    while trainer.state.step < on.config.training.steps:
        trainer.step()
    for name, value in trainer.finished().state_dict().items():
        torch.testing.assert_close(value, weights(on, 2)[name], rtol=0, atol=0)


def test_what_members_were_shown_adds_up(folders):
    _, _, first, on, _ = folders
    settings, bits = on.config.training, plans.load(on).codes.bits
    for member in range(6):
        before = np.load(first.member(member) / "exposure.npy")
        now = np.load(on.member(member) / "exposure.npy").astype(int)
        added = now - np.pad(before, (0, 4))
        assert added.sum() == settings.steps * settings.batch_size
        assert (added > 0).tolist() == bits[:, member].tolist()


def test_members_are_taken_over_bit_by_bit_where_others_join(folders):
    _, _, first, _, more = folders
    for member in range(6):
        one, other = (run.member(member) / WEIGHTS for run in (first, more))
        assert one.read_bytes() == other.read_bytes()
    assert not plans.load(more).codes.bits[6:, :6].any()


def test_the_certificate_covers_what_was_taken_over(folders):
    _, _, first, on, more = folders
    for run in (on, more):
        assert certificate.violations(run, [0]) == []
        assert f"Extends {first.path}" in certificate.statement(run)


def test_without_new_sources_the_picture_is_that_of_the_members_that_were_there(
    folders,
):
    """Where others join, silencing them gives back the earlier ensemble, exactly."""
    _, _, first, _, more = folders
    pipe = EnsemblePipeline.from_pretrained(more.path)
    old = EnsemblePipeline.from_pretrained(first.path)
    votes = np.r_[np.ones(6), np.zeros(6)] / 6
    now = pipe(seeds=[3], votes=votes, output_type="np").images
    before = old(seeds=[3], output_type="np").images
    np.testing.assert_allclose(now, before, atol=1e-6)
    everybody = pipe(seeds=[3], output_type="np").images
    assert np.abs(everybody - before).max() > 1e-3


@pytest.fixture
def copies(folders, tmp_path):
    """The earlier run and one that goes on, free to be damaged."""
    _, data, first, on, _ = folders
    shutil.copytree(first.path, tmp_path / "first")
    shutil.copytree(on.path, tmp_path / "on")
    for name in ("first", "on"):
        kept = tmp_path / name / "config.yaml"
        text = kept.read_text()
        for one in (first, on):
            text = text.replace(f" {one.path}\n", f" {tmp_path / one.path.name}\n")
        kept.write_text(text)
        manifest = tmp_path / name / "manifest.json"
        facts = files.read_json(manifest)
        files.write_json(manifest, {**facts, "config_digest": files.sha256(kept)})
    return open_run(tmp_path / "first"), open_run(tmp_path / "on"), data


def test_another_start_is_found(copies):
    first, on, _ = copies
    folder = on.member(1)
    record = files.read_json(folder / "member.json")
    record.pop("files")
    records.write_done_mark(folder, "member.json", {**record, "went_on_from": "0" * 64})
    (found,) = certificate.violations(on)
    assert "(e) member 1 began from weights 000" in found
    assert str(first.member(1)) in found


def test_a_run_that_lost_what_it_extends_is_refused(copies):
    first, on, _ = copies
    shutil.rmtree(first.member(1))
    found = certificate.violations(on)
    assert any(line.startswith(f"{first.path}: ") for line in found)
    assert any("(e) member 1" in line and "missing" in line for line in found)
    shutil.rmtree(first.path)
    with pytest.raises(BadInput, match="is not a run folder"):
        plans.load(on)


def foreign(run, folder, **training):
    """The same run, trained with other options."""
    other = config_file.to_dict(run.config)
    other["run"] = str(folder)
    other["training"] |= training
    return made(other)


def replaced(run, member, by):
    shutil.rmtree(run.member(member))
    shutil.copytree(by.member(member), run.member(member))


def test_members_that_were_taken_over_belong_by_what_the_earlier_run_was(
    folders, tmp_path
):
    _, data, first, _, more = folders
    noted = files.read_json(more.path / "sources.json")["extended"]
    assert noted == Expected.of(first.path).facts()
    for member in (0, 11):
        record = files.read_json(more.member(member) / "member.json")
        assert ("taken_over" in record) == (member == 0)
        book = files.read_json((first if member == 0 else more).manifest)
        found = record["trained_for"]["code_book_digest"]
        assert found == book["code_book_digest"]
    # Also where the run that took them over had them from another one.
    later = tree(tmp_path / "later", write(tmp_path / "data", range(10, 12)), 18)
    later["extends"] = str(more.path)
    later["training"]["learning_rate"] = 0.004
    last = made(later)
    assert certificate.violations(last) == []
    assert lineage.unrecorded(last.path) == []
    # The record of a member that was not taken over cannot stand for one that was.
    record = files.read_json(last.member(0) / "member.json")
    record.pop("taken_over")
    (found,) = Expected.of(last.path).contradictions(0, record)
    assert found == "taken over from an earlier run: False there, True here"


def test_foreign_members_are_refused_in_both_runs(folders, tmp_path):
    _, data, first, on, more = folders
    other = foreign(first, tmp_path / "other", learning_rate=0.01)
    said = r"training\.learning_rate: 0\.01 there, 0\.002 here"
    never = "taken over from an earlier run: False there, True here"
    for run, why in ((on, said), (more, never)):
        copy = Run(tmp_path / run.path.name, run.config)
        shutil.copytree(run.path, copy.path)
        replaced(copy, 2, other)
        with pytest.raises(BadInput, match=why):
            EnsemblePipeline.from_pretrained(copy.path)
    start = Run(tmp_path / "first", first.config)
    shutil.copytree(first.path, start.path)
    replaced(start, 2, other)
    extended = {**tree(tmp_path / "new", data["new"], 6), "extends": str(start.path)}
    with pytest.raises(BadInput, match=said):
        made(extended)


def test_a_run_that_version_0_1_extended_is_not_asked_for_what_it_did_not_note(
    folders, tmp_path
):
    _, _, _, _, more = folders
    copy = Run(tmp_path / "copy", more.config)
    shutil.copytree(more.path, copy.path)
    named = files.read_json(copy.path / "sources.json")
    del named["extended"]
    files.write_json(copy.path / "sources.json", named)
    for member in range(12):
        record = files.read_json(copy.member(member) / "member.json")
        for name in ("files", "trained_for"):
            record.pop(name)
        records.write_done_mark(copy.member(member), "member.json", record)
    assert len(EnsemblePipeline.from_pretrained(copy.path).members.member_ids) == 12
    assert certificate.violations(copy) == []
    assert "Not recorded: what members 0, 1, 2, 3, 4, 5," in certificate.statement(copy)


def test_what_was_removed_before_is_left_out(copies, tmp_path):
    first, _, data = copies
    removal.request(first, [2], "asked", force=True)
    extended = {**tree(tmp_path / "later", data["new"], 6), "extends": str(first.path)}
    with pytest.raises(BadInput, match=r"members .* are not repaired yet.*--repair"):
        drawing.draw(config_file.from_dict(extended))
    ready = drawing.prepare(first)
    assert not train_members(first, repair.affected(first), ready, Stopping())
    repair.finish(first)
    run = made(extended)
    now = plans.load(run)
    assert "002.png" not in now.data.names
    assert now.source_names == [*now.data.names]
    np.testing.assert_array_equal(
        now.codes.bits[:5], np.delete(ready.codes.bits, 2, axis=0)
    )
    assert certificate.violations(run) == []


def test_sources_removed_here_are_silent_but_members_cannot_begin_from_them(copies):
    first, on, _ = copies
    removal.request(on, [0], "asked", force=True)
    with pytest.raises(BadInput, match=r"began as members of .* extend it again"):
        train.main([str(on.path / "config.yaml"), "--repair"])


def test_new_sources_removed_here_can_be_repaired(copies):
    _, on, _ = copies
    removal.request(on, [9], "asked")
    assert train.main([str(on.path / "config.yaml"), "--repair"]) == 0
    assert certificate.violations(on) == []
    assert plans.load(on).members == list(range(6))


def test_what_does_not_fit_is_refused(folders, tmp_path):
    root, data, first, _, _ = folders

    def drawn(data, n_members=6, **changes):
        wanted = tree(tmp_path / "x", data, n_members, **changes)
        return drawing.draw(
            config_file.from_dict({**wanted, "extends": str(first.path)})
        )

    with pytest.raises(BadInput, match="6 new images are called like old ones, the fi"):
        drawn(data["old"])
    with pytest.raises(BadInput, match=r"New images are \(1, 4, 4\), old ones \(1, 8"):
        drawn({**data["new"], "size": 4})
    with pytest.raises(BadInput, match=r"splits.seed is 1, but .* has 0. Set it to"):
        drawn(data["new"], splits={"seed": 1})
    with pytest.raises(BadInput, match=r"model.dropout is 0.5, but"):
        drawn(data["new"], model={"dropout": 0.5})
    named = write(tmp_path / "named", [11], lambda _: "Eve")
    with pytest.raises(BadInput, match=r"columns \['artist', 'file_name'\], old"):
        drawn(named)
    shutil.rmtree(root / "unfinished", ignore_errors=True)
    begun = create(config_file.from_dict(tree(root / "unfinished", data["old"])))
    drawing.prepare(begun)
    wanted = tree(tmp_path / "y", data["new"]) | {"extends": str(begun.path)}
    with pytest.raises(BadInput, match=r"members \[0, 1, 2, 3\] are not trained yet"):
        drawing.draw(config_file.from_dict(wanted))


def test_options_that_an_extension_cannot_have_are_refused(tmp_path):
    wanted = tree(tmp_path / "x", {"kind": "folder", "path": "p"})
    for section, values, message in (
        ("data", {"stream": True}, r"cannot have data\.stream yet"),
        ("data", {"source": "a", "separator": ";"}, r"cannot have data\.separator"),
        ("data", {"owner": "a"}, r"cannot have data\.owner"),
        ("data", {"source": "near_duplicates"}, "near_duplicates yet"),
        ("training", {"slices": 2}, r"cannot have training\.slices"),
    ):
        bad = {**wanted, section: {**wanted[section], **values}, "extends": "y"}
        with pytest.raises(BadInput, match=message):
            config_file.from_dict(bad)
    with pytest.raises(BadInput, match="cannot extend itself"):
        config_file.from_dict({**wanted, "extends": wanted["run"]})


def test_models_of_other_sources_are_not_trained_like_extended_members(folders):
    _, _, _, on, _ = folders
    with pytest.raises(BadInput, match="each would have to be extended too"):
        retraining.config(on, on.path, on.config.splits, 1, None)


def test_promises_before_and_now_are_shown(folders, capsys):
    _, _, first, on, more = folders
    assert train.main([str(on.path / "config.yaml"), "--plan"]) == 0
    shown = capsys.readouterr().out
    assert f"The 6 members of {first.path} go on training." in shown
    (row,) = [line for line in shown.splitlines() if line.startswith("sources   ")][1:]
    assert row.split()[1:3] == ["6", "10"]
    assert train.main([str(more.path / "config.yaml"), "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "stay as they are, and 6 join" in shown
    assert "6 members x 6 steps" in shown


@pytest.fixture(scope="module")
def artists(tmp_path_factory):
    """Two artists; one of them brings more, and a third one comes."""
    root = tmp_path_factory.mktemp("artists")
    label = {"source": "artist", "label": "artist"}
    old = write(root / "old", range(6), lambda n: ("Adam", "Eve")[n % 2]) | label
    new = write(root / "new", range(6, 10), lambda n: ("Eve", "Abel")[n % 2]) | label
    first = made(tree(root / "first", old, 2, "partition"))
    return root, first, new


def test_an_old_source_that_brings_more_keeps_its_number(artists):
    root, first, new = artists
    wanted = tree(root / "on", new, 2, "partition")
    drawn = drawing.draw(config_file.from_dict({**wanted, "extends": str(first.path)}))
    assert drawn.source_names == ["Adam", "Eve", "Abel"]
    assert drawn.source_of.tolist() == [0, 1, 0, 1, 0, 1, 1, 2, 1, 2]


def test_an_old_source_cannot_bring_more_to_members_that_stay_as_they_are(artists):
    root, first, new = artists
    wanted = tree(root / "more", new, 4, "partition")
    with pytest.raises(BadInput, match="Source 'Eve' was there before, and has new im"):
        drawing.draw(config_file.from_dict({**wanted, "extends": str(first.path)}))


def test_conditional_members_keep_their_classes(artists):
    root, first, new = artists
    config = dataclasses.asdict(first.config)
    config |= {"run": str(root / "classes")}
    config["model"]["class_conditional"] = True
    conditional = made(config)
    config |= {"run": str(root / "x"), "extends": str(conditional.path), "data": new}
    with pytest.raises(BadInput, match="know Adam, Eve, and .* of Abel, Adam, Eve"):
        drawing.draw(config_file.from_dict(config))
    old = plans.checked(conditional).data
    artist_of = dict(zip(old.names, old.columns["artist"], strict=True))
    eves = [name for name, artist in artist_of.items() if artist == "Eve"]
    adams = write(root / "adams", range(6, 8), lambda _: "Adam")
    config["data"] = {**adams, "source": "artist", "label": "artist"}
    with pytest.raises(BadInput, match="know Adam, Eve, and .* of Adam. Train a new"):
        extension.joined(config_file.from_dict(config), old, eves)


def test_classes_that_are_declared_stay_whoever_joins(artists):
    root, first, new = artists
    config = dataclasses.asdict(first.config)
    config |= {"run": str(root / "declared")}
    config["model"]["class_conditional"] = True
    config["data"]["classes"] = ["Adam", "Eve", "Abel"]
    declared = made(config)
    wanted = {**config, "run": str(root / "y"), "extends": str(declared.path)}
    wanted["data"] = {**new, "classes": ["Adam", "Eve", "Abel"]}
    data = drawing.draw(config_file.from_dict(wanted)).data
    assert data.label_names == ("Adam", "Eve", "Abel")
    wanted["data"] = {**new, "classes": ["Abel", "Adam", "Eve"]}
    with pytest.raises(BadInput, match=r"data\.classes is .* Set it to that"):
        drawing.draw(config_file.from_dict(wanted))


def test_a_run_with_slices_cannot_be_extended(folders, tmp_path):
    _, data, _, _, _ = folders
    config = tree(tmp_path / "sliced", data["old"], training={"slices": 2})
    sliced = made(config)
    wanted = {**tree(tmp_path / "x", data["new"]), "extends": str(sliced.path)}
    with pytest.raises(BadInput, match=r"has training\.slices: it cannot be extended"):
        drawing.draw(config_file.from_dict(wanted))


def test_a_run_that_streams_can_be_extended(folders, tmp_path):
    """What members saw from files is held in memory from then on, pixel by pixel."""
    _, data, _, on, _ = folders
    streaming = made(tree(tmp_path / "files", {**data["old"], "stream": True}, 6))
    wanted = {**tree(tmp_path / "x", data["new"], 6), "extends": str(streaming.path)}
    drawn = drawing.draw(config_file.from_dict(wanted))
    np.testing.assert_array_equal(drawn.data.images, plans.load(on).data.images)
