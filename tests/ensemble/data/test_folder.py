"""A folder: order and metadata come from names and tables, never from the disk."""

import contextlib
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from ensemble.data import decoding
from ensemble.data import folder as data_folder
from ensemble.data.inventory import FIRST_RULES, RULES, Inventory
from ensemble.run.config import DataConfig
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


@pytest.mark.parametrize("turned", [lambda e: e, reversed, lambda e: e[3:] + e[:3]])
def test_the_order_is_not_that_of_the_file_system(tmp_path, monkeypatch, turned):
    fill(tmp_path, *(f"{n}.png" for n in range(6)))
    expected, listed = read(tmp_path), os.scandir

    @contextlib.contextmanager
    def scandir(folder):
        with listed(folder) as entries:
            yield iter([*turned(sorted(entries, key=lambda entry: entry.name))])

    monkeypatch.setattr(os, "scandir", scandir)
    images, columns, names = read(tmp_path)
    assert np.array_equal(images, expected[0])
    assert (columns, names) == expected[1:]


def listed(folder, rules=RULES, **settings):
    """What the inventory of a folder says, line by line, and the images' names."""
    inventory = Inventory(rules)
    config = DataConfig(kind="folder", path=str(folder), **settings)
    names = data_folder.read(config, inventory)[2]
    return inventory.lines(), names


ALL = ["a.PNG", "b.Jpg", "c.jpeg", "d.webp", "e.bmp", "f.TIFF", "g.tif", "h.gif"]


def test_suffixes_count_in_either_case_and_other_files_are_counted(tmp_path):
    fill(tmp_path, *ALL, ".hidden.png", ".cache/f.png")
    Image.new("L", (4, 4)).save(tmp_path / "i.jfif", "JPEG")
    for name in ("notes.txt", "README", "b.txt", "photo.heic", "more.metadata.csv"):
        (tmp_path / name).write_text("no image")
    lines, names = listed(tmp_path, channels=1)
    assert names == (*ALL, "i.jfif")
    assert lines == [
        "9 images; 7 files not read:",
        "  2 hidden: .cache, .hidden.png",
        "  2 of format .txt: b.txt, notes.txt",
        "  1 of format .csv: more.metadata.csv",
        "  1 of format .heic: photo.heic",
        "  1 without ending: README",
    ]


def test_a_run_of_version_0_1_reads_what_that_read(tmp_path):
    fill(tmp_path, "a.png", "b.bmp")
    (tmp_path / "metadata.jsonl").write_text("damaged")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    lines, names = listed(tmp_path, rules=FIRST_RULES)
    assert names == ("a.png",)
    assert lines == [
        "1 image; 3 files not read:",
        "  1 links that lead nowhere, pipes, sockets or devices: gone.png",
        "  1 of format .bmp: b.bmp",
        "  1 of format .jsonl: metadata.jsonl",
    ]


def test_nothing_else_is_said_to_be_nothing_else(tmp_path):
    assert listed(fill(tmp_path, "a.png"))[0] == ["1 image; no other file was found"]


def test_links_to_images_are_read_and_links_to_folders_are_counted(tmp_path):
    outside = fill(tmp_path / "outside", "a.png", "b.png")
    inside = fill(tmp_path / "inside", "c.png")
    (inside / "a.png").symlink_to(outside / "a.png")
    (inside / "more").symlink_to(outside)
    (inside / "round").symlink_to(inside)
    lines, names = listed(inside)
    assert names == ("a.png", "c.png")
    assert lines[1:] == ["  2 links to folders, which are not followed: more, round"]


def test_a_folder_of_links_to_folders_says_what_it_found(tmp_path):
    fill(tmp_path / "outside", "a.png")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/cats").symlink_to(tmp_path / "outside")
    with pytest.raises(BadInput, match="no image.*Found instead: 1 links to folders"):
        read(tmp_path / "inside")


