"""A folder: order and metadata come from names and tables, never from the disk."""

import numpy as np
import pytest
from PIL import Image

from ensemble import data_folder, pixels
from ensemble.config import DataConfig
from splits.errors import BadInput


def fill(folder, *names):
    """One flat grey image for each name: the first is black, the next a shade up."""
    for shade, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), shade).save(path)
    return folder


def read(folder, **settings):
    return data_folder.read(DataConfig(kind="folder", path=str(folder), **settings))


def shades(images):
    return np.rint((images[:, 0, 0, 0] + 1) * 127.5).astype(int).tolist()


def test_images_come_in_order_of_their_paths_however_they_were_written(tmp_path):
    images, _, names = read(fill(tmp_path, "b/2.png", "a/9.png", "b/10.png"))
    assert names == ("a/9.png", "b/10.png", "b/2.png")
    assert shades(images) == [1, 2, 0]


def test_the_order_is_not_that_of_the_file_system(tmp_path, monkeypatch):
    fill(tmp_path, *(f"{n}.png" for n in range(6)))
    listed = sorted(tmp_path.rglob("*"))
    expected = read(tmp_path)
    for order in (listed, listed[::-1], listed[3:] + listed[:3]):
        monkeypatch.setattr(
            type(tmp_path), "rglob", lambda self, pattern, order=order: iter(order)
        )
        images, columns, names = read(tmp_path)
        assert np.array_equal(images, expected[0])
        assert (columns, names) == expected[1:]


def test_suffixes_count_in_either_case_and_other_files_do_not(tmp_path):
    fill(tmp_path, "a.PNG", "b.Jpg", "c.jpeg", "d.webp", "e.bmp", ".hidden.png")
    fill(tmp_path, ".cache/f.png")
    (tmp_path / "notes.txt").write_text("no image")
    names = read(tmp_path, channels=1)[2]
    assert names == ("a.PNG", "b.Jpg", "c.jpeg", "d.webp")


def test_subfolders_are_labels(tmp_path):
    _, columns, _ = read(fill(tmp_path, "cats/a.png", "dogs/deep/b.png"))
    assert columns == {
        "file_name": ("cats/a.png", "dogs/deep/b.png"),
        "label": ("cats", "dogs"),
    }


def test_a_flat_folder_has_no_labels(tmp_path):
    assert read(fill(tmp_path, "a.png"))[1] == {"file_name": ("a.png",)}


def test_an_image_beside_labelled_ones_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"loose\.png lies beside subfolders"):
        read(fill(tmp_path, "cats/a.png", "loose.png"))


def test_a_table_gives_all_its_columns_in_order_of_the_names(tmp_path):
    fill(tmp_path, "cats/a.png", "b.png")
    (tmp_path / "metadata.csv").write_text(
        'artist,file_name,title\nEve,cats/a.png,"one, two"\n\nAdam,b.png,"line\nbreak"\n'
    )
    assert read(tmp_path)[1] == {
        "artist": ("Adam", "Eve"),
        "file_name": ("b.png", "cats/a.png"),
        "title": ("line\nbreak", "one, two"),
    }


def test_a_byte_order_mark_is_not_part_of_a_column(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name\na.png\n", encoding="utf-8-sig")
    assert list(read(tmp_path)[1]) == ["file_name"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name\na.png\na.png\nb.png\n", r"lists 'a\.png' twice"),
        ("file_name\na.png\nb.png\nc.png\n", r"lists 'c\.png', which is not an image"),
        ("file_name\na.png\n", r"does not list 'b\.png', which is in the folder"),
        ("name\na.png\nb.png\n", "has the columns name; a column file_name is needed"),
        ("file_name,x,x\na.png,1,2\n", "each name once"),
        ("file_name,x\na.png\nb.png,1\n", "a row of 1 fields under a header of 2"),
        ("file_name,x\na.png,1,2\nb.png,1\n", "a row of 3 fields under a header of 2"),
        ("", "cannot be read as a table"),
        ('file_name\n"a.png\n', "cannot be read as a table"),
        ("file_name\n\udcff\n", "cannot be read as a table"),
    ],
)
def test_a_table_that_does_not_fit_the_folder_is_refused(tmp_path, table, message):
    fill(tmp_path, "a.png", "b.png")
    text = table.encode("utf-8", "surrogateescape")
    (tmp_path / "metadata.csv").write_bytes(text)
    with pytest.raises(BadInput, match=message):
        read(tmp_path)


def test_only_the_first_images_are_kept_and_decoded(tmp_path):
    fill(tmp_path, "x/a.png", "y/b.png", "z/c.png")
    (tmp_path / "z/c.png").write_bytes(b"damaged")
    images, columns, names = read(tmp_path, n_images=2)
    assert shades(images) == [0, 1]
    assert names == ("x/a.png", "y/b.png")
    assert columns["label"] == ("x", "y")


def test_a_damaged_image_is_refused_by_path(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "b.png").write_bytes(b"damaged")
    with pytest.raises(BadInput, match=r"b\.png cannot be read"):
        read(tmp_path)


def test_an_image_that_cannot_be_opened_is_refused_by_path(tmp_path, monkeypatch):
    fill(tmp_path, "a.png")

    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "read_bytes", denied)
    with pytest.raises(BadInput, match=r"Cannot read .*a\.png: Permission denied"):
        read(tmp_path)


def test_images_that_differ_in_size_or_mode_agree_once_the_config_says_so(tmp_path):
    fill(tmp_path, "a.png")
    Image.new("RGB", (9, 6)).save(tmp_path / "b.png")
    with pytest.raises(BadInput, match=r"a\.png is 4x4 grey, but b\.png is 9x6 RGB"):
        read(tmp_path)
    images, _, _ = read(tmp_path, size=4, channels=1)
    assert np.array_equal(images, np.full((2, 1, 4, 4), -1))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no image"):
        read(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        read(tmp_path / "nowhere")


def test_the_values_are_those_of_the_file(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    images, _, _ = read(tmp_path)
    assert np.array_equal(images[0], pixels.from_u8(image).transpose(2, 0, 1))
