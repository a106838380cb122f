"""An archive that is cut short, damaged or hostile never passes for a short one."""

import gzip
import io
import tarfile

import pytest

from splits import archives, shards
from splits.errors import BadInput

SAMPLES = [(f"{n:06d}", {"png": bytes([n] * 700), "cls": b"1"}) for n in range(7)]


def tar_with(path, *infos):
    with tarfile.open(path, "w") as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def test_whole_shards_pass_inspection(tmp_path):
    shards.write(tmp_path, SAMPLES, per_shard=9)
    archives.inspect(tmp_path / "images-000000.tar", "it")


def test_a_shard_cut_anywhere_before_its_end_mark_is_refused(tmp_path):
    (shard,) = shards.write(tmp_path, SAMPLES, per_shard=9)
    whole = (tmp_path / shard.file).read_bytes()
    cut = tmp_path / "cut.tar"
    # Headers and contents fill whole blocks; the last of them ends at `used`.
    used = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for length in range(0, used + 512, 128):
        cut.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="cut short"):
            archives.inspect(cut, "cut.tar")
    cut.write_bytes(whole[: used + 512])
    archives.inspect(cut, "cut.tar")


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
        archives.inspect(damaged, "x.tar")


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png"])
def test_members_that_lead_outside_are_refused(tmp_path, name):
    path = tar_with(tmp_path / "evil.tar", tarfile.TarInfo(name))
    with pytest.raises(BadInput, match="absolute or leads to a parent"):
        archives.inspect(path, "evil.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("a.png")
    info.type, info.linkname = kind, "b.png"
    path = tar_with(tmp_path / "link.tar", info)
    with pytest.raises(BadInput, match="link or a device"):
        archives.inspect(path, "link.tar")


def test_folders_are_plain_members(tmp_path):
    info = tarfile.TarInfo("./cats")
    info.type = tarfile.DIRTYPE
    archives.inspect(tar_with(tmp_path / "a.tar", info), "a.tar")


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
        archives.inspect(path, "a.tar")


def test_a_tar_file_that_unpacks_to_far_more_is_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    info = tarfile.TarInfo("000.png")
    info.size = 2**20
    with tarfile.open(path, "w:gz") as tar:
        for number in range(80):
            info.name = f"{number}.png"
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(BadInput, match=r"unpacks to .* bytes at least, of which '6"):
        archives.inspect(path, "a.tar.gz")


def test_a_member_too_large_for_memory_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("000.png")
    info.size = 2**40
    path.write_bytes(info.tobuf())
    with pytest.raises(BadInput, match=r"'000\.png' takes 1,099,511,627,776; allowed"):
        archives.inspect(path, "a.tar")


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
        archives.inspect(path, "a.tar")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_what_follows_the_end_mark_must_be_zeros(tmp_path, mode):
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as tar:
        tar.addfile(tarfile.TarInfo("1.png"))
    whole = path.read_bytes()
    assert [place.name for place in archives.inspect(path, "a")] == ["1.png"]
    path.write_bytes(whole + whole)
    with pytest.raises(BadInput, match="a goes on behind its end mark: .* --concatena"):
        archives.inspect(path, "a")
    assert len(archives.inspect(path, "a", alone=False)) == 1


def test_zeros_without_end_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("1.png"))
    path.write_bytes(gzip.compress(path.read_bytes() + bytes(2**20)))
    monkeypatch.setattr(archives, "MOST_UNPACKED", 2**19)
    with pytest.raises(BadInput, match="most of them zeros behind its end mark"):
        archives.inspect(path, "a")
