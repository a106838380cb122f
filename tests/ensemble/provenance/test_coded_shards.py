"""Coded shards hold the images exactly, in the order of their codes."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from ensemble.cli import write_shards
from ensemble.data.datasets import load
from ensemble.provenance import coded_shards, drawing
from ensemble.run import config_file
from ensemble.run.config import DataConfig
from splits import shards
from splits.errors import BadInput

DIGITS = load(DataConfig(n_images=40))


def config(**data):
    data = {"source": "label", **data}
    tree = {"run": "none", "data": data, "splits": {"n_members": 6}}
    return config_file.from_dict(tree)


def written(tmp_path, data=DIGITS, per_shard=9, **section):
    coded = coded_shards.laid_out(config(**section), data, per_shard)
    coded_shards.write(coded, tmp_path / "out")
    return coded


def read_back(settings, folder, n_shards):
    section = coded_shards.data_section(settings, folder, n_shards)
    return load(DataConfig(**yaml.safe_load(section)["data"]))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index, label in enumerate(["cat", "dog", "cat", "eel", "dog"]):
        path = tmp_path / "photos" / label / f"{index}.v1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(image).save(path)
    return {"kind": "folder", "path": str(tmp_path / "photos")}


def run(*arguments):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "ensemble.cli.write_shards",
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("per_shard", [1, 3, 100])
def test_a_folder_survives_the_way_through_shards(folder, tmp_path, per_shard, stream):
    settings = config(**folder, stream=stream).data
    before = load(settings)
    coded = written(tmp_path, before, per_shard, **folder)
    after = read_back(settings, tmp_path / "out", len(coded.per_shard))
    assert after.names == tuple(f"{index:06d}" for index in range(5))
    assert replace(after, names=before.names).fingerprint() == before.fingerprint()
    assert after.label_names == before.label_names


def test_images_lie_by_code(tmp_path):
    coded = written(tmp_path)
    found = [
        place.name.partition(".")[0]
        for name, shard in shards.read_index(tmp_path / "out").items()
        for place in shards.places(tmp_path / "out" / name, shard)
        if place.name.endswith(".npy")
    ]
    codes = [tuple(coded.bits[int(key)]) for key in found]
    assert len(found) == 40
    assert sum(a != b for a, b in zip(codes, codes[1:], strict=False)) == 9


def test_the_index_says_who_needs_a_shard(tmp_path):
    coded = written(tmp_path)
    begin = 0
    for shard in shards.read_index(tmp_path / "out").values():
        images = coded.order[begin : begin + shard.count]
        begin += shard.count
        needed = coded.bits[images].any(axis=0)
        assert shard.members == np.flatnonzero(needed).tolist()


@pytest.mark.parametrize("design", ["balanced", "named"])
def test_who_trains_on_the_shards_draws_the_codes_that_they_were_grouped_by(
    folder, tmp_path, design
):
    tree = {"run": "none", "data": folder, "splits": {"design": design, "n_members": 6}}
    settings = config_file.from_dict(tree)
    coded = coded_shards.laid_out(settings, load(settings.data), 9)
    coded_shards.write(coded, tmp_path / "out")
    section = coded_shards.data_section(
        settings.data, tmp_path / "out", len(coded.per_shard)
    )
    again = config_file.from_dict({**tree, **yaml.safe_load(section)})
    ready = drawing.draw(again)
    assert np.array_equal(ready.codes.bits[ready.source_of], coded.bits)


def test_foretold_sizes_are_those_of_the_shards(tmp_path):
    coded = coded_shards.laid_out(config(), DIGITS, 9)
    sizes = coded.sizes()
    assert np.array_equal(coded_shards.write(coded, tmp_path / "out"), sizes)
    for shard in shards.read_index(tmp_path / "out").values():
        held, sizes = sizes[: shard.count].sum(), sizes[shard.count :]
        # Two blocks end an archive, which is filled up to whole records.
        assert shard.bytes == -(-(int(held) + 1024) // 10240) * 10240


def test_a_folder_is_stored_as_png_and_digits_as_they_are(folder):
    for data, kind in ((load(config(**folder).data), "png"), (DIGITS, "npy")):
        coded = coded_shards.laid_out(config(), data, 9)
        fields = {field for _, sample in coded.samples() for field in sample}
        assert fields == {kind, "json", "cls"}


def test_two_writes_give_the_same_bytes(folder, tmp_path):
    for name in ("once", "again"):
        coded = coded_shards.laid_out(config(), load(config(**folder).data), 2)
        coded_shards.write(coded, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert "images-000000.idx" in names
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        once, again = (tmp_path / which / name for which in ("once", "again"))
        assert once.read_bytes() == again.read_bytes()


def test_the_section_keeps_what_still_holds(tmp_path):
    settings = DataConfig(kind="folder", path="x", size=8, n_images=3, source="artist")
    section = coded_shards.data_section(settings, tmp_path, 12)
    assert yaml.safe_load(section)["data"] == {
        "kind": "shards",
        "path": f"{tmp_path}/images-{{000000..000011}}.tar",
        "source": "artist",
    }


def test_shards_never_mix_with_other_files(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(BadInput, match="is not empty. Choose a new folder"):
        written(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="Cannot write .*out"):
        written(tmp_path / "file")


def test_a_shard_of_no_images_and_reads_of_no_bytes_are_refused():
    with pytest.raises(BadInput, match="0 images in a shard"):
        coded_shards.laid_out(config(), DIGITS, 0)
    with pytest.raises(BadInput, match="0 bytes read at once"):
        coded_shards.laid_out(config(), DIGITS, 9, read_bytes=0)


def test_the_command_writes_digits_that_read_back_exactly(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("run: x\ndata: {n_images: 40}\nsplits: {n_members: 8}\n")
    command = [str(path), str(tmp_path / "out"), "--per-shard", "15"]
    assert write_shards.main([*command, "--plan"]) == 0
    assert not (tmp_path / "out").exists()
    done = run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == capsys.readouterr().out
    assert "# each block of 4,096 bytes once an epoch" in done.stdout
    section = yaml.safe_load(done.stdout)["data"]
    after = load(DataConfig(**section))
    assert replace(after, names=DIGITS.names).fingerprint() == DIGITS.fingerprint()
    index = json.loads((tmp_path / "out" / "shards.json").read_text())["shards"]
    assert section["path"].endswith(f"images-{{000000..{len(index) - 1:06d}}}.tar")


def test_the_command_meets_bad_input_with_exit_code_2_and_one_message(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"run: x\ndata: {{kind: folder, path: {tmp_path}/nowhere}}\n")
    done = run(path, tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: data.path")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
