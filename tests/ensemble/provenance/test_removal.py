"""What is removed falls silent at once, and a repair gives the bits of never having it."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from ensemble.ablation import exact
from ensemble.certificate import certificate
from ensemble.cli import attribute
from ensemble.evaluation import held_out
from ensemble.models import denoisers
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.provenance import drawing, plans, removal, repair
from ensemble.run import files, manifest, records, removal_log, voters
from ensemble.run.folder import REFERENCE, Run, create
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.training.members import train_members
from ensemble.training.process import Interrupted, Stopping
from ensemble.training.trainer import MemberTrainer
from splits.codes import CodeBook
from splits.errors import BadInput
from tests import tiny
from tests.ensemble.training.test_trainer import StopsAfter

WEIGHTS = "diffusion_pytorch_model.safetensors"
SOURCE = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Eight sources, four members; each member saw two sources of its own."""
    folder = tmp_path_factory.mktemp("whole")
    run, _ = tiny.trained(folder / "run", splits={"design": "partition"})
    return run


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return Run(tmp_path / "run", whole.config)


def saw(run, *sources):
    bits = files.read_array(run.codes)[list(sources)]
    return np.flatnonzero(bits.any(axis=0)).tolist()


def repaired(run):
    ready = drawing.prepare(run)
    assert not train_members(run, repair.affected(run), ready, Stopping())
    return repair.finish(run)


def weights_of(folder):
    return files.sha256(folder / WEIGHTS)


def test_whoever_saw_a_removed_source_is_not_even_loaded(run):
    removal.request(run, [SOURCE], "asked")
    (silent,) = saw(run, SOURCE)
    voting = [member for member in range(4) if member != silent]
    pipe = EnsemblePipeline.from_pretrained(run.path)
    assert pipe.members.member_ids == voting
    without = EnsemblePipeline.from_pretrained(run.path, members=voting)
    pictures, expected = (
        one(seeds=[0], output_type="np").images for one in (pipe, without)
    )
    assert np.array_equal(pictures, expected)
    with pytest.raises(BadInput, match=f"Member {silent} of .* is silenced"):
        EnsembleModel.from_pretrained(run.members, members=[silent])
    # The pipeline knows that nobody has to be silenced for it any more.
    images = pipe(seeds=[0], ablate=[SOURCE], output_type="np").images
    assert np.array_equal(images, pictures)


def test_the_plan_of_those_who_vote_has_no_trace_of_the_source(run):
    before = plans.load(run)
    assert np.array_equal(before.seen_by([2, 0]), before.codes.bits[:, [2, 0]])
    removal.request(run, [SOURCE], "asked")
    plan = plans.load(run)
    assert not plan.codes.bits[SOURCE].any()
    assert not plan.data.images[plan.source_of == SOURCE].any()
    rest = plan.source_of != SOURCE
    assert np.array_equal(plan.data.images[rest], before.data.images[rest])
    assert plan.data.names == before.data.names
    assert plan.removed == [SOURCE]
    (silent,) = saw(run, SOURCE)
    assert plan.members == [member for member in range(4) if member != silent]
    assert np.array_equal(plan.seen_by(plan.members), plan.codes.bits)


def test_a_removal_of_all_members_is_refused_and_writes_nothing(run):
    everybody = plans.load(run).codes.bits.argmax(axis=0).tolist()
    before = sorted(path.name for path in run.path.iterdir())
    with pytest.raises(BadInput, match="None of the 4 members would be left"):
        removal.request(run, everybody, "asked")
    with pytest.raises(BadInput, match="These are all 8 sources"):
        removal.request(run, range(8), "asked", force=True)
    with pytest.raises(BadInput, match="Source 8 does not exist"):
        removal.request(run, [8], "asked")
    assert removal_log.requests(run.path) == []
    kept = sorted(path.name for path in run.path.iterdir())
    assert set(kept) - set(before) <= {".removals.lock"}
    removal.request(run, everybody, "asked", force=True)
    with pytest.raises(BadInput, match="No member of .* is left to vote"):
        EnsemblePipeline.from_pretrained(run.path)
    with pytest.raises(BadInput, match="No member of .* is left to vote"):
        plans.load(run)
    assert "0 vote" in "\n".join(removal.consequences(run))


