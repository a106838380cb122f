"""What is shipped of a benchmark is enough to make its table, and a cell, again."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from benchmarks.attribution import ground_truth, packing
from ensemble.ablation import influence, removal_sets
from ensemble.ablation.influence_request import Asked
from ensemble.ablation.measurements import MEASUREMENTS
from ensemble.cli import attribute
from ensemble.evaluation import EVALUATIONS
from ensemble.evaluation import ground_truth as truth
from ensemble.evaluation.options import Options
from ensemble.provenance import drawing, plans
from ensemble.run import files, folder
from ensemble.sampling import queries
from ensemble.scorers import runner
from splits.errors import BadInput
from tests import tiny

OPTIONS = Options("two", n_subsets=8, n_seeds=2, n_draws=4)
EVALUATE = ["evaluate", "--what", "lds", "--name", "two", "--subsets", "8"]
EVALUATE += ["--seeds", "2", "--draws", "4"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A run with everything that a table needs, and the table."""
    run, ready = tiny.trained(
        tmp_path_factory.mktemp("truth") / "run",
        data={"n_images": 6},
        splits={"design": "balanced", "n_members": 4, "weight": 2},
    )
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "two", [0, 1])
    for method in ("pixel_dot", "trak"):
        runner.score(run, pipe, ready, "two", method)
    loss = {"denoising_loss": MEASUREMENTS["denoising_loss"]}
    each = removal_sets.each_source(ready)
    influence.measure_exactly(Asked(run, pipe, ready, "two", each, loss), 2)
    return run, EVALUATIONS["lds"].evaluate(run, pipe, ready, OPTIONS)


@pytest.fixture
def packed(origin, tmp_path):
    return ground_truth.extract(origin[0], tmp_path / "packed", None)


def test_the_table_is_made_again_without_a_member(origin, packed, monkeypatch):
    monkeypatch.setattr(attribute, "ensemble_of", None)
    assert attribute.main([str(packed.path), *EVALUATE]) == 0
    again = files.read_json(packed.path / "evaluation" / "lds-two.json")
    table = files.read_json(origin[1])
    for fact in ("identity", "rows", "reliability", "ceiling"):
        assert again[fact] == table[fact]


def test_neither_weights_nor_what_scorers_keep_for_themselves_are_shipped(packed):
    names = {file.name for file in packed.path.rglob("*") if file.is_file()}
    assert "seed-1.npy" in names
    assert "influence_denoising_loss.npy" in names
    assert not {"diffusion_pytorch_model.safetensors", "placebo.npy"} & names
    assert not list(packed.path.rglob(".features"))


def bytes_of(folder):
    found = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }
    assert found
    return found


