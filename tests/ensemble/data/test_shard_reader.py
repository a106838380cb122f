"""Shards: every sample exactly once, in order of keys, or an error that says why."""

import io
import json
import os
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image

from ensemble.data import shard_reader
from ensemble.data.inventory import FIRST_RULES, RULES, Inventory
from ensemble.run.config import DataConfig
from splits import archives, shards
from splits.errors import BadInput


def picture(shade, form="PNG"):
    file = io.BytesIO()
    Image.new("L", (4, 4), shade).save(file, form)
    return file.getvalue()


def pack(path, files):
    """A tar file with these members in this order: pairs of name and content."""
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def numbered(path, numbers):
    return pack(path, [(f"{n:03d}.png", picture(n)) for n in numbers])


def read(path, **settings):
    return shard_reader.read(DataConfig(kind="shards", path=str(path), **settings))


def read_one(tmp_path, **fields):
    return read(pack(tmp_path / "a.tar", [(f"k.{f}", c) for f, c in fields.items()]))


def streamed(path, **settings):
    """The same with `stream`, as an array: there and back it must not matter."""
    images, columns, names = read(path, stream=True, **settings)
    return np.asarray(images), columns, names


def shades(images):
    return np.rint((images[:, 0, 0, 0] + 1) * 127.5).astype(int).tolist()


@pytest.fixture
def three(tmp_path):
    """Nine samples, dealt out to three shards out of order."""
    for shard, numbers in enumerate([(8, 1, 4), (0, 5, 2), (7, 3, 6)]):
        numbered(tmp_path / f"s-{shard:03d}.tar", numbers)
    return tmp_path


def test_a_brace_range_reads_every_sample_once_in_order_of_keys(three):
    images, columns, names = read(three / "s-{000..002}.tar")
    assert shades(images) == list(range(9))
    assert names == tuple(f"{n:03d}" for n in range(9))
    assert columns == {}


@pytest.mark.parametrize("n_images", [None, 4])
def test_samples_read_by_their_places_are_the_same_samples(three, n_images):
    entries = json.dumps({"artist": "Eve"}).encode()
    files = [("__meta__/x.json", b"{}"), ("v1.0/009.PNG", picture(9)), ("read me", b"")]
    fields = [("v1.0/009.json", entries), ("v1.0/009.cls", b"3")]
    pack(three / "s-003.tar", files + fields)
    for last, size in (("002", {"size": 2}), ("003", {})):
        path = f"{three}/s-{{{'000' if size else '003'}..{last}}}.tar"
        held, on_disk = (f(path, n_images=n_images, **size) for f in (read, streamed))
        assert np.array_equal(held[0], on_disk[0])
        assert held[1:] == on_disk[1:]


def test_a_command_cannot_be_streamed(three):
    with pytest.raises(BadInput, match=r"'pipe:cat .*' is a command\. Save"):
        streamed(f"pipe:cat {three}/s-000.tar")


@pytest.mark.parametrize("command", ["gzip", "bzip2", "xz"])
def test_compressed_shards_cannot_be_streamed(three, command):
    subprocess.run([command, three / "s-000.tar"], check=True)
    (packed,) = three.glob("s-000.tar.*")
    with pytest.raises(BadInput, match=r"s-000\.tar\..* is compressed"):
        streamed(packed)


def test_the_order_of_the_shards_does_not_matter(three):
    forth, back = (
        read(three / f"s-{order}.tar") for order in ("{000,001,002}", "{002,000,001}")
    )
    assert np.array_equal(forth[0], back[0])
    assert forth[1:] == back[1:]


