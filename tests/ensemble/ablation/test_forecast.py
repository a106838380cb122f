"""What a plan costs and can show is said before anything is paid for."""

import re

import numpy as np
import pytest
import torch

from ensemble.ablation import forecast
from ensemble.data.datasets import TrainingImages
from ensemble.provenance import drawing
from tests import tiny


def images(n_images=8, twins=(), alike=()):
    """Random images; of each pair the second is as the first, or nearly so."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (n_images, 1, 8, 8)).astype(np.float32)
    for one, other in twins:
        pixels[other] = pixels[one]
    for one, other in alike:
        pixels[other] = 0.9 * pixels[one]
    names = tuple(f"{number}.png" for number in range(n_images))
    return TrainingImages(pixels, None, (), {}, names)


def said(tmp_path, given=None, /, **changes):
    config = tiny.config(tmp_path / "run", **changes)
    drawn = drawing.drawn_for(config, given or images())
    return forecast.described(config, drawn)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "0.012 s"),
        (89.0, "89 s"),
        (99.6, "1.7 min"),
        (5400.0, "1.5 h"),
        (7200.0, "2 h"),
        (60.0 * 89, "89 min"),
        (86400.0 * 1234, "1,234 days"),
    ],
)
def test_times_are_told_in_the_unit_that_fits(seconds, text):
    assert forecast.spoken(seconds) == text


def test_work_is_timed_without_its_first_time_and_not_for_long(monkeypatch):
    clock = iter(np.arange(0, 100, 0.25))
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: float(next(clock)))
    done = []
    found = forecast.timed(lambda: done.append(1), seconds=2.0)
    assert len(done) == len(found) + 1 == 3
    assert found == [0.25, 0.25]


def test_work_that_is_slow_is_done_once(monkeypatch):
    clock = iter([0.0, 0.0, 50.0, 50.0])
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: next(clock))
    done = []
    assert forecast.timed(lambda: done.append(1), seconds=2.0) == [50.0]
    assert done == [1]


def test_time_is_that_of_a_step_times_all_steps(tmp_path, monkeypatch):
    times = iter([[0.5, 1.0, 1.0, 1.0, 1.5], [0.64]])
    monkeypatch.setattr(forecast, "timed", lambda _: next(times))
    monkeypatch.setattr(forecast.os, "cpu_count", lambda: 2)
    text = said(
        tmp_path,
        images(4),
        splits={"design": "balanced", "n_members": 4, "weight": 2},
        training={"processes": 2},
    )
    # 4 members x 6 steps of a second.
    assert (
        "time          24 s (17 s to 31 s) of training in all; 12 s (8.4 s to" in text
    )
    assert "if 2 processes do not slow each other down" in text
    assert "estimates, from 5 steps and 1 forward passes of one member" in text


def test_ablation_costs_every_vote_of_every_source_and_placebo(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "timed", lambda _: [64.0])
    monkeypatch.setattr(forecast.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    splits = {"design": "balanced", "n_members": 4, "weight": 2}
    text = said(tmp_path, images(4), splits=splits)
    # 4 sources and the 2 codes left, 2 members each, 4 steps: 48 forwards of a second.
    assert "48 s (48 s to 48 s) to ablate every source from one picture" in text


def test_one_process_is_not_compared_with_itself(tmp_path):
    assert "slow each other" not in said(tmp_path, training={"processes": 1})


def test_a_plan_trains_and_writes_nothing(tmp_path):
    before = torch.random.get_rng_state()
    said(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(tmp_path.iterdir()) == []


def test_conditional_members_are_timed_too(tmp_path):
    labelled = TrainingImages(
        images().images,
        np.arange(8) % 2,
        ("cat", "dog"),
        {},
        tuple(map(str, range(8))),
    )
    text = said(tmp_path, labelled, model={"class_conditional": True})
    assert re.search(r"time +\d", text)


def test_the_smallest_p_that_the_codes_allow_is_told(tmp_path):
    splits = {"design": "hadamard", "n_members": 8, "weight": None}
    text = said(tmp_path, images(6), splits=splits)
    assert "smallest p    0.0857 for a source, corrected for 6 sources, with 64" in text
    assert "no source can stand out at p <= 0.05" in text
    assert "--plan --remove 1" in text
    splits = {"design": "balanced", "n_members": 12, "weight": None}
    text = said(tmp_path, images(4), splits=splits)
    assert "smallest p    0.05 for a source, corrected for 4 sources, with 76" in text
    assert "stand out" not in text


def test_a_source_that_every_member_sees_has_no_p(tmp_path):
    splits = {"design": "random_subsets", "n_members": 1, "weight": None}
    text = said(tmp_path, images(8), splits=splits)
    assert "smallest p    none: every member sees some source" in text
    assert "to ablate" not in text


def test_identical_images_in_different_sources_are_announced(tmp_path):
    splits = {"design": "balanced", "n_members": 6}
    text = said(tmp_path, images(8, twins=[(0, 7), (2, 5)]), splits=splits)
    assert "identical     2 pairs of identical images in 4 sources with diff" in text
    assert "such as 2.png of source 2" in text
    assert "and 5.png of source 5" in text
    assert "data.source=near_duplicates" in text
    assert "alike         no images at a distance of 0.01 or less" in text


def test_images_that_are_nearly_the_same_are_announced(tmp_path):
    splits = {"design": "balanced", "n_members": 6}
    text = said(tmp_path, images(8, alike=[(1, 3)]), splits=splits)
    assert "identical     no identical images" in text
    assert "alike         1 pair of images at a distance of 0.01 or less in 2" in text


def test_copies_within_a_source_are_no_trouble(tmp_path):
    data = images(8, twins=[(0, 1)])
    columns = {"artist": tuple("aabbccdd")}
    data = TrainingImages(data.images, None, (), columns, data.names)
    text = said(
        tmp_path,
        data,
        data={"source": "artist", "n_images": None},
        splits={"design": "balanced", "n_members": 6},
    )
    assert "identical     no identical images" in text


def test_very_many_images_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "MOST_COMPARED", 7)
    text = said(tmp_path, images(8, alike=[(1, 3)]))
    assert "alike         not looked for among more than 7 images" in text


def test_what_cannot_be_trained_here_is_planned_without_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    text = said(tmp_path, training={"mixed_precision": "fp16"})
    assert "time          cannot be measured here: training.mixed_precision is" in text
    assert "smallest p" in text
