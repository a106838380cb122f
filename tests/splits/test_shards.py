"""Shards are the same bytes every time, and damage never passes for a short archive."""

import dataclasses
import gzip
import hashlib
import io
import tarfile

import pytest

from splits import shards
from splits.errors import BadInput

SAMPLES = [(f"{n:06d}", {"png": bytes([n] * 700), "cls": b"1"}) for n in range(7)]


def members(path):
    with tarfile.open(path) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar}


def tar_with(path, *infos):
    with tarfile.open(path, "w") as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def test_shards_hold_every_sample_once_and_the_last_holds_the_rest(tmp_path):
    written = shards.write(tmp_path, SAMPLES, per_shard=3)
    assert [shard.file for shard in written] == [
        "images-000000.tar",
        "images-000001.tar",
        "images-000002.tar",
    ]
    assert [shard.count for shard in written] == [3, 3, 1]
    together = {}
    for shard in written:
        together |= members(tmp_path / shard.file)
    assert together == {
        f"{key}.{field}": content
        for key, sample in SAMPLES
        for field, content in sample.items()
    }


def test_the_entries_describe_the_files(tmp_path):
    first, last = shards.write(tmp_path, SAMPLES, per_shard=4)
    assert (first.first_key, first.last_key) == ("000000", "000003")
    assert (last.first_key, last.last_key) == ("000004", "000006")
    assert first.bytes == (tmp_path / first.file).stat().st_size


def test_two_writes_give_the_same_bytes(tmp_path):
    mirrored = [(key, dict(reversed(sample.items()))) for key, sample in SAMPLES]
    once = shards.write(tmp_path / "once", SAMPLES, per_shard=3)
    again = shards.write(tmp_path / "again", mirrored, per_shard=3)
    assert once == again


def test_no_trace_of_the_machine_is_left_in_a_shard(tmp_path):
    shards.write(tmp_path, SAMPLES, per_shard=10)
    with tarfile.open(tmp_path / "images-000000.tar") as tar:
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
    assert facts == {(0, 0, 0, "", "", 0o644)}


def test_groups_of_shards_share_a_folder_and_an_index(tmp_path):
    written = shards.write(tmp_path, SAMPLES[:2], per_shard=2, name="a")
    written += shards.write(tmp_path, SAMPLES[2:], per_shard=9, name="b")
    shards.write_index(tmp_path, written)
    assert list(shards.read_index(tmp_path)) == ["a-000000.tar", "b-000000.tar"]


def test_the_index_reads_back_as_it_was_written(tmp_path):
    written = shards.write(tmp_path, SAMPLES, per_shard=3)
    shards.write_index(tmp_path, written)
    assert list(shards.read_index(tmp_path).values()) == written
    for shard in written:
        shards.verify(tmp_path / shard.file, shard)


def test_one_flipped_bit_is_damage_with_both_digests_and_a_remedy(tmp_path):
    (shard,) = shards.write(tmp_path, SAMPLES, per_shard=9)
    path = tmp_path / shard.file
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match="expects sha256 .* found .* Restore") as caught:
        shards.verify(path, shard)
    assert shard.file in str(caught.value)
    assert shard.sha256 in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"shards": [{}]}', '{"shards": [{"file": "a"}]}']
)
def test_a_damaged_index_is_refused(tmp_path, text):
    (tmp_path / shards.INDEX).write_text(text)
    with pytest.raises(BadInput, match="not a readable index"):
        shards.read_index(tmp_path)


def test_an_index_without_offsets_is_still_an_index(tmp_path):
    text = (
        '{"shards": [{"file": "a.tar", "count": 1, "bytes": 9, "sha256": "00", '
        '"first_key": "a", "last_key": "a"}]}'
    )
    (tmp_path / shards.INDEX).write_text(text)
    assert shards.read_index(tmp_path)["a.tar"].idx_sha256 is None


def test_a_missing_index_is_refused(tmp_path):
    with pytest.raises(BadInput, match="not a readable index"):
        shards.read_index(tmp_path)


def test_a_shard_of_no_samples_is_refused(tmp_path):
    with pytest.raises(BadInput, match="at least 1"):
        shards.write(tmp_path, SAMPLES, per_shard=0)


@pytest.mark.parametrize("key", ["a.b", "/a", "../a", "a/../b", "", "a b", "a\u2028b"])
def test_keys_that_webdataset_would_tear_apart_are_refused(tmp_path, key):
    with pytest.raises(BadInput, match="not fit for a shard"):
        shards.write(tmp_path, [(key, {"png": b""})], per_shard=1)


def test_a_key_that_comes_twice_is_refused(tmp_path):
    samples = [(key, {"png": b""}) for key in ("000001", "000000", "000001")]
    with pytest.raises(BadInput, match="'000001' comes twice"):
        shards.write(tmp_path, samples, per_shard=1)


