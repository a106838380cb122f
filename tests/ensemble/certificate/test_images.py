"""How images were read, and which come twice."""

import dataclasses

import numpy as np

from ensemble.certificate import certificate, images
from ensemble.provenance import drawing, removal, repair
from ensemble.training.members import train_members
from ensemble.training.process import Stopping
from splits.codes import CodeBook
from tests import tiny
from tests.test_exactness import made, settings, write


def repaired(run):
    ready = drawing.prepare(run)
    assert not train_members(run, repair.affected(run), ready, Stopping())
    repair.finish(run)


def test_a_kind_of_data_that_is_not_known_is_not_certified(
    whole, looked_at, monkeypatch
):
    """What a later kind of data fits must not be called fitted to nothing."""
    found, cut_off = images.mapping(looked_at(whole))
    assert found.holds
    assert "8 images were read again by the rule of data.kind digits" in found.line
    assert cut_off.holds is None
    assert "data.n_images keeps the first 8 images" in cut_off.line
    monkeypatch.delitem(images.RULES, "digits")
    (found,) = images.mapping(looked_at(whole))
    assert found.holds is None
    assert "Not checked: how images of data.kind 'digits'" in found.line


def test_a_lawful_removal_raises_no_false_alarm(tmp_path):
    """Blank images of removed sources are alike, whatever codes their sources had."""
    run, plan = tiny.trained(tmp_path / "run")
    all_of_one = plan.codes.split(0).tolist()
    removal.request(run, [*all_of_one, int(plan.codes.split(1)[0])], "asked")
    assert certificate.violations(run) == []
    repaired(run)
    assert certificate.violations(run) == []
    text = certificate.statement(run)
    assert "no two sources with different codes have an identical image" in text
    assert "(a) no two images at a distance" in text
    assert "no member that votes was ever shown one of the 3 images of theirs" in text


def pair(tmp_path):
    """A run in which images 2 and 5 are the same picture, of different sources."""
    splits = {"design": "leave_one_out", "n_members": 8, "weight": None}
    folder = write(tmp_path / "photos", copies=[(2, 5)])
    return made(settings(folder, tmp_path / "run", splits=splits))


def test_removing_both_sources_of_a_picture_is_a_remedy_that_works(tmp_path):
    run = pair(tmp_path)
    assert len(certificate.violations(run)) == 1
    removal.request(run, [2], "asked")
    repaired(run)
    found = certificate.check(run)
    (line,) = found.violations
    assert "2.png was removed, but the same picture stays as 5.png" in line
    assert found.remedies == ["Remove source 5 too, and repair the run."]
    assert 5 in found.inexact
    removal.request(run, [5], "asked", force=True)
    repaired(run)
    assert certificate.violations(run) == []


def test_asked_about_others_a_pair_contradicts_nothing(whole, looked_at):
    subject = looked_at(whole, [0])
    pixels = subject.plan.data.images.copy()
    pixels[1] = pixels[3]
    data = dataclasses.replace(subject.plan.data, images=pixels)
    plan = dataclasses.replace(subject.plan, data=data)
    bits = plan.codes.bits
    one, two = 1, 3
    assert (bits[one] != bits[two]).any(), "choose others"
    for asked, holds in (([0], None), ([1, 3], None), ([1], False), ([0, 3], False)):
        found = [
            *images.identical(dataclasses.replace(subject, plan=plan, asked=asked))
        ]
        assert found[0].holds is holds, asked
        assert found[0].sources == (1, 3)
        assert (len(found) == 2) == (holds is None)


def test_three_copies_are_each_found(whole, looked_at):
    subject = looked_at(whole)
    pixels = subject.plan.data.images.copy()
    pixels[:3] = pixels[0]
    data = dataclasses.replace(subject.plan.data, images=pixels)
    plan = dataclasses.replace(subject.plan, data=data)
    (found,) = images.identical(dataclasses.replace(subject, plan=plan))
    assert found.sources == (0, 1, 2)
    assert "images 0 (digit 0000), 1 (digit 0001) and 2 (digit 0002) are" in found.line
    codes = CodeBook(
        np.vstack([plan.codes.bits[[0, 0]], ~plan.codes.bits[[0]], plan.codes.bits[3:]])
    )
    plan = dataclasses.replace(plan, codes=codes)
    for asked, holds in (([1], False), ([0, 1], False), ([0, 2], None), ([3], None)):
        first, *_ = images.identical(
            dataclasses.replace(subject, plan=plan, asked=asked)
        )
        assert first.holds is holds, asked


def test_near_duplicates_are_asked_about_by_source(whole, looked_at):
    subject = looked_at(whole)
    pixels = subject.plan.data.images.copy()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, pixels[1].shape).astype(np.float32)
    pixels[1] = pixels[3] + noise
    data = dataclasses.replace(subject.plan.data, images=pixels)
    plan = dataclasses.replace(subject.plan, data=data)
    for asked, warned in (([], True), ([1], True), ([1, 3], False), ([0], False)):
        (found,) = images.near(dataclasses.replace(subject, plan=plan, asked=asked))
        assert ("Warning" in found.line) == warned, asked
        assert found.holds is (None if warned else True)
        assert found.sources == ((1, 3) if warned else ())