def test_what_was_removed_before_is_not_recorded_again(run):
    first = removal.request(run, [SOURCE], "asked")
    assert first is not None
    assert (first.sources, first.reason) == ([SOURCE], "asked")
    assert removal.request(run, [SOURCE], "asked again") is None
    second = removal.request(run, [SOURCE, 0], "more")
    assert second is not None
    assert (second.sources, len(second.images)) == ([0], 2)


def test_a_request_that_a_kill_kept_off_the_record_is_put_on_it(run):
    removal.request(run, [SOURCE], "asked")
    known = files.read_json(run.manifest)["stages"]["remove 1"]["line_sha256"]
    tiny.forget_stage(run, "remove 1")
    assert removal.request(run, [SOURCE], "again") is None
    noted = files.read_json(run.manifest)["stages"]["remove 1"]
    assert noted["line_sha256"] == known
    log = run.path / removal_log.LOG
    log.write_text(log.read_text().replace("asked", "never"))
    with pytest.raises(BadInput, match="line 1 is not what was written"):
        removal_log.requests(run.path)


def test_pictures_from_before_are_refused_and_named(run):
    pipe = EnsemblePipeline.from_pretrained(run.path)
    queries.generate(run, pipe, "old", [0])
    removal.request(run, [SOURCE], "asked")
    with pytest.raises(BadInput, match="queries/old is from before a removal"):
        queries.load(run, "old")
    pipe = EnsemblePipeline.from_pretrained(run.path)
    with pytest.raises(BadInput, match="queries/old is from before a removal"):
        queries.generate(run, pipe, "old", [0])
    queries.generate(run, pipe, "new", [0])
    queries.load(run, "new")
    assert removal.leftovers(run) == [run.queries("old")]
    assert str(run.queries("old")) in "\n".join(removal.consequences(run))
    repaired(run)
    with pytest.raises(BadInput, match="queries/new is from before a removal"):
        queries.load(run, "new")


def test_an_identical_picture_of_another_source_is_pointed_out(run, monkeypatch):
    plan = plans.checked(run)
    pixels = plan.data.images.copy()
    pixels[5] = pixels[SOURCE]
    twins = dataclasses.replace(plan.data, images=pixels)
    monkeypatch.setattr(
        plans, "checked", lambda _: dataclasses.replace(plan, data=twins)
    )
    _, line = removal.announced(run, [SOURCE])
    assert "stays in the ensemble as digit 0005, of source 5 (digit 0005)" in line
    assert len(list(removal.announced(run, [SOURCE, 5]))) == 1


def test_what_a_removal_will_do_is_said_with_names_before_it_is_recorded(run):
    (line,) = removal.announced(run, ["digit 0003"])
    (member,) = saw(run, SOURCE)
    left = "left to vote: 3 of 4."
    assert line == (
        f"To be removed: source 3 (digit 0003). Members that this silences: 1; {left}"
    )
    assert not (run.path / removal_log.LOG).exists()
    recorded = removal.request(run, ["digit 0003"], "asked")
    assert recorded.sources == [SOURCE]
    assert recorded.names == ["digit 0003"]
    assert voters.silenced_members(run.path) == [member]
    before, line = removal.announced(run, [3, 0])
    assert before == "Removed before: source 3 (digit 0003)."
    assert line.startswith("To be removed: source 0 (digit 0000). Members that this")
    (only,) = removal.announced(run, [3])
    assert only == before
    with pytest.raises(BadInput, match="but no source is called so.*mean 'digit 0003'"):
        removal.request(run, ["digit 003"], "asked")


def test_the_certificate_holds_between_removal_and_repair_and_after(run):
    removal.request(run, [SOURCE], "a letter")
    assert certificate.violations(run, [0]) == []
    (silent,) = saw(run, SOURCE)
    text = certificate.statement(run)
    assert "(request 1 of" in text
    assert "a letter" in text
    assert f"Silenced: members [{silent}]" in text
    assert f"Members [{silent}] of" in repaired(run)
    assert certificate.violations(run, [0]) == []
    assert "Silenced" not in certificate.statement(run)
    for member in range(4):
        exposure = files.read_array(run.member(member) / "exposure.npy")
        assert exposure[SOURCE] == 0
        assert exposure.sum() > 0


