"""Shards are the same bytes every time, and damage never passes for a short archive."""

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


def test_a_missing_index_is_refused(tmp_path):
    with pytest.raises(BadInput, match="not a readable index"):
        shards.read_index(tmp_path)


def test_a_shard_of_no_samples_is_refused(tmp_path):
    with pytest.raises(BadInput, match="at least 1"):
        shards.write(tmp_path, SAMPLES, per_shard=0)


@pytest.mark.parametrize("key", ["a.b", "/a", "../a", "a/../b", ""])
def test_keys_that_webdataset_would_tear_apart_are_refused(tmp_path, key):
    with pytest.raises(BadInput, match="not fit for a shard"):
        shards.write(tmp_path, [(key, {"png": b""})], per_shard=1)


@pytest.mark.parametrize("second", ["000001", "000000"])
def test_keys_must_ascend(tmp_path, second):
    samples = [("000001", {"png": b""}), (second, {"png": b""})]
    with pytest.raises(BadInput, match="must ascend"):
        shards.write(tmp_path, samples, per_shard=1)


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