@pytest.fixture
def package(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(ground_truth, "PACKAGES", tmp_path / "packages")
    monkeypatch.setattr(ground_truth, "FOLDER", tmp_path / "unpacked")
    monkeypatch.setattr(ground_truth, "PICTURES", {"tiny": None})
    return ground_truth.pack(packed, "tiny")


def test_what_is_unpacked_has_the_same_bytes(packed, package):
    run = ground_truth.unpacked("tiny")
    assert bytes_of(run.path) == bytes_of(packed.path)
    assert len(list(package.iterdir())) < 8
    assert ground_truth.unpacked("tiny") == run


def test_no_path_of_the_machine_that_packs_is_shipped(packed, package):
    assert "working_directory" not in files.read_json(packed.manifest)


def test_what_another_package_held_is_not_taken_for_this_one(packed, package):
    ground_truth.unpacked("tiny")
    facts = {"setting": "tiny", "created": "later", "commit": ""}
    packing.pack(packed.path, package, facts)
    with pytest.raises(BadInput, match="unpacked from another package"):
        ground_truth.unpacked("tiny")


@pytest.mark.parametrize("file", ["records.json.xz", "arrays-float64.npy.xz"])
def test_a_damaged_package_is_refused_and_leaves_no_run(package, file):
    content = bytearray((package / file).read_bytes())
    content[len(content) // 2] ^= 1
    (package / file).write_bytes(content)
    with pytest.raises(BadInput, match=file):
        ground_truth.unpacked("tiny")
    assert not (ground_truth.FOLDER / "tiny").exists()


def test_only_scores_that_are_asked_for_are_extracted(origin, tmp_path):
    shipped = {"two": ["trak"]}
    run = ground_truth.extract(origin[0], tmp_path / "one", None, shipped)
    names = {file.name for file in run.path.glob("scores/two/*")}
    assert names == {"trak.npy", "trak.json"}


def test_a_cell_that_is_trained_again_has_the_same_bits(packed, tmp_path):
    found = ground_truth.cell(packed, OPTIONS, 3, 2, tmp_path / "again")
    assert found["same_bits"]
    assert found["largest_relative_difference"] == 0
    kept = truth.read(packed, plans.load(packed), OPTIONS).losses
    assert found["mean_loss"] == pytest.approx(kept[1, :, 3].mean())


def test_a_cell_that_was_tampered_with_differs(packed, tmp_path):
    file = packed.path / "evaluation" / "truth" / "two" / "seed-1.npy"
    losses = np.load(file)
    losses[0, 5] *= 1.5
    facts = files.read_json(file.with_suffix(".json"))
    digest = files.write_array(file, losses)
    files.write_json(file.with_suffix(".json"), {**facts, "sha256": digest})
    found = ground_truth.cell(packed, OPTIONS, 5, 1, tmp_path / "again")
    assert not found["same_bits"]
    assert found["largest_relative_difference"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("subset", "seed"), [(8, 1), (-1, 1), (0, 3)])
def test_a_cell_that_is_not_there_is_refused(packed, tmp_path, subset, seed):
    with pytest.raises(BadInput, match="no cell of subset .* 0 to 7, seeds 1, 2"):
        ground_truth.cell(packed, OPTIONS, subset, seed, tmp_path / "again")


def test_a_folder_of_other_codes_is_refused(origin, tmp_path):
    run, _ = origin
    splits = dataclasses.replace(run.config.splits, seed=1)
    other = dataclasses.replace(run.config, run=str(tmp_path / "packed"))
    drawing.prepare(folder.create(dataclasses.replace(other, splits=splits)))
    with pytest.raises(BadInput, match="belongs to a run with another config"):
        ground_truth.extract(run, tmp_path / "packed", None)


def test_more_than_is_on_record_needs_the_members(packed):
    with pytest.raises(BadInput, match="not trained yet: 0 of 4 members"):
        attribute.main([str(packed.path), *EVALUATE, "--seeds", "3"])


def test_without_losses_there_is_no_table(packed):
    shutil.rmtree(packed.path / "evaluation")
    with pytest.raises(BadInput, match="lacks 16 models of subsets"):
        truth.read(packed, plans.load(packed), OPTIONS)


def test_the_command_unpacks_and_prints_the_cell(package, monkeypatch, capsys):
    monkeypatch.setattr(ground_truth, "options_of", lambda run, name: OPTIONS)
    arguments = ["ground_truth", "cell", "tiny", "--subset", "2", "--name", "two"]
    monkeypatch.setattr("sys.argv", arguments)
    ground_truth.main()
    said = capsys.readouterr().out
    found = json.loads(said[said.index("{") :])
    assert found["subset"] == 2
    assert found["same_bits"]


@pytest.mark.parametrize(("setting", "n_draws"), [("digits", 128), ("mnist", 128)])
def test_the_shipped_truth_says_how_it_was_measured(setting, n_draws):
    run = ground_truth.unpacked(setting)
    for name in ("held_out", "generated"):
        options = ground_truth.options_of(run, name)
        assert (options.n_seeds, options.n_draws) == (3, n_draws)
