"""A run folder can be copied and moved: commands act on the folder that they are given."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ensemble.cli import attribute, train
from ensemble.run import config_file, files, locations
from ensemble.run.config import Config, DataConfig
from ensemble.run.folder import create, open_run
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.system import exits
from splits.errors import BadInput
from tests import tiny


def photos(folder, first=0, n_images=8):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(first)
    for index in range(first, first + n_images):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")


def relative(run="run", path="photos", **changes):
    """A config of relative paths."""
    data = {"kind": "folder", "path": path, "n_images": None}
    return tiny.config(run, data=data, **changes)


def file_of(config, path):
    path.write_text(config_file.to_yaml(config))
    return path


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A working directory with images and a run that was trained there."""
    folder = tmp_path_factory.mktemp("made")
    photos(folder / "photos")
    before = os.getcwd()
    os.chdir(folder)
    try:
        file = file_of(relative(), folder / "mine.yaml")
        assert train.main([str(file)]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def at(made, tmp_path, monkeypatch):
    """The same, to be changed; the working directory is there."""
    shutil.copytree(made, tmp_path / "at")
    monkeypatch.chdir(tmp_path / "at")
    return tmp_path / "at"


def test_a_copy_is_trained_repaired_and_asked_and_the_original_is_left_alone(
    at, capsys
):
    before = content(at / "run")
    shutil.copytree("run", "copy")
    assert attribute.main(["copy", "remove", "--sources", "3", "--reason", "x"]) == 0
    said = capsys.readouterr().out
    assert "python train.py copy/config.yaml --repair" in said
    assert train.main(["copy/config.yaml", "--repair", "--reference"]) == 0
    said = capsys.readouterr().out
    assert "members in copy." in said
    assert "although `run` there says run" in said
    assert train.main(["copy/config.yaml", "--reference"]) == 0
    for command in (["generate", "--n", "1"], ["verify"]):
        assert attribute.main(["copy", *command]) == 0
    assert (at / "copy/reference").exists()
    assert "repair 1" in files.read_json(at / "copy/manifest.json")["stages"]
    assert content(at / "run") == before


def test_the_original_can_be_gone(at):
    os.rename("run", "moved")
    assert train.main(["moved/config.yaml", "--reference"]) == 0
    assert attribute.main(["moved", "verify"]) == 0
    assert not (at / "run").exists()


def test_a_copy_of_a_run_that_has_only_begun_is_a_run_of_its_own(at):
    create(relative("begun"))
    shutil.copytree("begun", "copy")
    assert train.main(["copy/config.yaml", "--members", "0"]) == 0
    assert (at / "copy/members/000").exists()
    assert not (at / "begun/members").exists()


def test_run_on_the_command_line_counts(at):
    given = "run=third"
    config = config_file.load("run/config.yaml", [given])
    assert locations.of_config("run/config.yaml", config, [given]).run == "third"


@pytest.mark.parametrize("name", ["mine/config.yaml", "run/other.yaml"])
def test_a_config_that_lies_elsewhere_means_the_folder_that_it_names(at, name):
    (at / "mine").mkdir()
    file_of(relative("fourth"), at / name)
    config = config_file.load(name)
    assert locations.of_config(name, config, []).run == "fourth"


def test_from_another_working_directory_data_are_found_where_the_run_was_made(
    at, tmp_path, monkeypatch
):
    manifest = files.read_json(at / "run/manifest.json")
    # The run was copied with its images: those of here come first.
    assert manifest["working_directory"] != str(at)
    assert locations.of_run(open_run("run")).data.path == "photos"
    files.write_json(
        at / "run/manifest.json", {**manifest, "working_directory": str(at)}
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = open_run(at / "run")
    assert locations.of_run(run).data.path == str(at / "photos")
    assert attribute.main([str(at / "run"), "verify"]) == 0
    assert train.main([str(at / "run/config.yaml"), "--reference"]) == 0
    assert not list((tmp_path / "elsewhere").iterdir())


def test_data_that_are_gone_are_named_with_every_place_that_was_tried(at, capsys):
    manifest = files.read_json(at / "run/manifest.json")
    files.write_json(
        at / "run/manifest.json", {**manifest, "working_directory": "/nowhere"}
    )
    os.rename("photos", "away")
    for command in ([attribute.main, "run", "verify"], [train.main, "run/config.yaml"]):
        assert exits.run_guarded(command[0], command[1:]) == 2
        said = capsys.readouterr().err
        assert (
            f"data.path is 'photos', and nothing is there: tried {at}/photos and"
            in said
        )
        assert "and /nowhere/photos. A relative path" in said
        assert "a link to it, there" in said
    # What needs no images still works.
    assert len(EnsemblePipeline.from_pretrained("run").members.member_ids) == 4
    os.symlink("away", "photos")
    assert attribute.main(["run", "verify"]) == 0


def test_a_plan_says_too_where_it_looked(at):
    with pytest.raises(BadInput, match=r"nothing is there: tried .*at/nothing\."):
        train.main(
            [str(file_of(relative("fresh", path="nothing"), at / "x.yaml")), "--plan"]
        )


def test_a_record_of_version_0_1_names_no_folder_and_still_reads_from_here(at):
    manifest = files.read_json(at / "run/manifest.json")
    del manifest["working_directory"]
    files.write_json(at / "run/manifest.json", manifest)
    assert attribute.main(["run", "verify"]) == 0


def test_an_extended_run_is_found_or_named_with_where_it_was_looked_for(
    at, tmp_path, monkeypatch, capsys
):
    photos(at / "more", 20, 4)
    tree = config_file.to_dict(relative("grown", "more"))
    file = file_of(config_file.from_dict({**tree, "extends": "run"}), at / "grown.yaml")
    assert train.main([str(file)]) == 0
    shutil.copytree("grown", "copy")
    monkeypatch.chdir(tmp_path)
    assert attribute.main([str(at / "copy"), "verify"]) == 0
    os.rename(at / "run", at / "lost")
    assert exits.run_guarded(attribute.main, [str(at / "copy"), "verify"]) == 2
    said = capsys.readouterr().err
    assert (
        f"extends is 'run', and that is not a run folder: tried {tmp_path}/run and"
        in said
    )


def test_shards_are_looked_for_too(at):
    wanted = DataConfig(kind="shards", path="a-{00..01}.tar::b.tar")
    config = Config(run="none", data=wanted)
    with pytest.raises(BadInput, match=r"at/a-\{00\.\.01\}\.tar::.*/at/b\.tar\."):
        locations.resolve(config, at / "none")
    (at / "a-00.tar").touch()
    assert locations.resolve(config, at / "none") == config


@pytest.mark.parametrize("path", ["pipe:cat x.tar", "https://example.org/x.tar"])
def test_what_is_no_path_is_left_alone(path):
    config = Config(run="none", data=DataConfig("shards", path))
    assert locations.resolve(config, Path("none")) == config