def test_only_the_first_keys_are_kept(three):
    assert shades(read(three / "s-{000..002}.tar", n_images=4)[0]) == [0, 1, 2, 3]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_each_process_of_many_reads_every_sample(three, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("WORKER", rank)
    monkeypatch.setenv("NUM_WORKERS", "2")
    assert shades(read(three / "s-{000..002}.tar")[0]) == list(range(9))


def test_the_output_of_a_command_is_read_like_a_file(three):
    piped = read(f"pipe:cat {three}/s-{{000..002}}.tar")
    plain = read(three / "s-{000..002}.tar")
    assert np.array_equal(piped[0], plain[0])
    assert piped[1:] == plain[1:]


def test_compressed_shards_are_read(three):
    piped = read(f"pipe:gzip -c {three}/s-000.tar")
    assert shades(piped[0]) == [1, 4, 8]


FORMS = ["png", "jpg", "jpeg", "webp", "PNG", "tif", "TIFF", "bmp", "jfif"]


@pytest.mark.parametrize("form", FORMS)
def test_each_picture_field_is_an_image(tmp_path, form):
    kind = {"jpg": "JPEG", "jfif": "JPEG", "tif": "TIFF"}.get(form, form.upper())
    images, _, names = read_one(tmp_path, **{form: picture(200, kind)})
    assert shades(images) == [200]
    assert names == ("k",)


def test_an_npy_field_is_the_image_itself(tmp_path):
    file = io.BytesIO()
    np.save(file, np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 2, 2))
    images, _, _ = read_one(tmp_path, npy=file.getvalue())
    assert np.array_equal(images.ravel(), np.linspace(-1, 1, 12, dtype=np.float32))


def test_json_entries_are_columns_of_text(tmp_path):
    entries = {"artist": "Eve", "year": 1999, "tags": ["a"], "sold": True, "by": None}
    _, columns, _ = read_one(
        tmp_path, png=picture(0), json=json.dumps(entries).encode()
    )
    assert columns == {
        "artist": ("Eve",),
        "year": ("1999",),
        "tags": ('["a"]',),
        "sold": ("true",),
        "by": ("",),
    }


def test_a_class_is_the_label_unless_an_entry_has_that_name(tmp_path):
    assert read_one(tmp_path, png=picture(0), cls=b"07\n")[1] == {"label": ("7",)}
    named = read_one(tmp_path, png=picture(0), cls=b"7", json=b'{"label": "cat"}')
    assert named[1] == {"label": ("cat",)}


def test_a_key_may_lie_in_folders(tmp_path):
    path = pack(tmp_path / "a.tar", [("v1.0/cats/a.png", picture(1))])
    assert read(path)[2] == ("v1.0/cats/a",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"json": b"{}"}, r"Sample 'k' of .*a\.tar has 0 image fields \[\] among json"),
        (
            {"v1.png": picture(0), "v2.png": b""},
            "no image field, but v1.png, v2.png: a",
        ),
        ({"v1.png": picture(0)}, r"at its first dot, so that k\.v1\.png is the field"),
        ({"png": picture(0), "json": b'{"a": 1, "a": 2}'}, "'a' stands twice"),
        ({"png": picture(0), "webp": b""}, "has 2 image fields"),
        ({"png": b"damaged"}, r"Sample 'k' of .*a\.tar, field png cannot be read"),
        ({"npy": b"damaged"}, r"Sample 'k' of .*a\.tar, field npy cannot be read"),
        ({"png": picture(0), "cls": b"cat"}, "has the class b'cat'.* whole number"),
        ({"png": picture(0), "json": b"{"}, "has a field json that cannot be read"),
        ({"png": picture(0), "json": b"\xff"}, "has a field json that cannot be read"),
        ({"png": picture(0), "json": b"[1]"}, r"that is no object: \[1\]"),
        ({"png": picture(0), "PNG": picture(0)}, r"a\.tar cannot be read: .*duplicate"),
    ],
)
def test_a_sample_that_makes_no_sense_is_refused_by_key(tmp_path, fields, message):
    with pytest.raises(BadInput, match=message):
        read_one(tmp_path, **fields)


def test_nan_is_refused_by_key(tmp_path):
    file = io.BytesIO()
    np.save(file, np.full((1, 2, 2), np.nan))
    with pytest.raises(BadInput, match=r"Sample 'k' of .*a\.tar.* no NaN"):
        read_one(tmp_path, npy=file.getvalue())


@pytest.mark.parametrize("extra", [("2.cls", b"1"), ("2.json", b'{"artist": "Eve"}')])
def test_what_is_known_of_one_sample_must_be_known_of_all(tmp_path, extra):
    files = [("1.png", picture(0)), ("2.png", picture(0)), extra]
    with pytest.raises(BadInput, match="'1' .* and Sample '2' .*only one has"):
        read(pack(tmp_path / "a.tar", files))