def test_a_member_that_was_shown_a_removed_image_after_all_is_found(run):
    removal.request(run, [SOURCE], "asked")
    repaired(run)
    (member,) = saw(run, SOURCE)
    folder = run.member(member)
    exposure = files.read_array(folder / "exposure.npy").copy()
    exposure[SOURCE] = 1
    files.write_array(folder / "exposure.npy", exposure)
    record = files.read_json(folder / "member.json")
    record.pop("files")
    records.write_done_mark(folder, "member.json", record)
    found = certificate.violations(run)
    assert any(f"member {member} was shown image {SOURCE}" in one for one in found)


def test_repairing_gives_the_bits_of_a_run_that_never_had_the_source(run, tmp_path):
    before = {member: weights_of(run.member(member)) for member in range(4)}
    removal.request(run, [SOURCE], "asked")
    repaired(run)
    plan = drawing.draw(run.config)
    bits = plan.codes.bits.copy()
    bits[SOURCE] = False
    never = create(tiny.config(tmp_path / "never"))
    ready = dataclasses.replace(plan, codes=CodeBook(bits))
    manifest.start_manifest(never, plans.facts(ready))
    (affected,) = saw(run, SOURCE)
    two = [affected, (affected + 1) % 4]
    assert not train_members(never, two, ready, Stopping())
    for member in two:
        now = weights_of(run.member(member))
        assert now == weights_of(never.member(member))
        assert (now == before[member]) == (member != affected)
        counts = [
            files.read_array(one.member(member) / "exposure.npy")
            for one in (run, never)
        ]
        assert np.array_equal(*counts)


def photos(folder, left_out=(), name=lambda index: f"{index:02d}.png"):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        if index not in left_out:
            Image.fromarray(pixels).save(folder / name(index))
    return folder


def of_photos(folder, run):
    return {
        "folder": run,
        "data": {"kind": "folder", "path": str(folder), "n_images": None},
        "splits": {"design": "named", "salt": "sea", "n_members": 4, "weight": 2},
    }


def test_with_codes_by_name_the_bits_are_those_of_data_without_the_image(tmp_path):
    """And the removed image may be deleted from the data in between."""
    folder = photos(tmp_path / "photos")
    run, _ = tiny.trained(**of_photos(folder, tmp_path / "run"))
    removal.request(run, [SOURCE], "asked")
    (folder / "03.png").unlink()
    repaired(run)
    assert certificate.violations(run) == []
    rest = photos(tmp_path / "rest", left_out=[SOURCE])
    never, _ = tiny.trained(**of_photos(rest, tmp_path / "never"))
    for member in range(4):
        assert weights_of(run.member(member)) == weights_of(never.member(member))
    pictures = [
        EnsemblePipeline.from_pretrained(one.path)(seeds=[7], output_type="np").images
        for one in (run, never)
    ]
    assert np.array_equal(*pictures)


def test_a_source_whose_name_is_no_unicode_can_be_removed(tmp_path):
    def name(index):
        return b"%02d\xff\xfe.png".decode("utf-8", "surrogateescape") % index

    folder = photos(tmp_path / "photos", name=name)
    run, _ = tiny.trained(**of_photos(folder, tmp_path / "run"))
    request = removal.request(run, [SOURCE], "asked in caf\udce9")
    assert request is not None
    assert request.images == {"3": "03\udcff\udcfe.png"}
    (folder / name(SOURCE)).unlink()
    assert removal_log.requests(run.path) == [request]
    assert "1 of 8 sources removed" in "\n".join(removal.consequences(run))
    repaired(run)
    assert certificate.violations(run, [0]) == []
    assert "asked in caf\udce9" in certificate.statement(run)


def test_images_of_others_must_stay_and_none_may_join(tmp_path):
    folder = photos(tmp_path / "photos")
    settings = of_photos(folder, tmp_path / "run")
    run = create(tiny.config(**settings))
    drawing.prepare(run)
    removal.request(run, [SOURCE], "asked")
    plans.load(run)
    (folder / "05.png").rename(tmp_path / "05.png")
    with pytest.raises(BadInput, match="6 training images are there, besides those"):
        plans.load(run)
    shutil.copy(folder / "06.png", folder / "05.png")
    with pytest.raises(BadInput, match="data_fingerprint of .* has changed"):
        plans.load(run)


