"""Influence is arithmetic on displacements; placebo makes it mean something."""

import numpy as np
import pytest

from ensemble import influence, queries, store
from ensemble.influence import Units, excess, p_values, quadratic_influence
from ensemble.pipeline import EnsemblePipeline
from splits import BadInput
from tests import tiny


def corrected(displacement, placebo, units=None, drawn=None):
    units = np.full(np.shape(displacement)[1], 2) if units is None else units
    drawn = np.full(np.shape(placebo)[1], 2) if drawn is None else drawn
    return p_values(np.asarray(displacement), np.asarray(placebo), units, drawn)


def test_above_all_placebos_the_p_value_is_the_share_of_units():
    p = corrected([[9.0, 0.5, -1.0]], [np.linspace(0, 1, 57)])
    assert p[0, 0] == pytest.approx(3 / (3 + 57))
    assert p[0, 2] == 1


def test_p_values_are_the_chance_that_the_largest_unit_ranks_so_high():
    """Exchangeable units and placebos: count over random draws, 4 sigma."""
    rng = np.random.default_rng(0)
    draws = rng.random((20_000, 4 + 12))
    above = (draws[:, 4:] > draws[:, :4].max(axis=1, keepdims=True)).sum(axis=1)
    placebo = np.arange(12.0)[None]
    for rank in (0, 1, 3, 6):
        displacement = np.full((1, 4), 12 - rank - 0.5)
        p = corrected(displacement, placebo)[0, 0]
        share = (above <= rank).mean()
        assert abs(p - share) < 4 * np.sqrt(p * (1 - p) / 20_000)


def test_p_values_fall_with_displacement_and_ties_count_against_the_unit():
    p = corrected([[1.0, 2.0, 3.0, 3.5]], [[1.0, 2.0, 3.0]])[0]
    assert (np.diff(p) < 0).all()
    assert corrected([[3.0]], [[1.0, 3.0]])[0, 0] > corrected([[3.1]], [[1.0, 3.0]])


def test_placebos_alone_are_significant_five_times_in_a_hundred():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        drawn = rng.random(8 + 152)
        hits += corrected([drawn[:8]], [drawn[8:]]).min() <= 0.05
    assert abs(hits - 20) < 4 * np.sqrt(400 * 0.05 * 0.95)


def test_units_are_compared_with_placebos_of_their_own_weight():
    units, drawn = np.array([1, 2]), np.array([1] * 20 + [2] * 20)
    placebo = np.concatenate([np.zeros(20), np.ones(20)])[None]
    p = corrected([[0.5, 0.5]], placebo, units, drawn)[0]
    assert p[0] == pytest.approx(2 * 1 / 21)
    assert p[1] == 1
    level = excess(np.array([[0.5, 0.5]]), placebo, units, drawn)[0]
    assert level.tolist() == [0.5, -0.5]


def test_without_placebos_nothing_is_claimed():
    p = p_values(np.ones((1, 2)), np.ones((1, 0)), np.array([1, 1]), np.array([], int))
    assert p.tolist() == [[1, 1]]
    assert np.isnan(
        excess(np.ones((1, 2)), np.ones((1, 0)), np.array([1, 1]), np.array([], int))
    ).all()


