"""Slices join one after the other, and a repair from a checkpoint has the same bits."""

import contextlib
import dataclasses
import functools
import shutil
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from ensemble.certificate import certificate
from ensemble.evaluation import retraining
from ensemble.provenance import drawing, plans, removal, repair
from ensemble.run import config, manifest, records
from ensemble.run.files import read_array, read_json, sha256
from ensemble.run.folder import CHECKPOINT, REFERENCE, SLICE, Run, create
from ensemble.training import checkpoint, sisa
from ensemble.training.description import describe, weights_of_a_member
from ensemble.training.members import train_members
from ensemble.training.process import Interrupted, Stopping
from ensemble.training.trainer import MemberTrainer
from splits.codes import CodeBook
from splits.errors import BadInput
from tests import tiny
from tests.ensemble.training.test_trainer import StopsAfter

WEIGHTS = "diffusion_pytorch_model.safetensors"
N_SLICES = 3
CHANGES = {
    "data": {"n_images": 12},
    "splits": {"design": "partition", "n_members": 2},
    "training": {"slices": N_SLICES, "ema_decay": 0.9, "flip": True},
    "model": {"dropout": 0.1},
}
SETTINGS = tiny.config("none", **CHANGES).training
IMAGES = np.array([2, 3, 5, 7, 11, 13])


def photos(folder, n_images=12):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(n_images):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return {"kind": "folder", "path": str(folder), "n_images": None}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Twelve sources, two members; each member saw six sources in three slices."""
    run, _ = tiny.trained(tmp_path_factory.mktemp("whole") / "run", **CHANGES)
    return run


@pytest.fixture(scope="module")
def never(whole, tmp_path_factory):
    """Member 0 as it would be if its code had never had a source."""
    return functools.cache(
        lambda source: never_had(whole, source, tmp_path_factory.mktemp("never"))
    )


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return Run(tmp_path / "run", whole.config)


def slice_of_sources(run):
    return sisa.of_images(run.config, plans.read(run))


def source_in(run, number):
    """A source of member 0 in this slice."""
    mine = read_array(run.codes)[:, 0]
    return int(np.flatnonzero(mine & (slice_of_sources(run) == number))[0])


def repaired(run):
    ready = drawing.prepare(run)
    assert not train_members(run, repair.affected(run), ready, Stopping())
    return repair.finish(run)


def never_had(run, source, folder):
    """Member 0 of a run whose code book never had the source's bits."""
    plan = drawing.draw(run.config)
    bits = plan.codes.bits.copy()
    bits[source] = False
    settings = dataclasses.replace(run.config, run=str(folder))
    never = create(settings)
    ready = dataclasses.replace(plan, codes=CodeBook(bits))
    manifest.start_manifest(never, plans.facts(ready))
    assert not train_members(never, [0], ready, Stopping())
    return never.member(0)


def contents(folder):
    """All that a member is, but times."""
    found = {name: sha256(folder / name) for name in (WEIGHTS, "exposure.npy")}
    for phase in range(1, N_SLICES):
        kept = checkpoint.read(folder / SLICE.format(phase))
        assert kept is not None
        tensors, facts = kept
        facts.pop("seconds")
        facts.pop("loss_seconds")
        found[f"facts {phase}"] = facts
        found |= {f"{name} {phase}": one.tolist() for name, one in tensors.items()}
    record = read_json(folder / "member.json")
    return found | {"curve": record["loss_curve"], "split": record["split_digest"]}


def test_a_source_has_its_slice_whoever_else_is_there():
    names = [f"name {number}" for number in range(3000)]
    found = sisa.of_names(names, 4, 0)
    assert np.array_equal(sisa.of_names(names[::-3], 4, 0), found[::-3])
    assert set(found) == {1, 2, 3, 4}
    # Three thousand draws: within five standard errors of a quarter.
    assert np.abs(np.bincount(found)[1:] - 750).max() < 5 * 24
    other = sisa.of_names(names, 4, 1)
    assert 0.2 < (other == found).mean() < 0.3
    assert sisa.of_names(["not \udce4 Unicode"], 4, 0)[0] in {1, 2, 3, 4}


def test_images_have_the_slice_of_their_source(tmp_path):
    by_label = tiny.config(
        tmp_path, data={"source": "label", "n_images": 40}, training={"slices": 3}
    )
    plan = drawing.draw(by_label)
    of_source = sisa.of_names(plan.source_names, 3, 0)
    found = sisa.of_images(by_label, plan)
    assert np.array_equal(found, of_source[plan.source_of])
    by_image = tiny.config(tmp_path, training={"slices": 3})
    plan = drawing.draw(by_image)
    found = sisa.of_images(by_image, plan)
    assert np.array_equal(found, sisa.of_names(plan.data.names, 3, 0))
    assert sisa.of_images(tiny.config(tmp_path), plan) is None