class Killed(Exception):
    """Stands for a power cut."""


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_a_kill_at_any_instant_of_the_swap_leaves_the_old_or_the_new_member(
    run, monkeypatch, survived
):
    """The swap renames old away, renames new in and deletes old: stop after each."""
    removal.request(run, [SOURCE], "asked")
    (member,) = saw(run, SOURCE)
    folder, path = run.member(member), type(run.path)
    rename, done = path.rename, []

    def dying(old, new):
        if old.name.startswith(folder.name) and len(done) == survived:
            raise Killed
        done.append(new)
        return rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(path, "rename", dying)
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: done[1:] and 1 / 0)
        with pytest.raises((Killed, ZeroDivisionError)):
            repaired(run)
    votes = EnsemblePipeline.from_pretrained(run.path).members.member_ids
    assert (member in votes) == (survived == 2)
    ready = drawing.prepare(run)
    with monkeypatch.context() as patch:
        patch.setattr(MemberTrainer, "step", lambda _: 1 / 0)
        train_members(run, [member], ready, Stopping())
    repair.finish(run)
    assert EnsemblePipeline.from_pretrained(run.path).members.n_members == 4
    assert certificate.violations(run) == []
    folders = sorted(one.name for one in run.members.iterdir() if one.name[0] != ".")
    assert folders == ["000", "001", "002", "003"]


def test_a_checkpoint_that_knows_a_removed_source_is_dropped(tmp_path):
    settings = tiny.config(tmp_path / "run", training={"checkpoint_every_steps": 1})
    run = create(settings)
    ready = drawing.prepare(run)
    with pytest.raises(Interrupted):
        train_members(run, [0], ready, StopsAfter(4))
    removal.request(run, [int(ready.codes.split(0)[0])], "asked")
    ready = drawing.prepare(run)
    assert not train_members(run, [0], ready, Stopping())
    fresh = create(tiny.config(tmp_path / "fresh"))
    manifest.start_manifest(fresh, plans.facts(ready))
    train_members(fresh, [0], ready, Stopping())
    assert weights_of(run.member(0)) == weights_of(fresh.member(0))
    assert voters.silenced_members(run.path) == []


def test_the_reference_is_repaired_too(run):
    ready = drawing.prepare(run)
    train_members(run, [REFERENCE], ready, Stopping())
    removal.request(run, [SOURCE], "asked")
    assert repair.affected(run) == [*saw(run, SOURCE), REFERENCE]
    repaired(run)
    exposure = files.read_array(run.reference / "exposure.npy")
    assert exposure[SOURCE] == 0
    assert (np.delete(exposure, SOURCE) > 0).all()


def test_a_member_with_nothing_left_is_deleted_and_never_trained_again(run):
    (member,) = saw(run, SOURCE)
    removal.request(run, plans.load(run).codes.split(member).tolist(), "asked")
    assert "silenced for good" in "\n".join(removal.consequences(run))
    assert member not in repair.affected(run)
    repaired(run)
    assert not run.member(member).exists()
    assert EnsemblePipeline.from_pretrained(run.path).members.n_members == 3
    assert certificate.violations(run) == []


def test_nobody_is_affected_without_a_removal(run):
    assert repair.affected(run) == []


def removed_while(monkeypatch, run, owner, name, sources=(SOURCE,)):
    """Remove sources just before a function is called for the first time."""
    original, asked = getattr(owner, name), []

    def raced(*arguments, **options):
        if not asked:
            asked.append(True)
            removal.request(run, sources, "asked")
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, raced)
    return asked


def test_a_removal_while_members_are_loaded_is_heeded(run, monkeypatch):
    asked = removed_while(monkeypatch, run, denoisers, "load_member")
    pipe = EnsemblePipeline.from_pretrained(run.path)
    assert asked
    voting = voters.Membership.read(run.path)
    assert pipe.members.member_ids == list(voting.members)
    assert pipe.membership.digest() == voting.digest()


def test_a_command_whose_membership_is_over_is_refused(run, monkeypatch):
    known = voters.Membership.read(run.path)
    removed_while(monkeypatch, run, denoisers, "load_member")
    with pytest.raises(BadInput, match="While this command was at work, sources were"):
        EnsemblePipeline.from_pretrained(run.path, membership=known)
    with pytest.raises(BadInput, match="While this command was at work, sources were"):
        plans.load(run, known)