def test_a_key_in_two_shards_is_refused(tmp_path):
    numbered(tmp_path / "0.tar", [1, 2])
    numbered(tmp_path / "1.tar", [2, 3])
    with pytest.raises(BadInput, match=r"'002' comes twice, in .*0\.tar and in .*1\."):
        read(tmp_path / "{0..1}.tar")


def test_a_sample_torn_apart_is_refused(tmp_path):
    files = [("1.png", picture(0)), ("2.png", picture(0)), ("1.cls", b"1")]
    with pytest.raises(BadInput, match="'1' comes twice.* side by side"):
        read(pack(tmp_path / "a.tar", files))


ODD = ["read me", "__meta__/x.json", ".hidden.png", "a/._1.png"]


def inventory_of(path, rules=RULES, **settings):
    inventory = Inventory(rules)
    config = DataConfig(kind="shards", path=str(path), **settings)
    names = shard_reader.read(config, inventory)[2]
    return inventory.lines(), names


@pytest.mark.parametrize("stream", [False, True])
def test_files_and_fields_that_are_not_read_are_counted(tmp_path, stream):
    files = [(name, b"") for name in ODD]
    for key in ("1", "2"):
        files += [(f"{key}.png", picture(0)), (f"{key}.txt", b"a cat")]
    lines, names = inventory_of(pack(tmp_path / "a.tar", files), stream=stream)
    assert names == ("1", "2")
    assert lines == [
        "2 images; 6 files not read:",
        "  2 fields txt: 1.txt, 2.txt",
        "  2 hidden: .hidden.png, a/._1.png",
        "  2 without an ending, or with a name that WebDataset takes for no sample: "
        "read me, __meta__/x.json",
    ]


def test_a_run_of_version_0_1_reads_the_fields_that_it_read(tmp_path):
    files = [("1.png", picture(0)), ("1.bmp", b""), ("1.json", b'{"a": 1, "a": 2}')]
    lines, _ = inventory_of(pack(tmp_path / "a.tar", files), FIRST_RULES)
    assert lines[1:] == ["  1 fields bmp: 1.bmp"]
    with pytest.raises(BadInput, match="stands twice"):
        inventory_of(tmp_path / "a.tar")


@pytest.mark.parametrize("stream", [False, True])
def test_archives_joined_byte_by_byte_are_refused(three, stream):
    joined = three / "joined.tar"
    parts = [three / f"s-00{n}.tar" for n in range(2)]
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    message = r"joined\.tar goes on behind its end mark: .*tar --concatenate"
    with pytest.raises(BadInput, match=message):
        read(joined, stream=stream)
    lines, names = inventory_of(joined, FIRST_RULES, stream=stream)
    assert names == ("001", "004", "008")
    assert "joined.tar goes on behind its end mark" in lines[1]


def test_zeros_behind_the_end_are_padding(three):
    path = three / "s-000.tar"
    path.write_bytes(path.read_bytes() + bytes(10**6))
    assert shades(read(path)[0]) == [1, 4, 8]


def test_keys_that_look_alike_are_said_to(tmp_path):
    files = [(f"{key}.png", picture(0)) for key in ("\u00eb", "e\u0308")]
    (note,) = inventory_of(pack(tmp_path / "a.tar", files))[0][1:]
    assert "'e\\u0308' and '\\xeb' look like one name and are two images" in note


def test_samples_that_the_config_leaves_out_are_counted(three):
    assert inventory_of(three / "s-{000..002}.tar", n_images=4)[0] == [
        "4 images; no other file was found",
        "  data.n_images leaves out the last 5 images.",
    ]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_shard_that_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "a.tar")
    with pytest.raises(BadInput, match=r"a\.tar is no file but a folder, a pipe or"):
        read(tmp_path / "a.tar")


def test_shards_without_samples_are_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no sample"):
        read(pack(tmp_path / "a.tar", []))


def test_a_missing_shard_is_refused_by_name(three):
    with pytest.raises(BadInput, match=r"s-003\.tar is missing.*pipe:curl"):
        read(three / "s-{000..003}.tar")