def test_the_influence_on_a_quadratic_form_is_full_minus_ablated():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2, 3, 3))
    form = root @ root.transpose(0, 2, 1)
    votes = np.array([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    found = quadratic_influence(form, votes)
    full = np.full(3, 1 / 3)
    for query in range(2):
        expected = full @ form[query] @ full - votes[0] @ form[query] @ votes[0]
        assert found[query, 0] == pytest.approx(expected, rel=1e-12)
        assert found[query, 1] == pytest.approx(0, abs=1e-12)


def run_of(tmp_path):
    """A run of six sources, all six codes of half weight: no placebo exists."""
    return tiny.trained(
        tmp_path / "run",
        data={"n_images": 4},
        splits={"design": "balanced", "n_members": 6, "weight": 3},
    )


@pytest.fixture(scope="module")
def ablated(tmp_path_factory):
    run, plan = run_of(tmp_path_factory.mktemp("influence"))
    pipe = EnsemblePipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    queries.generate(run, pipe, "two", [0, 1])
    units = influence.each_source(plan)
    influence.measure_exactly(run, pipe, plan, "two", units, n_placebos=10, n_top=2)
    return run, plan, pipe


def table(run, name, folder="two"):
    return store.sealed_array(run.influence(folder), "info.json", name)


def test_the_tables_agree_with_the_pipeline(ablated):
    run, _, pipe = ablated
    displaced = table(run, "displacement.npy")
    full = pipe(seeds=[1], output_type="latent").images
    for source in range(4):
        without = pipe(seeds=[1], ablate=[source], output_type="latent").images
        rms = float((full - without).square().mean().sqrt())
        assert displaced[1, source] == pytest.approx(rms, rel=1e-3)
        change = float(full.clamp(-1, 1).mean() - without.clamp(-1, 1).mean())
        bright = table(run, "influence_brightness.npy")[1, source]
        assert bright == pytest.approx(change, abs=1e-4)


def test_the_top_pictures_are_those_of_the_top_units(ablated):
    run, _, pipe = ablated
    displaced, top = table(run, "displacement.npy"), table(run, "top_units.npy")
    assert np.array_equal(top, np.argsort(-displaced, axis=1)[:, :2])
    without = pipe(seeds=[0], ablate=[int(top[0, 1])], output_type="latent").images
    kept = table(run, "top_images.npy")[0, 1]
    np.testing.assert_allclose(kept, without[0].numpy(), rtol=1e-3, atol=1e-4)


def test_what_came_out_is_recorded(ablated):
    run, _, _ = ablated
    info = store.read_json(run.influence("two") / "info.json")
    assert info["n_placebos"] == 10
    assert info["smallest_p"] == pytest.approx(4 / 14)
    assert info["unattributable"] == [0, 1]
    assert info["measurements"] == ["brightness", "contrast", "denoising_loss"]
    assert info["member_forwards"] > 0
    assert "for 0 of 2 queries" in influence.summary(run.influence("two"))
    assert not run.influence("two.work").exists()


def test_a_landscape_is_not_computed_twice(ablated):
    run, plan, pipe = ablated
    before = pipe.members.n_forwards
    units = influence.each_source(plan)
    influence.measure_exactly(run, pipe, plan, "two", units)
    assert pipe.members.n_forwards == before


def test_sets_and_groups_are_units_of_their_own(ablated):
    run, plan, pipe = ablated
    units = influence.one_set(plan, [2, 0])
    influence.measure_exactly(run, pipe, plan, "two", units, n_placebos=5)
    folder = influence.influence_folder(run, "two", units)
    assert folder != run.influence("two")
    info = store.read_json(folder / "info.json")
    assert info["group_sources"] == [[0, 2]]
    assert (
        store.sealed_array(folder, "info.json", "placebo_weights.npy")
    ).tolist() == [int(units.weights[0])] * 5
    groups = influence.by_column(plan, "label")
    assert groups.names == [f"label {label}" for label in range(4)]
    assert groups.sources == [[0], [1], [2], [3]]


def test_what_cannot_be_removed_is_refused_before_work_starts(ablated):
    _, plan, _ = ablated
    with pytest.raises(BadInput, match="none of the 6 members is left"):
        influence.one_set(plan, [0, 1, 2, 3])
    with pytest.raises(BadInput, match="Source 7 does not exist: .*0 to 3"):
        influence.one_set(plan, [7])
    with pytest.raises(BadInput, match="no column 'artist'; known: label"):
        influence.by_column(plan, "artist")


def test_survivors_are_shown_unit_by_unit_or_as_a_range():
    few = Units(np.array([[1, 0, 0]], dtype=bool), [[0]], ["a"], "sources")
    assert influence.survivors(few) == ["without a: 2 of 3 members stay"]
    many = Units(np.tile(few.silenced, (30, 1)), [[0]] * 30, ["a"] * 30, "sources")
    assert influence.survivors(many) == [
        "30 sources, one by one; 2 to 2 of 3 members stay."
    ]


def test_queries_are_kept_and_other_ones_refused(ablated):
    run, _, pipe = ablated
    again = queries.generate(run, pipe, "two", [0, 1])
    assert again.seeds.tolist() == [0, 1]
    with pytest.raises(BadInput, match="exist with another seeds"):
        queries.generate(run, pipe, "two", [5])
    with pytest.raises(BadInput, match="no queries called 'three'.*known: two"):
        queries.load(run, "three")