def test_samples_lie_in_the_order_in_which_they_come(tmp_path):
    (shard,) = shards.write(tmp_path, SAMPLES[::-1], per_shard=9)
    assert list(members(tmp_path / shard.file))[::2] == [
        f"{key}.cls" for key, _ in SAMPLES[::-1]
    ]
    assert (shard.first_key, shard.last_key) == ("000000", "000006")


def test_each_shard_can_have_a_size_of_its_own_and_no_sample_is_left(tmp_path):
    written = shards.write(tmp_path, SAMPLES, per_shard=[1, 4, 1])
    assert [shard.count for shard in written] == [1, 4, 1, 1]


def test_every_field_is_read_by_its_place_alone(tmp_path):
    long = [("k" * 120, {"png": b"long names need a second header"})]
    (shard,) = shards.write(tmp_path, SAMPLES + long, per_shard=9)
    path = tmp_path / shard.file
    found = {
        place.name: shards.content(path, place) for place in shards.places(path, shard)
    }
    assert found == members(path)


def test_the_places_of_an_index_are_those_that_a_reader_finds(tmp_path):
    (shard,) = shards.write(tmp_path, SAMPLES, per_shard=9)
    path = tmp_path / shard.file
    assert shards.places(path, shard) == shards.inspect(path, "it")


def test_offsets_are_written_in_the_format_of_dali(tmp_path):
    shards.write(tmp_path, SAMPLES[:2], per_shard=9)
    assert (tmp_path / "images-000000.idx").read_text() == (
        "v1.2 2\n"
        "cls 512 1 000000.cls png 1536 700 000000.png\n"
        "cls 3072 1 000001.cls png 4096 700 000001.png\n"
    )


def test_a_sample_takes_the_bytes_that_were_foretold(tmp_path):
    (shard,) = shards.write(tmp_path, SAMPLES, per_shard=9)
    starts = [place.offset for place in shards.places(tmp_path / shard.file, shard)]
    assert shards.footprint(SAMPLES[0][1]) == starts[2] - starts[0]


def test_missing_or_damaged_offsets_are_refused_by_name(tmp_path):
    (shard,) = shards.write(tmp_path, SAMPLES, per_shard=9)
    offsets = tmp_path / "images-000000.idx"
    offsets.write_text(offsets.read_text().replace("1536", "1537"))
    with pytest.raises(BadInput, match=r"000\.idx is damaged: .* expects .* found"):
        shards.places(tmp_path / shard.file, shard)
    offsets.unlink()
    with pytest.raises(BadInput, match=r"images-000000\.idx is missing.* Restore"):
        shards.places(tmp_path / shard.file, shard)


def test_a_field_beyond_the_end_of_a_shard_is_refused(tmp_path):
    (shard,) = shards.write(tmp_path, SAMPLES, per_shard=9)
    path = tmp_path / shard.file
    place = shards.places(path, shard)[1]
    path.write_bytes(path.read_bytes()[: place.offset + 100])
    message = r"images-000000\.tar was cut short: 000000\.png should have 700 bytes"
    with pytest.raises(BadInput, match=message):
        shards.content(path, place)
    path.unlink()
    with pytest.raises(BadInput, match=r"Cannot read .*000\.tar: No such file"):
        shards.content(path, place)


def test_whole_shards_pass_inspection(tmp_path):
    shards.write(tmp_path, SAMPLES, per_shard=9)
    shards.inspect(tmp_path / "images-000000.tar", "it")