def test_a_phase_shows_the_slices_that_have_joined_evenly_and_nothing_else():
    slice_of = np.array([1, 3, 2, 1, 3, 2])
    settings = dataclasses.replace(SETTINGS, steps=31, slices=3)
    phases = sisa.Phases(IMAGES, slice_of, settings, 0)
    bounds = [0, *phases.ends, 31]
    assert bounds == [0, 10, 20, 31]
    for phase, (begin, end) in enumerate(pairwise(bounds), 1):
        shown = np.concatenate([phases.batch(step, 4) for step in range(begin, end)])
        counts = np.bincount(shown, minlength=14)
        joined = IMAGES[slice_of <= phase]
        assert set(np.flatnonzero(counts)) == set(joined)
        assert counts[joined].max() - counts[joined].min() <= 1
        assert len(shown) == 4 * (end - begin)


def test_phases_before_the_first_slice_with_an_image_show_that_slice():
    phases = sisa.Phases(IMAGES[:2], np.array([3, 2]), SETTINGS, 0)
    assert [pool.tolist() for pool in phases.pools] == [[3], [3], [2, 3]]


def test_digests_agree_until_the_first_slice_that_differs():
    slice_of = np.array([1, 3, 2, 1, 3, 2])
    first = sisa.Phases(IMAGES, slice_of, SETTINGS, 0).digests
    assert list(first) == [SLICE.format(1), SLICE.format(2), CHECKPOINT]
    for gone, n_same in ((0, 0), (2, 1), (1, 2)):
        left = np.delete(np.arange(6), gone)
        other = sisa.Phases(IMAGES[left], slice_of[left], SETTINGS, 0).digests
        same = [first[name] == other[name] for name in first]
        assert same == [True] * n_same + [False] * (3 - n_same)
    stranger = sisa.Phases(IMAGES, slice_of, SETTINGS, 1).digests
    assert not set(first.values()) & set(stranger.values())


@pytest.mark.parametrize(("n_slices", "n_removed"), [(2, 1), (4, 1), (4, 3), (10, 2)])
def test_the_share_that_a_repair_repeats_is_that_of_chance(n_slices, n_removed):
    rng = np.random.default_rng(0)
    first = rng.integers(1, n_slices + 1, (20_000, n_removed)).min(axis=1)
    shares = (n_slices - first + 1) / n_slices
    error = 5 * shares.std() / np.sqrt(len(shares))
    expected = sisa.share_repeated(n_slices, n_removed)
    assert abs(shares.mean() - expected) < error
    if n_removed == 1:
        assert expected == pytest.approx((n_slices + 1) / (2 * n_slices))


def test_more_slices_than_steps_are_refused_and_so_is_one():
    with pytest.raises(BadInput, match="slices is 7, but there are only 6 training"):
        tiny.config("none", training={"slices": 7})
    with pytest.raises(BadInput, match="slices is 1; it must be at least 2"):
        tiny.config("none", training={"slices": 1})


def test_the_plan_says_what_slices_take_and_save(whole):
    text = describe(whole.config, plans.load(whole))
    assert "2 x 2 checkpoints of" in text
    assert "67% of the steps of a member that loses one source" in text
    size = (whole.member(0) / SLICE.format(1)).stat().st_size
    n_weights = weights_of_a_member(whole.config, plans.load(whole).data)
    assert size == pytest.approx(16 * n_weights, rel=0.2)
    assert sisa.describe(tiny.config("none").training, 2, 10) == []


def test_members_and_checkpoints_have_seen_what_they_should(whole):
    assert certificate.violations(whole) == []
    assert "in each of 3 phases every member" in certificate.statement(whole)
    slice_of, bits = slice_of_sources(whole), read_array(whole.codes)
    for member in range(2):
        files = read_json(whole.member(member) / "member.json")["files"]
        for phase in range(1, N_SLICES):
            assert SLICE.format(phase) in files
            kept = checkpoint.read(whole.member(member) / SLICE.format(phase))
            assert kept is not None
            shown = kept[0]["exposure"].numpy() > 0
            assert not (shown & ~bits[:, member]).any()
            assert not (shown & (slice_of > max(phase, slice_of[shown].min()))).any()


STOPS = [(1, None), (2, None), (3, None), (2, 0), (3, 0), (2, 1), (2, 3)]


