"""Training images: the same whatever they are read from, whenever and wherever."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ensemble.data import datasets
from ensemble.data.datasets import TrainingImages, load, require_classes
from ensemble.provenance import coded_shards
from ensemble.run.config import Config, DataConfig
from splits.errors import BadInput

DIGITS = load(DataConfig(n_images=40))


def labelled(*labels, column="label"):
    images = np.zeros((len(labels), 1, 2, 2), dtype=np.float32)
    names = tuple(f"image {index}" for index in range(len(labels)))
    columns = {column: labels}
    numbers, label_names = datasets._labels(columns, names, column)
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


@pytest.mark.parametrize("kind", sorted(datasets.DATA_SETS))
def test_every_kind_gives_the_same_form(kind, folder, tmp_path):
    coded = coded_shards.laid_out(Config("none"), DIGITS, per_shard=100)
    coded_shards.write(coded, tmp_path / "out")
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


def test_images_on_disk_are_the_same_images(folder):
    held, on_disk = load(folder), load(replace(folder, stream=True))
    assert on_disk.fingerprint() == held.fingerprint()
    assert np.array_equal(on_disk.pictures(), held.pictures())
    assert on_disk.columns == held.columns


def test_the_digits_have_no_files_to_stream_from():
    with pytest.raises(BadInput, match="the digits have none"):
        DataConfig(stream=True)


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


def test_classes_that_a_config_names_keep_its_order(folder):
    """Also those that no image has; so no image decides which classes there are."""
    named = load(replace(folder, classes=["fox", "eel", "dog", "cat"]))
    assert named.label_names == ("fox", "eel", "dog", "cat")
    assert [named.label_names[label] for label in named.labels] == [
        load(folder).label_names[label] for label in load(folder).labels
    ]
    assert require_classes(named) == 4
    counted = load(DataConfig(n_images=3, classes=12))
    assert counted.label_names == tuple(str(number) for number in range(12))
    assert counted.labels.tolist() == [0, 1, 2]


def test_a_label_that_is_none_of_the_classes_is_refused_by_name(folder):
    with pytest.raises(
        BadInput, match=r"has the label 'dog', which is none of data\.classes \(\d such"
    ):
        load(replace(folder, classes=["cat", "eel"]))


def test_classes_need_labels(folder):
    flat = replace(folder, path=f"{folder.path}/cat", classes=["cat", "dog"])
    with pytest.raises(BadInput, match="but the training images have none"):
        load(flat)


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


def test_reading_a_folder_needs_no_torch():
    script = "import sys, ensemble.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