@pytest.mark.parametrize("path", ["s-{000..002.tar", "${NOWHERE}/s.tar"])
def test_a_path_that_cannot_be_expanded_is_refused(path):
    with pytest.raises(BadInput, match="cannot be expanded"):
        read(path)


def test_a_shard_cut_short_is_refused_by_name(three):
    path = three / "s-001.tar"
    whole = path.read_bytes()
    # At a multiple of 512 bytes, between two members, WebDataset sees nothing wrong.
    for length in (1000, 1024, 2048):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput, match=r"s-001\.tar .*cut short"):
            read(three / "s-{000..002}.tar")


def test_a_member_outside_of_its_folder_is_refused(tmp_path):
    path = pack(tmp_path / "a.tar", [("../evil.png", picture(0))])
    with pytest.raises(BadInput, match=r"a\.tar has the member '\.\./evil\.png'"):
        read(path)


def test_a_failing_command_is_no_empty_data_set(three):
    with pytest.raises(BadInput, match=r"failed with exit code 3: no such bucket"):
        read("pipe:echo no such bucket >&2; exit 3")
    with pytest.raises(BadInput, match="failed with exit code 1: it said nothing"):
        read(f"pipe:cat {three}/s-000.tar; exit 1")
    with pytest.raises(BadInput, match="cannot be read as a tar file"):
        read("pipe:true")


def test_a_command_whose_output_is_cut_short_is_refused(three):
    with pytest.raises(BadInput, match="cut short"):
        read(f"pipe:cat {three}/s-000.tar | head -c 2048")


@pytest.fixture
def indexed(tmp_path):
    samples = [(f"{n:03d}", {"png": picture(n)}) for n in range(4)]
    shards.write_index(tmp_path, shards.write(tmp_path, samples, per_shard=2))
    return tmp_path


def test_indexed_shards_are_read_whole_or_in_part(indexed):
    assert shades(read(indexed / "images-{000000..000001}.tar")[0]) == [0, 1, 2, 3]
    assert shades(read(indexed / "images-000001.tar")[0]) == [2, 3]


def test_indexed_shards_are_streamed_whole_or_in_part(indexed):
    assert shades(streamed(indexed / "images-{000000..000001}.tar")[0]) == [0, 1, 2, 3]
    assert shades(streamed(indexed / "images-000001.tar")[0]) == [2, 3]


def test_streaming_needs_no_look_at_the_headers_of_indexed_shards(indexed, monkeypatch):
    monkeypatch.setattr(archives, "inspect", None)
    assert shades(streamed(indexed / "images-000001.tar")[0]) == [2, 3]


@pytest.mark.parametrize("length", [1000, 1024, 2048])
def test_streaming_refuses_damaged_cut_and_missing_shards_by_name(
    indexed, three, length
):
    path = indexed / "images-000001.tar"
    whole = path.read_bytes()
    both = indexed / "images-{000000..000001}.tar"
    path.write_bytes(whole[:length])
    with pytest.raises(BadInput, match=r"001\.tar is damaged: .*expects .* found"):
        streamed(both)
    path.write_bytes(whole[:-1] + b"1")
    with pytest.raises(BadInput, match=r"001\.tar is damaged: .*expects .* found"):
        streamed(both)
    path.unlink()
    with pytest.raises(BadInput, match=r"001\.tar is missing\. Restore"):
        streamed(both)
    (indexed / shards.INDEX).unlink()
    unindexed = three / "s-001.tar"
    unindexed.write_bytes(unindexed.read_bytes()[:length])
    with pytest.raises(BadInput, match=r"s-001\.tar .*cut short"):
        streamed(unindexed)


def test_damage_that_only_the_index_can_see_is_refused(indexed):
    path = indexed / "images-000001.tar"
    content = bytearray(path.read_bytes())
    content[-1] = 1  # beyond the end mark
    path.write_bytes(content)
    message = r"images-000001\.tar is damaged: .*expects sha256 .* found"
    with pytest.raises(BadInput, match=message):
        read(indexed / "images-{000000..000001}.tar")


def test_a_shard_that_the_index_does_not_know_is_refused(indexed):
    numbered(indexed / "more.tar", [9])
    with pytest.raises(BadInput, match=r"more\.tar is not listed in the shards\.json"):
        read(indexed / "more.tar")
