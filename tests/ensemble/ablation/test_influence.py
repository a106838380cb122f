"""Influence is arithmetic on displacements; placebo makes it mean something."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from ensemble.ablation import (
    exact,
    first_order,
    influence,
    influence_tables,
    placebo,
    removal_sets,
)
from ensemble.ablation.influence_request import Asked
from ensemble.ablation.influence_tables import quadratic_influence
from ensemble.ablation.measurement_names import chosen_measurements
from ensemble.ablation.measurements import MEASUREMENTS
from ensemble.run import files, records
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.system import environment
from splits import BadInput
from tests import tiny


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
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "two", [0, 1])
    influence.measure_exactly(asked_of(run, plan, pipe), n_placebos=10)
    return run, plan, pipe


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    """Two queries of a run of twenty sources."""
    run, plan = tiny.trained(
        tmp_path_factory.mktemp("twenty") / "run",
        data={"n_images": 20},
        splits={"design": "balanced", "n_members": 8},
    )
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "two", [0, 1])
    return run, plan, pipe


def asked_of(run, plan, pipe, removed=None, measurements=MEASUREMENTS):
    removed = removed or removal_sets.each_source(plan)
    return Asked(run, pipe, plan, "two", removed, measurements)


def table(run, name, method="exact"):
    return records.checked_array(run.influence("two") / method, "info.json", name)


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
    assert np.array_equal(top, np.argsort(-displaced, axis=1)[:, :6])
    without = pipe(seeds=[0], ablate=[int(top[0, 1])], output_type="latent").images
    kept = table(run, "top_images.npy")[0, 1]
    np.testing.assert_allclose(kept, without[0].numpy(), rtol=1e-3, atol=1e-4)


def test_what_came_out_is_recorded(ablated):
    run, _, _ = ablated
    info = files.read_json(run.influence("two") / "exact" / "info.json")
    assert info["n_placebos"] == 10
    assert info["smallest_p"] == pytest.approx(4 / 14)
    assert info["unattributable"] == [0, 1]
    assert info["measurements"] == list(MEASUREMENTS)
    # 4 steps x 6 members a generation; 14 vectors of 3 members, first step shared.
    assert info["member_forwards"] == 2 * (6 + 3 * 14 * 3)
    assert info["generations"] == pytest.approx(info["member_forwards"] / 48)
    assert "for 0 of 2 queries" in influence_tables.summary(
        run.influence("two") / "exact"
    )
    assert not (run.influence("two") / "exact.work").exists()


def test_the_summary_says_what_p_covers(ablated):
    run, _, _ = ablated
    said = influence_tables.summary(run.influence("two") / "exact")
    assert "for one picture, not for the 2 pictures" in said


def test_a_failed_audit_takes_the_place_of_the_headline(ablated, tmp_path):
    run, _, _ = ablated
    folder = tmp_path / "two"
    shutil.copytree(run.influence("two") / "exact", folder)
    info = files.read_json(run.influence("two") / "exact" / "info.json")
    audited = {"spearman": -0.19, "relative_error": 0.84, "sentence": "Audit: poor."}
    facts = {**info, "audit": audited, "road_sentence": "Road: a road."}
    records.write_done_mark(folder, "info.json", facts)
    said = influence_tables.summary(folder)
    assert "stand out" not in said
    assert "smallest possible" not in said
    assert "The approximation is not good enough here" in said
    assert "ablate exactly (`--method exact`)" in said
    assert said.splitlines()[-1] == "Audit: poor."


def test_a_landscape_is_not_computed_twice(ablated):
    run, plan, pipe = ablated
    before = pipe.members.n_forwards
    influence.measure_exactly(asked_of(run, plan, pipe))
    assert pipe.members.n_forwards == before


@pytest.mark.parametrize(
    ("stage", "again"),
    [
        ("generate two", lambda asked: queries.generate(*asked[:2], "two", [0, 1])),
        ("ablate two exact", lambda asked: influence.measure_exactly(asked[2])),
        (
            "ablate two adjoint.contrast",
            lambda asked: influence.measure_adjointly(asked[2]),
        ),
    ],
)
def test_what_a_kill_kept_off_the_record_is_put_on_it(ablated, stage, again):
    run, plan, pipe = ablated
    chosen = {"contrast": MEASUREMENTS["contrast"]}
    asked = (run, pipe, asked_of(run, plan, pipe, None, chosen))
    again(asked)
    tiny.forget_stage(run, stage)
    before = pipe.members.n_forwards
    again(asked)
    assert pipe.members.n_forwards == before
    kept = files.read_json(run.manifest)["stages"][stage]
    assert kept["commit"] == environment.commit()
    again(asked)
    assert files.read_json(run.manifest)["stages"][stage] == kept


def test_sets_and_groups_are_units_of_their_own(ablated):
    run, plan, pipe = ablated
    pair = removal_sets.one_set(plan, [2, 0])
    folder = influence.measure_exactly(asked_of(run, plan, pipe, pair), n_placebos=5)
    assert folder.parent == run.influence("two")
    assert folder.name != "exact"
    info = files.read_json(folder / "info.json")
    assert info["group_sources"] == [[0, 2]]
    weights = records.checked_array(folder, "info.json", "placebo_weights.npy")
    assert weights.tolist() == [int(pair.weights[0])] * 5


def test_differential_ablation_fills_the_same_tables(ablated):
    run, plan, pipe = ablated
    asked = asked_of(run, plan, pipe)
    before = pipe.members.n_forwards
    folder = influence.measure_differentially(asked, n_placebos=12)
    spent = pipe.members.n_forwards - before
    assert folder == run.influence("two") / "differential"
    exact = files.read_json(run.influence("two") / "exact" / "info.json")["files"]
    info = files.read_json(folder / "info.json")
    further = {"gram.npy", "compared.npy", "exact.npy"}
    assert set(exact) < set(info["files"]) == {*exact, *further}
    gram = table(run, "gram.npy", folder.name)
    votes = removal_sets.votes_without(asked.units.silenced)
    moved = table(run, "compared.npy", folder.name)
    change = votes - 1 / 6
    by_hand = np.sqrt(np.einsum("vm,qmn,vn->qv", change, gram, change))
    np.testing.assert_allclose(moved, by_hand, rtol=1e-5)
    # Four sources: to ablate all of them is cheaper, and so all rows are exact.
    assert info["all_exact"]
    assert table(run, "exact.npy", folder.name).all()
    for name in exact:
        if name.startswith(("displacement", "influence", "top")):
            found, expected = table(run, name, folder.name), table(run, name)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert info["member_forwards"] == spent
    assert info["generations"] == pytest.approx(spent / 48, abs=1e-3)
    said = influence_tables.summary(folder)
    assert "All sources were ablated exactly" in said
    assert "nothing was left" in said
    assert "more than 0.000" not in said
    assert f"read off as placebos are, {moved.mean():.3f}, placebo" in said


def test_an_accuracy_is_a_correlation(twenty):
    with pytest.raises(BadInput, match="--accuracy is 96.0: a rank correlation from 0"):
        influence.measure_differentially(asked_of(*twenty), 96.0)


def test_the_adjoint_agrees_with_the_derivative_of_the_measurement(ablated):
    run, plan, pipe = ablated
    chosen = {"contrast": MEASUREMENTS["contrast"]}
    folder = influence.measure_adjointly(asked_of(run, plan, pipe, None, chosen))
    found = records.checked_array(folder, "info.json", "influence_contrast.npy")
    size = 1e-2
    for source in range(4):
        equal = np.full(6, 1 / 6)
        change = removal_sets.votes_without(plan.codes.bits[[source]])[0] - equal
        ends = [
            pipe(seeds=[0], votes=equal + sign * size * change, output_type="latent")
            for sign in (1, -1)
        ]
        values = [float(chosen["contrast"].of_pictures(end.images)) for end in ends]
        slope = (values[0] - values[1]) / (2 * size)
        assert found[0, source] == pytest.approx(-slope, rel=0.05, abs=1e-3)
    assert "Signed influence" in influence_tables.summary(folder)


def test_the_adjoint_follows_one_measurement_of_pictures(ablated):
    run, plan, pipe = ablated
    with pytest.raises(BadInput, match="name one with --measurement"):
        influence.measure_adjointly(asked_of(run, plan, pipe))


def test_queries_are_kept_and_other_ones_refused(ablated):
    run, _, pipe = ablated
    again = queries.generate(run, pipe, "two", [0, 1])
    assert again.seeds.tolist() == [0, 1]
    with pytest.raises(BadInput, match="exist with another seeds"):
        queries.generate(run, pipe, "two", [5])
    with pytest.raises(BadInput, match="no queries called 'three'.*known: two"):
        queries.load(run, "three")


def test_a_damaged_table_is_not_taken_for_done(ablated, tmp_path):
    run, plan, pipe = ablated
    shutil.copytree(run.path, tmp_path / "run")
    copy = dataclasses.replace(run, path=tmp_path / "run")
    path = copy.influence("two") / "exact" / "excess.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"excess\.npy is damaged"):
        influence.measure_exactly(asked_of(copy, plan, pipe), n_placebos=10)


@pytest.fixture
def copied(ablated, tmp_path):
    """The run with its exact table in a folder of its own, and its pipeline."""
    run, plan, _ = ablated
    shutil.copytree(run.path, tmp_path / "run")
    for path in (tmp_path / "run" / "influence" / "two").glob("[!.]*"):
        if path.name != "exact":
            shutil.rmtree(path)
    copy = dataclasses.replace(run, path=tmp_path / "run")
    return copy, plan, tiny.pipeline_of(copy)


def test_every_table_names_what_it_was_made_with(copied):
    run, plan, pipe = copied
    asked = asked_of(run, plan, pipe)
    options = {
        influence.measure_exactly: {"placebos": 10, "placebo_seed": 0},
        influence.measure_differentially: {
            "accuracy": 0.96,
            "placebos": 100_000,
            "placebo_seed": 0,
            "n_audit": 32,
            "seed": 0,
        },
    }
    for measure, known in options.items():
        info = files.read_json(measure(asked) / "info.json")
        assert info["options"] == known
        assert info["query_seeds"] == [0, 1]
        assert info["queries_digest"] == files.array_digest(asked.queries().images)
        assert info["weights_digest"] == pipe.membership.weights_digest
        assert info["code_book_digest"] == plan.codes.digest()
        assert info["units_digest"] == asked.units.digest()
    contrast = {"contrast": MEASUREMENTS["contrast"]}
    adjoint = influence.measure_adjointly(asked_of(run, plan, pipe, None, contrast))
    info = files.read_json(adjoint / "info.json")
    assert info["measurements"] == ["contrast"]
    assert info["weights_digest"] == pipe.membership.weights_digest


def test_tables_of_queries_that_are_gone_are_refused(copied):
    run, plan, pipe = copied
    with pytest.raises(BadInput, match="another seeds") as told:
        queries.generate(run, pipe, "two", [5, 6])
    assert f"and with it what was made of it: {run.influence('two')}" in str(told.value)
    shutil.rmtree(run.queries("two"))
    queries.generate(run, pipe, "two", [5, 6])
    contrast = {"contrast": MEASUREMENTS["contrast"]}
    one = asked_of(run, plan, pipe, None, contrast)
    pair = asked_of(run, plan, pipe, removal_sets.one_set(plan, [0, 2]))
    influence.measure_exactly(pair, n_placebos=5)
    with pytest.raises(BadInput, match="another query_seeds: .0, 1., asked for .5, 6."):
        influence.measure_exactly(one)
    shutil.rmtree(run.influence("two"))
    folder = influence.measure_exactly(one)
    assert files.read_json(folder / "info.json")["query_seeds"] == [5, 6]


@pytest.mark.parametrize(
    ("option", "other"),
    [("accuracy", 0.5), ("n_placebos", 13), ("n_audit", 4), ("seed", 1)],
)
def test_another_option_is_not_answered_by_the_table_that_is_there(
    copied, option, other
):
    asked = asked_of(*copied)
    made = {"accuracy": 0.9, "n_placebos": 12, "n_audit": 6, "seed": 0}
    folder = influence.measure_differentially(asked, **made)
    before = (folder / "info.json").stat().st_mtime_ns
    # What is not said may be whatever is there.
    assert influence.measure_differentially(asked) == folder
    assert influence.measure_differentially(asked, **made) == folder
    with pytest.raises(BadInput, match=rf"{made[option]}, asked for {other}\. Ask for"):
        influence.measure_differentially(asked, **{option: other})
    assert (folder / "info.json").stat().st_mtime_ns == before


def test_other_placebos_are_not_answered_by_the_table_that_is_there(copied):
    asked = asked_of(*copied)
    with pytest.raises(BadInput, match="another placebos: 10, asked for 50"):
        influence.measure_exactly(asked, n_placebos=50)
    # Ten were asked for, though there are not so many other codes.
    influence.measure_exactly(asked, n_placebos=10)


def test_a_measurement_of_another_image_is_another_one(copied):
    run, plan, pipe = copied
    source, other = (
        {"near": chosen_measurements([f"similarity:{one}"], plan)[f"similarity:{one}"]}
        for one in (0, 1)
    )
    pair = removal_sets.one_set(plan, [0, 1])
    influence.measure_exactly(asked_of(run, plan, pipe, pair, source), n_placebos=2)
    with pytest.raises(BadInput, match="made with another near: "):
        influence.measure_exactly(asked_of(run, plan, pipe, pair, other))


def test_units_that_silence_the_same_members_have_tables_of_their_own(copied):
    run, plan, pipe = copied
    one = removal_sets.one_set(plan, [0])
    other = dataclasses.replace(one, names=["another name"])
    folders = {asked_of(run, plan, pipe, some).folder("exact") for some in (one, other)}
    assert len(folders) == 2


def test_queries_are_ablated_by_the_sampler_that_made_them(copied):
    run, plan, pipe = copied
    pipe.register_to_config(num_inference_steps=3)
    with pytest.raises(BadInput, match="queries/two was made with another n_steps: 4"):
        influence.measure_exactly(asked_of(run, plan, pipe))


def test_queries_are_ablated_by_the_members_that_made_them(copied):
    run, plan, _ = copied
    some = EnsemblePipeline.from_pretrained(run.path, members=[0, 1, 2])
    with pytest.raises(BadInput, match="queries/two was made by other members"):
        influence.measure_exactly(asked_of(run, plan, some))


def as_version_0_1(run, folder, name):
    """Move a table to where version 0.1 kept it, without what it did not record."""
    new = ("query_seeds", "queries_digest", "seeds_digest", "weights_digest", "options")
    to = run.influence(name)
    shutil.move(folder, run.path / "moved")
    shutil.rmtree(run.influence("two"), ignore_errors=True)
    shutil.move(run.path / "moved", to)
    info = json.loads((to / "info.json").read_text())
    for fact in (*new, "units_digest", "measured_by", "digest", "place"):
        info.pop(fact, None)
    files.write_json(to / "info.json", info)


def test_a_table_of_version_0_1_is_still_found(copied, capsys):
    run, plan, pipe = copied
    as_version_0_1(run, run.influence("two") / "exact", "two")
    before = pipe.members.n_forwards
    assert influence.measure_exactly(asked_of(run, plan, pipe)) == run.influence("two")
    assert pipe.members.n_forwards == before
    assert (
        "which queries and weights made it was not recorded" in capsys.readouterr()[0]
    )


def test_a_table_of_version_0_1_of_other_queries_is_made_anew(copied, capsys):
    run, plan, pipe = copied
    as_version_0_1(run, run.influence("two") / "exact", "two")
    shutil.rmtree(run.queries("two"))
    queries.generate(run, pipe, "two", [5, 6])
    folder = influence.measure_exactly(asked_of(run, plan, pipe), n_placebos=10)
    assert folder == run.influence("two") / "exact"
    assert "of something else: made anew" in capsys.readouterr()[0]
    assert (run.influence("two") / "info.json").exists()


def test_what_version_0_1_was_asked_otherwise_is_made_anew(copied):
    run, plan, pipe = copied
    as_version_0_1(run, run.influence("two") / "exact", "two")
    folder = influence.measure_exactly(asked_of(run, plan, pipe), n_placebos=3)
    assert folder == run.influence("two") / "exact"


def test_seconds_of_all_sessions_are_on_record(copied, monkeypatch):
    run, plan, pipe = copied
    asked = asked_of(run, plan, pipe, removal_sets.one_set(plan, [1]))
    monkeypatch.setattr(exact, "block_size", lambda *_: 1)
    real, left = exact.ablated_pictures, [2]

    def dies_at_the_third(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(exact, "ablated_pictures", dies_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            influence.measure_exactly(asked, n_placebos=5)
    (progress,) = run.path.glob("influence/two/*.work/progress.json")
    kept = files.read_json(progress)
    assert kept["done"] == 2
    assert kept["seconds"] > 0
    # As if those blocks had taken an hour.
    files.write_json(progress, {**kept, "seconds": 3600.0})
    folder = influence.measure_exactly(asked, n_placebos=5)
    seconds = files.read_json(folder / "info.json")["seconds"]
    assert 3600 < seconds < 3700
    stage = files.read_json(run.manifest)["stages"][f"ablate two {folder.name}"]
    assert stage["seconds"] == seconds


def standing_out(monkeypatch):
    """Sources 0 and 1 of the second query stand out from placebos, wherever they are."""

    def found(displacement, *_):
        p = np.full(displacement.shape, 0.9)
        p[-1, :2] = 0.01
        return p

    monkeypatch.setattr(placebo, "p_values", found)


@pytest.mark.parametrize("method", ["exact", "differential"])
def test_whoever_stands_out_is_compared_with_matched_codes(
    twenty, method, monkeypatch, tmp_path
):
    run, plan, pipe = twenty
    shutil.copytree(run.path, tmp_path, dirs_exist_ok=True)
    moved = dataclasses.replace(run, path=tmp_path)
    standing_out(monkeypatch)
    asked = asked_of(moved, plan, pipe)
    if method == "exact":
        folder = influence.measure_exactly(asked, n_placebos=3)
    else:
        folder = influence.measure_differentially(asked, n_placebos=3)
    info = files.read_json(folder / "info.json")
    p = records.checked_array(folder, "info.json", "p_values.npy")
    # Codes of two of eight members: at most 15 match, too few for 20 sources.
    assert p[1, :2].tolist() == [1, 1]
    assert (np.delete(p, [20, 21]) == 0.9).all()
    assert info["unattributable"] == [0, 1]
    assert [(one["query"], one["unit"]) for one in info["doubts"]] == [(1, 0), (1, 1)]
    assert all(one["inseparable"] for one in info["doubts"])
    assert "one of source 0 and source 1" in influence_tables.summary(folder)
    assert "at most 5 %" in info["p_sentence"]
    if method == "exact":
        # The second query alone is sampled beside its ablations, and that is on record.
        road = influence_tables.FOR_MATCHED.generations(
            8
        ) * first_order.generation_forwards(pipe, 1)
        n_exact = 2 * (8 + 3 * (20 + 3) * 6)
        assert info["member_forwards"] == n_exact + road
        assert "gram.npy" not in info["files"]


def test_nothing_more_is_computed_where_nobody_stands_out(ablated):
    info = files.read_json(ablated[0].influence("two") / "exact" / "info.json")
    assert info["doubts"] == []
    assert "at most 5 %" in info["p_sentence"]