def test_a_removal_while_the_plan_is_read_is_heeded(run, monkeypatch):
    asked = removed_while(monkeypatch, run, plans, "changes")
    plan = plans.load(run)
    assert asked
    assert plan.removed == [SOURCE]
    assert not plan.data.images[plan.source_of == SOURCE].any()
    assert plan.codes.digest() == voters.voters_code_book(run.path).digest()


def test_a_repair_while_members_are_loaded_is_heeded(run, monkeypatch):
    removal.request(run, [SOURCE], "asked")
    original, done = denoisers.load_member, []

    def raced(folder, *given, **options):
        if not done:
            done.append(repaired(run))
        return original(folder, *given, **options)

    monkeypatch.setattr(denoisers, "load_member", raced)
    pipe = EnsemblePipeline.from_pretrained(run.path)
    assert done
    assert pipe.members.member_ids == [0, 1, 2, 3]
    assert pipe.membership.digest() == voters.Membership.read(run.path).digest()


def test_a_removal_before_pictures_are_kept_does_not_whitewash_them(run, monkeypatch):
    pipe = tiny.pipeline_of(run)
    drew = pipe.membership
    removal.request(run, [SOURCE], "asked")
    with pytest.raises(BadInput, match="queries/demo is from before a removal"):
        queries.generate(run, pipe, "demo", [0])
    info = files.read_json(run.queries("demo") / "info.json")
    assert info["code_book_digest"] == drew.codes.digest()
    assert info["weights_digest"] == drew.weights_digest
    assert run.queries("demo") in removal.leftovers(run)


def test_a_removal_while_members_are_repaired_is_not_recorded_as_repaired(run):
    removal.request(run, [SOURCE], "asked")
    ready = drawing.prepare(run)
    first = repair.affected(run, ready.removed)
    assert not train_members(run, first, ready, Stopping())
    other = next(one for one in range(8) if not set(saw(run, one)) & set(first))
    removal.request(run, [other], "asked in the meantime")
    said = repair.finish(run, ready.removed)
    assert f"Members {first} of" in said
    assert "More was removed in the meantime" in said
    stages = files.read_json(run.manifest)["stages"]
    assert stages["repair 1"]["members"] == first
    assert "repair 2" not in stages
    assert voters.silenced_members(run.path) == saw(run, other)


@pytest.mark.parametrize(
    "command",
    [["ablate"], ["score", "--method", "pixel_dot"], ["generate", "--n", "1"]],
)
def test_a_removal_before_a_command_loads_members_ends_it_or_is_heeded(
    run, monkeypatch, command
):
    attribute.main([str(run.path), "generate", "--n", "1", "--name", "before"])
    name = "new" if command[0] == "generate" else "before"
    asked = removed_while(monkeypatch, run, denoisers, "load_member")
    given = [str(run.path), *command, "--name", name]
    if command[0] == "generate":
        attribute.main(given)
        info = files.read_json(run.queries(name) / "info.json")
        assert voters.Membership.read(run.path).made(info)
    else:
        with pytest.raises(BadInput, match="While this command was at work, sources"):
            attribute.main(given)
        assert not [
            *run.path.glob("influence/*/*"),
            *run.path.glob("scores/before/*.npy"),
        ]
    assert asked


def test_a_removal_while_pictures_are_ablated_leaves_no_table_that_counts(
    run, monkeypatch
):
    attribute.main([str(run.path), "generate", "--n", "1"])
    asked = removed_while(monkeypatch, run, exact, "ablated_pictures")
    attribute.main([str(run.path), "ablate", "--placebos", "3"])
    assert asked
    with pytest.raises(BadInput, match="from before a removal"):
        attribute.main([str(run.path), "report"])
    assert run.influence("demo") / "exact" in removal.leftovers(run)


def test_given_pictures_owe_nothing_to_whoever_is_silenced(run):
    given = np.zeros((1, 1, 8, 8), np.float32)
    held_out.write(run, plans.load(run), "mine", given)
    removal.request(run, [SOURCE], "asked")
    assert queries.load(run, "mine").held_out
    assert run.queries("mine") not in removal.leftovers(run)