@pytest.mark.parametrize(("number", "stopped_after"), STOPS)
def test_a_repair_has_the_bits_of_never_having_had_the_source(
    run, never, number, stopped_after, monkeypatch
):
    source = source_in(run, number)
    before = sha256(run.member(0) / SLICE.format(1))
    removal.request(run, [source], "asked", force=True)
    if stopped_after is not None:
        with pytest.raises(Interrupted):
            train_members(run, [0], drawing.prepare(run), StopsAfter(stopped_after))
    done, step = [], MemberTrainer.step
    monkeypatch.setattr(
        MemberTrainer,
        "step",
        lambda one: done.append(one.state.step) or step(one),
    )
    text = repaired(run)
    # Nothing is done twice, and nothing that knows nothing of the source at all.
    first = (number - 1) * 2 + (stopped_after + 1 if stopped_after is not None else 0)
    assert done == list(range(first, 6))
    repeated = 6 - (number - 1) * 2
    assert f"Of their 6 steps of training, {repeated} were done again." in text
    assert contents(run.member(0)) == contents(never(source))
    same = sha256(run.member(0) / SLICE.format(1)) == before
    assert same == (number > 1)
    assert certificate.violations(run) == []
    lines = (run.member(0) / "log.jsonl").read_text().splitlines()
    assert len(lines) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_with_codes_by_name_the_bits_are_those_of_data_without_the_image(
    tmp_path, stream
):
    """In whose order every later image has another number."""
    by_name = {"design": "named", "salt": "sea", "n_members": 2, "weight": 1}
    data = photos(tmp_path / "photos")
    changes = {**CHANGES, "splits": by_name, "data": {**data, "stream": stream}}
    run, _ = tiny.trained(tmp_path / "run", **changes)
    source = source_in(run, 3)
    removal.request(run, [source], "asked", force=True)
    (tmp_path / "photos" / f"{source:02d}.png").unlink()
    assert "Of their 6 steps of training, 2 were done again." in repaired(run)
    assert certificate.violations(run) == []
    never, _ = tiny.trained(tmp_path / "never", **changes)
    assert len(plans.load(never).data.images) == 11
    for member in range(2):
        weights = [sha256(one.member(member) / WEIGHTS) for one in (run, never)]
        assert weights[0] == weights[1]


def test_nothing_that_saw_the_source_is_on_the_disk_after_a_repair(run):
    """Also what an interrupted training had left."""
    source = source_in(run, 2)
    part = run.member(0).with_suffix(".part")
    shutil.copytree(run.member(0), part)
    (part / "member.json").unlink()
    shutil.copy(part / SLICE.format(2), part / CHECKPOINT)
    removal.request(run, [source], "asked", force=True)
    repaired(run)
    assert not part.exists()
    for path in run.path.rglob("*.safetensors"):
        kept = checkpoint.read(path)
        if kept is not None:
            assert kept[0]["exposure"][source] == 0
            assert path.name.startswith("slice")
    assert np.load(run.member(0) / "exposure.npy")[source] == 0


def test_what_is_half_trained_of_a_member_with_nothing_left_is_deleted(run):
    part = run.member(0).with_suffix(".part")
    shutil.copytree(run.member(0), part)
    mine = plans.load(run).codes.split(0).tolist()
    removal.request(run, mine, "asked", force=True)
    repaired(run)
    assert not part.exists()
    assert not run.member(0).exists()


def test_two_removals_one_after_the_other_have_the_bits_of_neither(run, tmp_path):
    gone = [source_in(run, 3), source_in(run, 2)]
    for source in gone:
        removal.request(run, [source], "asked", force=True)
        repaired(run)
    assert certificate.violations(run) == []
    assert contents(run.member(0)) == contents(never_had(run, gone, tmp_path / "n"))


class Killed(Exception):
    """Stands for a power cut."""


def test_killed_at_each_of_its_writes_a_repair_still_has_the_same_bits(
    run, never, monkeypatch
):
    """Each attempt comes one file further than the one before."""
    source = source_in(run, 2)
    removal.request(run, [source], "asked", force=True)
    path, replace, written = type(run.path), type(run.path).replace, []

    def dying(partial, final):
        if len(written) == n_files:
            raise Killed
        written.append(final.name)
        return replace(partial, final)

    for n_files in range(4):
        written.clear()
        with monkeypatch.context() as patch:
            patch.setattr(path, "replace", dying)
            with contextlib.suppress(Killed):
                train_members(run, [0], drawing.prepare(run), Stopping())
        assert run.member(0).with_suffix(".part").exists() == (n_files < 3)
    assert written == ["log.jsonl", "exposure.npy", "member.json"]
    repair.finish(run)
    assert contents(run.member(0)) == contents(never(source))
    assert certificate.violations(run) == []


