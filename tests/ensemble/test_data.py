"""Training images: the same whatever they are read from, whenever and wherever."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from ensemble import data
from ensemble.config import DataConfig
from ensemble.data import TrainingImages, load, require_classes
from splits.errors import BadInput

DIGITS = load(DataConfig(n_images=40))


def labelled(*labels, column="label"):
    images = np.zeros((len(labels), 1, 2, 2), dtype=np.float32)
    names = tuple(f"image {index}" for index in range(len(labels)))
    columns = {column: labels}
    numbers, label_names = data._labels(columns, names, column)
    return TrainingImages(images, numbers, label_names, columns, names)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index, label in enumerate(["cat", "dog", "cat", "eel", "dog"]):
        path = tmp_path / "photos" / label / f"{index}.v1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(image).save(path)
    return DataConfig(kind="folder", path=str(tmp_path / "photos"))


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ensemble.data", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_digits_fill_minus_one_to_one_in_steps_of_an_eighth():
    digits = load(DataConfig())
    assert digits.images.shape == (1797, 1, 8, 8)
    assert np.array_equal(np.unique(digits.images * 8), np.arange(-8, 9))
    assert digits.names[417] == "digit 0417"
    assert digits.columns == {"label": tuple(str(label) for label in digits.labels)}
    assert digits.label_names == tuple("0123456789")


def test_the_first_digits_are_the_first_of_all_digits():
    digits = load(DataConfig())
    assert np.array_equal(DIGITS.images, digits.images[:40])
    assert DIGITS.names == digits.names[:40]
    assert DIGITS.columns["label"] == digits.columns["label"][:40]


@pytest.mark.parametrize("settings", [{"size": 16}, {"channels": 3}])
def test_the_digits_are_never_converted(settings):
    with pytest.raises(BadInput, match="digits are 8x8 and grey"):
        load(DataConfig(**settings))


@pytest.mark.parametrize("kind", sorted(data.DATA_SETS))
def test_every_kind_gives_the_same_form(kind, folder, tmp_path):
    data.write_shards(DIGITS, tmp_path / "out", per_shard=100)
    shards = DataConfig(kind="shards", path=str(tmp_path / "out/images-000000.tar"))
    configs = {"digits": DataConfig(), "folder": folder, "shards": shards}
    loaded = load(configs[kind])
    assert loaded.images.dtype == np.float32
    assert loaded.images.flags.c_contiguous
    assert loaded.labels is not None
    assert set(loaded.labels) == set(range(len(loaded.label_names)))
    assert len(loaded.names) == len(set(loaded.names)) == len(loaded.images)
    assert all(len(column) == len(loaded.names) for column in loaded.columns.values())


def test_loaded_images_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        DIGITS.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        DIGITS.labels[0] = 0


def test_the_callers_own_array_stays_writable():
    images = np.zeros((1, 1, 2, 2), dtype=np.float32)
    TrainingImages(images, None, (), {}, ("a",))
    images[0] = 1


def test_the_fingerprint_is_known():
    # A change of this value means that finished runs no longer match their data.
    assert DIGITS.fingerprint() == FINGERPRINT


FINGERPRINT = "1ff21c3ade664430689a84d837906b9d7c12208666a9a0a95b7933c7ec762f69"


@pytest.mark.parametrize(
    "change",
    [
        {"images": -DIGITS.images},
        {"labels": DIGITS.labels[::-1]},
        {"labels": None},
        {"names": DIGITS.names[::-1]},
        {"columns": {"artist": DIGITS.columns["label"]}},
    ],
)
def test_any_change_changes_the_fingerprint(change):
    assert replace(DIGITS, **change).fingerprint() != DIGITS.fingerprint()


def test_the_fingerprint_depends_on_values_not_on_memory_layout():
    shuffled = np.asfortranarray(DIGITS.images).astype(">f4")
    copy = replace(DIGITS, images=shuffled.astype(np.float32, order="F"))
    assert copy.fingerprint() == DIGITS.fingerprint()


def test_label_names_are_sorted_and_numbers_sort_as_numbers():
    assert labelled("10", "9", "9").label_names == ("9", "10")
    assert labelled("10", "9", "x").label_names == ("10", "9", "x")


def test_a_label_is_the_place_of_its_name():
    images = labelled("dog", "cat", "dog", "eel")
    assert [images.label_names[label] for label in images.labels] == [
        "dog",
        "cat",
        "dog",
        "eel",
    ]


def test_any_column_can_be_the_label(folder):
    by_file = load(replace(folder, label="file_name"))
    assert by_file.labels.tolist() == [0, 1, 2, 3, 4]
    assert load(folder).label_names == ("cat", "dog", "eel")


def test_without_a_label_column_there_are_no_labels(folder):
    flat = load(replace(folder, path=f"{folder.path}/cat"))
    assert (flat.labels, flat.label_names) == (None, ())


def test_an_unknown_label_column_is_refused_with_the_nearest(folder):
    with pytest.raises(BadInput, match="'lable' is not a column. Did you mean 'label'"):
        load(replace(folder, label="lable"))
    with pytest.raises(BadInput, match="not a column. Known: file_name, label"):
        load(replace(folder, label="zzz"))


def test_an_empty_label_is_refused_by_name():
    with pytest.raises(BadInput, match="image 1 has an empty label in column 'by'"):
        labelled("Eve", "", column="by")


def test_classes_are_counted():
    assert require_classes(labelled("a", "b", "a")) == 2


def test_conditioning_needs_labels():
    nothing = TrainingImages(np.zeros((1, 1, 2, 2), np.float32), None, (), {}, ("a",))
    with pytest.raises(BadInput, match="need labels, and the training images have non"):
        require_classes(nothing)


def test_conditioning_needs_two_classes():
    with pytest.raises(BadInput, match="All training images have the label 'a'"):
        require_classes(labelled("a", "a"))


@pytest.mark.parametrize("per_shard", [1, 3, 100])
def test_a_folder_survives_the_way_through_shards(folder, tmp_path, per_shard):
    before = load(folder)
    files = data.write_shards(before, tmp_path / "out", per_shard)
    section = data._data_section(folder, tmp_path / "out", files)
    after = load(DataConfig(**yaml.safe_load(section)["data"]))
    assert after.names == tuple(f"{index:06d}" for index in range(5))
    assert replace(after, names=before.names).fingerprint() == before.fingerprint()
    assert after.label_names == before.label_names


def test_a_folder_is_stored_as_png_and_digits_as_they_are(folder, tmp_path):
    fields = {field for _, sample in data._samples(load(folder)) for field in sample}
    assert fields == {"png", "json", "cls"}
    fields = {field for _, sample in data._samples(DIGITS) for field in sample}
    assert fields == {"npy", "json", "cls"}


def test_two_writes_give_the_same_shards(folder, tmp_path):
    indices = []
    for name in ("once", "again"):
        data.write_shards(load(folder), tmp_path / name, per_shard=2)
        indices.append(json.loads((tmp_path / name / "shards.json").read_text()))
    assert indices[0] == indices[1]
    assert [shard["count"] for shard in indices[0]["shards"]] == [2, 2, 1]


def test_shards_never_mix_with_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(BadInput, match="is not empty. Choose a new folder"):
        data.write_shards(DIGITS, tmp_path, per_shard=9)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="Cannot write .*out"):
        data.write_shards(DIGITS, tmp_path / "file" / "out", per_shard=9)


def test_the_command_writes_digits_that_read_back_exactly(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("run: runs/x\ndata: {kind: digits, n_images: 40}\n")
    done = run(config, tmp_path / "out", "--per-shard", 15)
    assert (done.returncode, done.stderr) == (0, "")
    section = yaml.safe_load(done.stdout)["data"]
    assert section["path"].endswith("images-{000000..000002}.tar")
    after = load(DataConfig(**section))
    assert replace(after, names=DIGITS.names).fingerprint() == FINGERPRINT


def test_the_command_meets_bad_input_with_exit_code_2_and_one_message(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"run: x\ndata: {{kind: folder, path: {tmp_path}/nowhere}}\n")
    done = run(config, tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("data.path")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_reading_a_folder_needs_no_torch():
    script = "import sys, ensemble.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
