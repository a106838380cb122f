"""Every way in which the certificate can be broken is found, and named."""

import json
import shutil

import numpy as np
import pytest

from ensemble.certificate import ablated, certificate, codes, images
from ensemble.certificate.subject import Subject
from ensemble.data.datasets import TrainingImages
from ensemble.provenance import plans
from ensemble.run import records
from ensemble.run.files import read_json, write_array
from ensemble.run.folder import REFERENCE, Run
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.training.members import train_members
from ensemble.training.process import Stopping
from splits.codes import CodeBook
from tests import tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny.trained(tmp_path_factory.mktemp("certificate") / "run")


@pytest.fixture
def run(whole, tmp_path):
    """A copy that may be broken."""
    original, _ = whole
    shutil.copytree(original.path, tmp_path / "run")
    return Run(tmp_path / "run", original.config)


def test_an_untouched_run_holds(whole):
    run, _ = whole
    assert certificate.violations(run, sources=[0, 1]) == []
    assert "holds for its 4 members and 8 sources" in certificate.statement(run)


def test_ablation_runs_only_members_that_never_saw_the_sources(whole):
    run, plan = whole
    pipe = EnsemblePipeline.from_pretrained(run.path)
    ran = ablated.running_members(pipe, [0, 1])
    saw = plan.codes.bits[[0, 1]].any(axis=0)
    assert ran == set(np.flatnonzero(~saw).tolist())


def test_other_weights_are_found(run):
    path = run.member(2) / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    (found,) = certificate.violations(run)
    assert found.startswith("(a) member 2:")
    assert "expected sha256" in found


def test_a_missing_member_is_found(run):
    shutil.rmtree(run.member(1))
    (found,) = certificate.violations(run)
    assert found.startswith("(a) member 1:")
    assert "missing" in found


def reseal(folder, **changes):
    """Write a record as if the member had really been trained so."""
    record = read_json(folder / "member.json")
    files = record.pop("files")
    assert files
    records.write_done_mark(folder, "member.json", {**record, **changes})


def test_an_image_outside_the_split_is_found(run, whole):
    _, plan = whole
    folder = run.member(0)
    exposure = np.load(folder / "exposure.npy")
    image = int(np.flatnonzero(~plan.codes.bits[plan.source_of, 0])[0])
    exposure[image] = 3
    write_array(folder / "exposure.npy", exposure)
    reseal(folder)
    (found,) = certificate.violations(run)
    assert f"member 0 was shown image {image} of source {image} 3 times" in found


def test_uneven_exposure_is_found(run):
    folder = run.member(0)
    exposure = np.load(folder / "exposure.npy")
    exposure[np.flatnonzero(exposure)[0]] += 5
    write_array(folder / "exposure.npy", exposure)
    reseal(folder)
    (found,) = certificate.violations(run)
    assert "18 were due" in found


def test_counts_for_other_data_are_found(run):
    folder = run.member(0)
    write_array(folder / "exposure.npy", np.zeros(3, dtype=np.uint32))
    reseal(folder)
    (found,) = certificate.violations(run)
    assert "counts 3 images, the data has 8" in found


def test_another_split_is_found(run):
    reseal(run.member(3), split_digest="0" * 64)
    (found,) = certificate.violations(run)
    assert "member 3 was trained on another split" in found


def test_another_code_book_is_found(run, whole):
    _, plan = whole
    write_array(run.codes, CodeBook(plan.codes.bits[::-1].copy()).bits)
    found = certificate.violations(run)
    assert any("codes.npy: the run was made with" in line for line in found)


def test_copied_weights_are_found(run):
    shutil.copy(
        run.member(0) / "diffusion_pytorch_model.safetensors",
        run.member(1) / "diffusion_pytorch_model.safetensors",
    )
    reseal(run.member(1))
    (found,) = certificate.violations(run)
    assert found == "(e) members 0 and 1 have the same weights"


def test_the_reference_is_said_to_be_no_part_of_the_ensemble(run, whole):
    assert "Not part of the ensemble" not in certificate.statement(run)
    _, plan = whole
    train_members(run, [REFERENCE], plan, Stopping())
    assert certificate.violations(run, sources=[0]) == []
    assert f"Not part of the ensemble: {run.reference}" in certificate.statement(run)
    pipe = EnsemblePipeline.from_pretrained(run.path)
    assert pipe.members.member_ids == [0, 1, 2, 3]


def test_a_file_of_the_reference_that_is_not_its_own_is_found(run, whole):
    _, plan = whole
    train_members(run, [REFERENCE], plan, Stopping())
    shutil.copy(run.member(0) / "log.jsonl", run.reference / "log.jsonl")
    (found,) = certificate.violations(run)
    assert f"the reference: {run.reference / 'log.jsonl'} is damaged" in found