def test_the_reference_is_repaired_from_a_slice_too(run, tmp_path):
    train_members(run, [REFERENCE], drawing.prepare(run), Stopping())
    source = source_in(run, 3)
    removal.request(run, [source], "asked", force=True)
    repaired(run)
    record = read_json(run.reference / "member.json")
    assert record["steps_kept"] == 4
    removed = drawing.prepare(run)
    fresh = create(dataclasses.replace(run.config, run=str(tmp_path / "fresh")))
    manifest.start_manifest(fresh, plans.facts(removed))
    train_members(fresh, [REFERENCE], removed, Stopping())
    assert contents(run.reference) == contents(fresh.reference)


@pytest.mark.parametrize("damage", ["flipped", "lost"])
def test_a_checkpoint_that_is_damaged_costs_steps_and_no_bits(run, never, damage):
    path = run.member(0) / SLICE.format(2)
    if damage == "lost":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
    (found,) = certificate.violations(run)
    assert str(path) in found
    source = source_in(run, 3)
    removal.request(run, [source], "asked", force=True)
    assert "Of their 6 steps of training, 4 were done again." in repaired(run)
    assert contents(run.member(0)) == contents(never(source))


def test_a_checkpoint_ahead_of_a_slice_that_was_lost_is_not_gone_on_from(
    whole, tmp_path
):
    """Otherwise the member would have no checkpoint of that slice."""
    run = create(dataclasses.replace(whole.config, run=str(tmp_path / "run")))
    ready = drawing.prepare(run)
    with pytest.raises(Interrupted):
        train_members(run, [0], ready, StopsAfter(4))
    (run.member(0).with_suffix(".part") / SLICE.format(2)).unlink()
    train_members(run, [0], ready, Stopping())
    assert contents(run.member(0)) == contents(whole.member(0))


def resealed(folder, name, **changes):
    """A checkpoint as if it had been written so, and a record that knows it so."""
    kept = checkpoint.read(folder / name)
    assert kept is not None
    tensors, facts = kept
    if "shown" in changes:
        tensors["exposure"][changes.pop("shown")] += 1
    checkpoint.write(folder / name, tensors, {**facts, **changes})
    seal(folder)


def seal(folder):
    record = read_json(folder / "member.json")
    record.pop("files")
    records.write_done_mark(folder, "member.json", record)


def test_a_checkpoint_that_was_shown_a_later_slice_is_found(run):
    source = source_in(run, 3)
    resealed(run.member(0), SLICE.format(1), shown=source)
    found = certificate.violations(run)
    assert any(
        f"phase 1: image {source} was shown, which is of a la" in f for f in found
    )


def test_a_checkpoint_that_was_shown_a_removed_source_is_found(run):
    source = source_in(run, 3)
    removal.request(run, [source], "asked", force=True)
    repaired(run)
    resealed(run.member(0), SLICE.format(2), shown=source)
    found = certificate.violations(run)
    assert any(f"phase 2: image {source} was shown" in one for one in found)


def test_an_image_that_was_shown_too_often_in_a_phase_is_found(run):
    resealed(run.member(0), SLICE.format(1), shown=source_in(run, 1))
    found = certificate.violations(run)
    assert any("phase 1: its images were shown" in one for one in found)
    assert any("6 were due" in one for one in found)


def test_the_checkpoint_of_before_a_repair_in_its_place_again_is_found(run):
    old = (run.member(0) / SLICE.format(2)).read_bytes()
    removal.request(run, [source_in(run, 2)], "asked", force=True)
    repaired(run)
    (run.member(0) / SLICE.format(2)).write_bytes(old)
    (found,) = certificate.violations(run)
    assert "slice_2.safetensors is damaged" in found
    seal(run.member(0))
    found = certificate.violations(run)
    assert any("is not of 4 steps on the slices that it stands for" in f for f in found)


def test_a_checkpoint_that_nobody_knows_of_any_more_is_missed(run):
    (run.member(0) / SLICE.format(1)).unlink()
    seal(run.member(0))
    (found,) = certificate.violations(run)
    assert "slice_1.safetensors is missing or damaged" in found


def test_without_slices_nothing_is_kept_and_nothing_changes(tmp_path):
    plain, _ = tiny.trained(tmp_path / "plain")
    assert not list(plain.path.rglob("slice*"))
    assert config.TrainingConfig().slices is None


def test_slices_change_the_weights(whole, tmp_path):
    training_only = {**CHANGES["training"], "slices": None}
    plain = tiny.config(tmp_path / "p", **{**CHANGES, "training": training_only})
    run = create(plain)
    train_members(run, [0], drawing.prepare(run), Stopping())
    one, other = (sha256(of.member(0) / WEIGHTS) for of in (run, whole))
    assert one != other


def test_retrained_models_have_slices_as_long_as_their_steps_suffice(whole):
    for steps, expected in ((None, N_SLICES), (3, N_SLICES), (2, None)):
        wanted = retraining.config(whole, whole.path, whole.config.splits, 1, steps)
        assert wanted.training.slices == expected
