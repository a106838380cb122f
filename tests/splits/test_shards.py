"""Shards are the same bytes every time, and damage never passes for a short archive."""

import dataclasses
import hashlib
import tarfile

import pytest

from splits import archives, shards
from splits.errors import BadInput

SAMPLES = [(f"{n:06d}", {"png": bytes([n] * 700), "cls": b"1"}) for n in range(7)]


def members(path):
    with tarfile.open(path) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar}


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
    assert shards.places(path, shard) == archives.inspect(path, "it")


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


def test_a_shard_or_index_that_may_not_be_read_is_not_called_damaged(
    tmp_path, monkeypatch
):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.tar").write_bytes(b"")
    monkeypatch.setattr(tarfile, "open", denied)
    monkeypatch.setattr(type(tmp_path), "read_text", denied)
    for read in (
        lambda: archives.inspect(tmp_path / "a.tar", "a"),
        lambda: shards.read_index(tmp_path),
    ):
        with pytest.raises(BadInput, match="Cannot read .*: Permission denied") as said:
            read()
        assert "damaged" not in str(said.value)