def test_the_reference_in_the_place_of_a_member_is_found(run, whole):
    _, plan = whole
    train_members(run, [REFERENCE], plan, Stopping())
    shutil.copy(
        run.reference / "diffusion_pytorch_model.safetensors",
        run.member(1) / "diffusion_pytorch_model.safetensors",
    )
    reseal(run.member(1))
    (found,) = certificate.violations(run)
    assert "member 1 has the weights of the reference" in found


def subject_of(run, plan, asked=()):
    """What the parts of the certificate look at, without members."""
    manifest = read_json(run.manifest)
    return Subject(run, manifest, plan, plan.codes.bits, [], [], list(asked))


def test_identical_images_in_sources_with_different_codes_are_found(whole):
    run, plan = whole
    pixels = plan.data.images.copy()
    first = 0
    other = int(
        np.flatnonzero((plan.codes.bits != plan.codes.bits[first]).any(axis=1))[0]
    )
    pixels[other] = pixels[first]
    data = TrainingImages(pixels, None, (), {}, plan.data.names)
    doubled = type(plan)(data, plan.source_of, plan.source_names, plan.codes)
    (found,) = images.identical(subject_of(run, doubled))
    assert found.holds is False
    assert f"images 0 (digit 0000) and {other}" in found.line
    assert "without one, the other stays" in found.line
    assert found.sources == (0, other)
    assert f"remove all of them (sources 0,{other})" in found.remedy


def test_a_member_that_runs_against_its_code_is_found(run, whole, monkeypatch):
    _, plan = whole
    everyone = set(range(4))
    monkeypatch.setattr(ablated, "members_that_run", lambda *_: everyone)
    saw = np.flatnonzero(plan.codes.bits[0]).tolist()
    found = certificate.violations(run, sources=[0])
    assert found == [
        f"(a) member {member} saw a source of [0], and still runs" for member in saw
    ]


def test_a_damaged_record_is_found(run):
    path = run.member(0) / "member.json"
    record = json.loads(path.read_text())
    record["images_seen"] += 1
    path.write_text(json.dumps(record))
    (found,) = certificate.violations(run)
    assert "member.json" in found


def with_a_lookalike(run, distance):
    """The plan of a run whose image 1 is image 0 with a little noise, or much."""
    plan = plans.read(run)
    pixels = plan.data.images.copy()
    rng = np.random.default_rng(0)
    noise = rng.normal(size=pixels[0].shape).astype(np.float32)
    pixels[1] = pixels[0] + distance * noise
    data = TrainingImages(pixels, None, (), {}, plan.data.names)
    bits = plan.codes.bits.copy()
    bits[1] = ~bits[0]
    return type(plan)(data, plan.source_of, plan.source_names, CodeBook(bits))


def near_duplicates(run, plan):
    (found,) = images.near(subject_of(run, plan))
    return found.line


def test_near_duplicates_with_different_codes_are_a_warning(whole):
    run, _ = whole
    line = near_duplicates(run, with_a_lookalike(run, 0.02))
    assert line.startswith("Warning: (a) 1 pairs of images at a distance of 0.01")
    assert "digit 0000 and digit 0001" in line


def test_images_that_differ_are_no_warning(whole):
    run, _ = whole
    line = near_duplicates(run, with_a_lookalike(run, 0.5))
    assert line.startswith("(a) no two images at a distance of 0.01 or less")


def test_near_duplicates_of_one_source_are_no_warning(whole):
    run, _ = whole
    plan = with_a_lookalike(run, 0.02)
    bits = plan.codes.bits.copy()
    bits[1] = bits[0]
    one_code = type(plan)(plan.data, plan.source_of, plan.source_names, CodeBook(bits))
    line = near_duplicates(run, one_code)
    assert "Warning" not in line


def test_more_images_than_can_be_compared_are_said_to_be_unchecked(whole, monkeypatch):
    run, plan = whole
    monkeypatch.setattr(images.duplicates, "MOST_IMAGES", 7)
    line = near_duplicates(run, plan)
    assert line == "Not checked: near-duplicates among more than 7 images."


def test_clusters_are_named_as_what_weakens_condition_c(whole):
    run, plan = whole
    assert not [*codes.clusters(subject_of(run, plan))]
    config = tiny.config(run.path, data={"source": "near_duplicates"})
    source_of = np.array([0, 1, 2, 1, 1, 3, 4, 5])
    clustered = type(plan)(plan.data, source_of, plan.source_names, plan.codes)
    (found,) = codes.clusters(subject_of(Run(run.path, config), clustered))
    assert "3 of 8 images share theirs" in found.line
    assert "at most 3 together" in found.line