def test_a_shard_cut_anywhere_before_its_end_mark_is_refused(tmp_path):
    (shard,) = shards.write(tmp_path, SAMPLES, per_shard=9)
    whole = (tmp_path / shard.file).read_bytes()
    cut = tmp_path / "cut.tar"
    # Headers and contents fill whole blocks; the last of them ends at `used`.
    used = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for length in range(0, used + 512, 128):
        cut.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="cut short"):
            shards.inspect(cut, "cut.tar")
    cut.write_bytes(whole[: used + 512])
    shards.inspect(cut, "cut.tar")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    (shard,) = shards.write(tmp_path, SAMPLES, per_shard=9)
    content = bytearray((tmp_path / shard.file).read_bytes())
    second_header = content.index(b"000000.png")
    content[second_header] ^= 1
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(content)
    with tarfile.open(damaged) as tar:
        assert len(tar.getnames()) == 1
    with pytest.raises(BadInput, match=r"x\.tar has no end mark"):
        shards.inspect(damaged, "x.tar")


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png"])
def test_members_that_lead_outside_are_refused(tmp_path, name):
    path = tar_with(tmp_path / "evil.tar", tarfile.TarInfo(name))
    with pytest.raises(BadInput, match="absolute or leads to a parent"):
        shards.inspect(path, "evil.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("a.png")
    info.type, info.linkname = kind, "b.png"
    path = tar_with(tmp_path / "link.tar", info)
    with pytest.raises(BadInput, match="link or a device"):
        shards.inspect(path, "link.tar")


def test_folders_are_plain_members(tmp_path):
    info = tarfile.TarInfo("./cats")
    info.type = tarfile.DIRTYPE
    shards.inspect(tar_with(tmp_path / "a.tar", info), "a.tar")


def extended(size, kind=tarfile.XHDTYPE):
    """A header that announces an extended header of that size."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "content",
    [
        extended(2**33) + bytes(1024),
        extended(2**33, tarfile.GNUTYPE_LONGNAME) + bytes(1024),
        extended(-512) + bytes(1024),
        extended(-512, tarfile.REGTYPE) + bytes(1024),
        b"".join(extended(0) for _ in range(3000)) + bytes(1024),
        b"\xfd7zXZ\x00\x00\x04" + bytes(99),
        b"\x1f\x8b\x08\x00" + bytes(99),
        b"BZh91AY&SY" + bytes(99),
        b"",
    ],
    ids=["pax", "long name", "pax back", "back", "deep", "xz", "gz", "bz2", "empty"],
)
def test_a_hostile_header_is_refused_before_it_is_believed(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.tar (cannot be read as a tar|has no end)"):
        shards.inspect(path, "a.tar")


def test_a_tar_file_that_unpacks_to_far_more_is_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    info = tarfile.TarInfo("000.png")
    info.size = 2**20
    with tarfile.open(path, "w:gz") as tar:
        for number in range(80):
            info.name = f"{number}.png"
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(BadInput, match=r"unpacks to .* bytes at least, of which '6"):
        shards.inspect(path, "a.tar.gz")


def test_a_member_too_large_for_memory_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("000.png")
    info.size = 2**40
    path.write_bytes(info.tobuf())
    with pytest.raises(BadInput, match=r"'000\.png' takes 1,099,511,627,776; allowed"):
        shards.inspect(path, "a.tar")


def test_a_file_with_holes_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("000.png")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": "1099511627776",
    }
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(BadInput, match="a file with holes"):
        shards.inspect(path, "a.tar")


@pytest.mark.parametrize(
    "text", ['{"shards": [{"file": []}]}', "[" * 100_000, '{"shards": 3}', "\0"]
)
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(BadInput, match="is not a readable index of shards"):
        shards.read_index(tmp_path)


@pytest.mark.parametrize(
    "line", ["png 512", f"png 512 {2**40} 0.png", "png 0 -1 0.png"]
)
def test_offsets_that_are_none_are_refused(tmp_path, line):
    (shard,) = shards.write(tmp_path, SAMPLES, per_shard=10)
    offsets = tmp_path / "images-000000.idx"
    offsets.write_text(f"v1.2 1\n{line}\n")
    digest = hashlib.sha256(offsets.read_bytes()).hexdigest()
    shard = dataclasses.replace(shard, idx_sha256=digest)
    with pytest.raises(BadInput, match=r"\.idx is no list of offsets"):
        shards.places(tmp_path / shard.file, shard)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_what_follows_the_end_mark_must_be_zeros(tmp_path, mode):
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as tar:
        tar.addfile(tarfile.TarInfo("1.png"))
    whole = path.read_bytes()
    assert [place.name for place in shards.inspect(path, "a")] == ["1.png"]
    path.write_bytes(whole + whole)
    with pytest.raises(BadInput, match="a goes on behind its end mark: .* --concatena"):
        shards.inspect(path, "a")
    assert len(shards.inspect(path, "a", alone=False)) == 1


def test_zeros_without_end_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("1.png"))
    path.write_bytes(gzip.compress(path.read_bytes() + bytes(2**20)))
    monkeypatch.setattr(shards, "MOST_UNPACKED", 2**19)
    with pytest.raises(BadInput, match="most of them zeros behind its end mark"):
        shards.inspect(path, "a")


def test_a_shard_or_index_that_may_not_be_read_is_not_called_damaged(
    tmp_path, monkeypatch
):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.tar").write_bytes(b"")
    monkeypatch.setattr(tarfile, "open", denied)
    monkeypatch.setattr(type(tmp_path), "read_text", denied)
    for read in (
        lambda: shards.inspect(tmp_path / "a.tar", "a"),
        lambda: shards.read_index(tmp_path),
    ):
        with pytest.raises(BadInput, match="Cannot read .*: Permission denied") as said:
            read()
        assert "damaged" not in str(said.value)