@pytest.mark.parametrize("name", ["x.png", "metadata.csv", "deep/x.TIFF"])
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path.symlink_to("nowhere"), r"a link that leads nowhere \(No"),
        (lambda path: path.symlink_to(path), r"a link that leads nowhere \(Too many"),
        (os.mkfifo, "a named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
    ],
)
def test_what_is_called_like_an_image_or_a_table_must_be_a_file(
    tmp_path, name, make, what
):
    fill(tmp_path, "a.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    with pytest.raises(BadInput, match=f"{name} is {what}.* where a file is wanted"):
        read(tmp_path)


def test_what_is_no_file_and_called_otherwise_is_counted(tmp_path):
    fill(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    assert listed(tmp_path)[0] == [
        "1 image; 2 files not read:",
        "  2 links that lead nowhere, pipes, sockets or devices: gone.txt, pipe",
    ]


def test_a_folder_called_like_a_table_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"metadata\.csv is a folder, where a file"):
        read(fill(tmp_path, "a.png", "metadata.csv/b.png"))


def test_a_folder_that_cannot_be_listed_is_refused_by_name(tmp_path, monkeypatch):
    fill(tmp_path, "cats/a.png")

    def denied(folder, scandir=os.scandir):
        if folder.name == "cats":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(BadInput, match=r"Cannot list .*cats: Permission denied"):
        read(tmp_path)


def test_files_with_several_pictures_are_named(tmp_path):
    fill(tmp_path, "a.png", "b.tif", "c.gif")
    for name in ("b.tif", "c.gif"):
        pages = [Image.new("L", (4, 4), shade) for shade in (9, 200)]
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    inventory = Inventory()
    config = DataConfig(kind="folder", path=str(tmp_path), channels=1)
    assert shades(data_folder.read(config, inventory)[0]) == [0, 9, 9]
    line = inventory.lines()[1]
    assert line.startswith(
        "  of several pictures in a file the first is read: 2 files,"
    )
    assert "b.tif" in line
    assert "c.gif" in line


def test_images_that_the_config_leaves_out_are_counted(tmp_path):
    fill(tmp_path, "a.png", "b.png", "c.png")
    assert listed(tmp_path, n_images=1)[0][1:] == [
        "  data.n_images leaves out the last 2 images."
    ]
    assert len(listed(tmp_path, n_images=3)[0]) == 1


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
        ("name\na.png\nb.png\n", "has the columns 'name'; a column file_name is need"),
        ("file_name\nA.png\nb.png\n", r"lists 'A\.png', and the folder has 'a\.png'"),
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


ACCENT = unicodedata.normalize("NFD", "caf\u00e9.png")


@pytest.mark.parametrize(
    ("file", "written"),
    [
        (ACCENT, "caf\u00e9.png"),
        ("caf\u00e9.png", ACCENT),
        ("cats/a.png", " cats/a.png "),
        ("cats/a.png", "./cats/a.png"),
        ("cats/a.png", "cats\\a.png"),
    ],
)
def test_a_name_that_a_table_spells_otherwise_is_found_and_said(
    tmp_path, file, written
):
    fill(tmp_path, file, "b.png")
    (tmp_path / "metadata.csv").write_text(f"file_name,by\n{written},Eve\nb.png,Adam\n")
    inventory = Inventory()
    config = DataConfig(kind="folder", path=str(tmp_path))
    _, columns, names = data_folder.read(config, inventory)
    assert names == tuple(sorted((file, "b.png")))
    assert columns["file_name"] == names
    assert columns["by"][names.index(file)] == "Eve"
    assert inventory.notes == [
        f"metadata.csv writes {written!a} for the file {file!a} (1 such rows)."
    ]


def test_two_files_whose_names_look_alike_are_said_to(tmp_path):
    fill(tmp_path, ACCENT, "caf\u00e9.png")
    (note,) = listed(tmp_path)[0][1:]
    assert ascii(ACCENT) in note
    assert "'caf\\xe9.png' look like one name and are two images (1 such" in note


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.TSV", "METADATA.jsonl"])
def test_the_table_may_have_any_of_its_names_in_any_capitals(tmp_path, name):
    fill(tmp_path, "a.png")
    text = {
        "metadata.csv": "file_name,by\na.png,Eve\n",
        "metadata.TSV": "file_name\tby\na.png\tEve\n",
        "METADATA.jsonl": '{"file_name": "a.png", "by": "Eve"}\n',
    }
    (tmp_path / name).write_text(text[name])
    lines, _ = listed(tmp_path)
    assert read(tmp_path)[1] == {"file_name": ("a.png",), "by": ("Eve",)}
    assert len(lines) == 1


def test_two_tables_are_one_too_many(tmp_path):
    fill(tmp_path, "a.png")
    for name in ("metadata.csv", "metadata.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(BadInput, match=r"holds metadata\.csv and metadata\.jsonl, and"):
        read(tmp_path)


def test_a_table_in_a_subfolder_is_named(tmp_path):
    fill(tmp_path, "train/a.png")
    (tmp_path / "train/metadata.csv").write_text("file_name\na.png\n")
    assert listed(tmp_path)[0][1] == (
        "  1 tables in subfolders (only data.path itself may hold one): train/metadata.csv"
    )


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
    assert np.array_equal(images[0], decoding.from_u8(image).transpose(2, 0, 1))
