"""The run folder: whole or not at all, damage found, nothing mixed up."""

import errno
import json
import os
import platform
import re
import shutil
import string
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ensemble.run import config_file, records
from ensemble.run.files import (
    array_digest,
    atomic_file,
    atomic_folder,
    check_file,
    commit_folder,
    create_array,
    read_array,
    read_json,
    remove_abandoned,
    sha256,
    write_array,
    write_json,
    write_text,
)
from ensemble.run.folder import (
    Run,
    create,
    open_run,
    read_codes,
    remove_if_unused,
    run_exists,
)
from ensemble.run.manifest import check_manifest, stage, start_manifest
from ensemble.system import environment, locks
from ensemble.system.text import file_name, visible
from splits.errors import BadInput

FACTS = {"n_sources": 3, "code_book_digest": "abc"}
RECORD = {"names": ["Zoë", "b"], "loss": [0.5, 1e-05, 1.0], "none": None, "nested": {}}
ARRAY = np.arange(6, dtype=np.int64).reshape(2, 3)

WRITERS = {
    "text": lambda path: write_text(path, "new"),
    "json": lambda path: write_json(path, {"new": 1}),
    "array": lambda path: write_array(path, ARRAY),
}

KEYS = st.text(st.characters(codec="utf-8")).filter(
    lambda key: key not in ("digest", "place")
)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | KEYS,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=4,
)


@pytest.fixture
def config(tmp_path):
    return config_file.from_dict(
        {"run": str(tmp_path / "run"), "training": {"steps": 6}}
    )


@pytest.fixture
def run(config):
    run = create(config)
    start_manifest(run, FACTS)
    return run


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def whole_json(scratch):
    write_json(scratch / "whole.json", RECORD)
    return (scratch / "whole.json").read_bytes()


@pytest.fixture(scope="module")
def whole_array(scratch):
    write_array(scratch / "whole.npy", ARRAY)
    return (scratch / "whole.npy").read_bytes()


def changed(config, section, **options):
    tree = config_file.to_dict(config)
    tree[section].update(options)
    return config_file.from_dict(tree)


def refuse(number):
    def raises(*_, **__):
        raise OSError(number, os.strerror(number), "some/file")

    return raises


def with_byte_changed(content, position, change):
    damaged = bytearray(content)
    damaged[position % len(content)] ^= change
    return bytes(damaged)


# Writing: whole or not at all.


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, write, failing
):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, failing, refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_block_replaces_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted():
        with atomic_file(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_write_makes_the_folder_and_leaves_one_file(tmp_path, write):
    path = tmp_path / "new" / "folder" / "file"
    write(path)
    write(path)
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    path = tmp_path / "a[1].json"
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    node = platform.node()
    stale = tmp_path / f".a[1].json.{node}.{gone.pid}.part"
    others = [
        tmp_path / f".a[1].json.{node}.{os.getppid()}.part",
        tmp_path / f".a[1].json.elsewhere.{gone.pid}.part",
        tmp_path / f".b.json.{node}.{gone.pid}.part",
    ]
    for partial in (stale, *others):
        partial.touch()
    write_json(path, {})
    assert set(tmp_path.iterdir()) == {path, *others}


def test_an_array_is_made_with_one_value_everywhere(tmp_path):
    path = tmp_path / "a.npy"
    create_array(path, (700, 500), np.float32, np.nan)
    made = np.load(path, mmap_mode="r+")
    assert made.shape == (700, 500)
    assert made.dtype == np.float32
    assert np.isnan(made).all()
    create_array(path, (3,), np.int64)
    assert np.load(path).tolist() == [0, 0, 0]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_run_folder_that_cannot_be_made_is_refused(config, monkeypatch, number):
    monkeypatch.setattr(os, "mkdir", refuse(number))
    message = rf"Cannot write the run folder .*run: {os.strerror(number)}\. Choose"
    with pytest.raises(BadInput, match=message):
        create(config)


def test_a_full_disk_is_said_when_the_run_folder_is_made(config, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(
        BadInput, match="No space left on device. Choose another folder"
    ):
        create(config)
    assert not list(Path(config.run).glob("[!.]*"))


def test_a_file_where_the_run_folder_should_be_is_refused(config):
    Path(config.run).write_text("in the way")
    with pytest.raises(BadInput, match="Cannot write the run folder .*: File exists"):
        create(config)


# JSON.


@settings(max_examples=50)
@given(TREES)
def test_json_reads_back_as_it_was_written(scratch, tree):
    write_json(scratch / "tree.json", tree)
    assert read_json(scratch / "tree.json") == tree


def test_numbers_as_keys_read_back_as_text(tmp_path):
    write_json(tmp_path / "a.json", {"loss": {2: 0.5, 10: 0.25}})
    assert read_json(tmp_path / "a.json") == {"loss": {"2": 0.5, "10": 0.25}}


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_of_a_json_file_is_refused(
    scratch, whole_json, position, change
):
    path = scratch / "damaged.json"
    path.write_bytes(with_byte_changed(whole_json, position, change))
    with pytest.raises(BadInput, match=re.escape(str(path))):
        read_json(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"b"', '"c"'),
        ("1.0", "1e0"),
        ("\n ", "\n  "),
        ("\n", "\r\n"),
        ('"none": null,', '"none": null, "none": null,'),
    ],
)
def test_json_edited_by_hand_is_damaged_even_if_it_means_the_same(tmp_path, old, new):
    path = tmp_path / "a.json"
    write_json(path, RECORD)
    edited = path.read_text(encoding="utf-8").replace(old, new, 1)
    path.write_bytes(edited.encode())
    with pytest.raises(
        BadInput, match=r"a\.json is damaged: expected sha256 \w{64}, found \w{64}\. De"
    ):
        read_json(path)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"digest": 3}', "{", "\udcff"])
def test_what_is_no_json_with_a_digest_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    message = r"a\.json cannot be read as JSON with a digest \(.*\)\. It is damaged"
    with pytest.raises(BadInput, match=message):
        read_json(path)


# Arrays.


@settings(max_examples=50)
@given(
    hnp.arrays(
        hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes(),
        hnp.array_shapes(min_dims=0, min_side=0),
    )
)
def test_an_array_reads_back_with_its_type_and_shape(scratch, array):
    expected = write_array(scratch / "array.npy", array)
    found = read_array(scratch / "array.npy", expected)
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_of_an_array_is_refused(
    scratch, whole_array, position, change
):
    path = scratch / "damaged.npy"
    expected = sha256(scratch / "whole.npy")
    path.write_bytes(with_byte_changed(whole_array, position, change))
    message = rf"{re.escape(str(path))} is damaged: expected sha256 {expected}, found"
    with pytest.raises(BadInput, match=message):
        read_array(path, expected)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200)
@given(st.integers(0, 127), st.integers(1, 255))
@example(8, ord("v") ^ 1)
@example(21, ord("<") ^ ord(","))
@example(26, ord("f") ^ ord("B"))
def test_a_damaged_header_is_never_a_traceback(scratch, whole_array, position, change):
    path = scratch / "header.npy"
    path.write_bytes(with_byte_changed(whole_array, position, change))
    try:
        read_array(path)
    except BadInput as error:
        message = str(error)
        assert "header.npy is not a readable array (" in message


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="not a readable array .*allow_pickle=False"):
        read_array(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="cannot be saved when allow_pickle=False"):
        write_array(tmp_path / "b.npy", np.array([{}], dtype=object))
    assert not (tmp_path / "b.npy").exists()


@given(
    hnp.arrays(
        hnp.integer_dtypes() | hnp.floating_dtypes(), hnp.array_shapes(max_dims=3)
    )
)
def test_a_digest_depends_on_no_memory_layout_and_no_byte_order(array):
    digest = array_digest(array)
    assert array_digest(np.asfortranarray(array)) == digest
    assert array_digest(np.repeat(array, 2, axis=0)[::2]) == digest
    swapped = array.astype(array.dtype.newbyteorder())
    assert array_digest(swapped) == digest


def test_a_digest_tells_content_type_and_shape_apart():
    arrays = [
        np.zeros(6, np.float32),
        np.zeros(6, np.int32),
        np.zeros((2, 3), np.float32),
        np.zeros((3, 2), np.float32),
        np.full(6, -0.0, np.float32),
        np.zeros(1, np.float32),
        np.zeros((), np.float32),
    ]
    assert len({array_digest(array) for array in arrays}) == len(arrays)


# Missing files and sealed folders.


@pytest.mark.parametrize(
    "read",
    [read_json, read_array, lambda path: check_file(path, "0" * 64)],
    ids=["json", "array", "check"],
)
def test_a_missing_file_is_named_with_what_to_do(tmp_path, read):
    with pytest.raises(
        BadInput, match=r"absent is missing\. Run the stage that writes"
    ):
        read(tmp_path / "absent")


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "sealed"
    write_array(folder / "a.npy", ARRAY)
    write_array(folder / "deep" / "b.npy", ARRAY + 1)
    (folder / ".lock").touch()
    records.write_done_mark(folder, "info.json", {"n": 2})
    return folder


def test_a_seal_lists_every_file_but_itself_and_hidden_ones(sealed):
    info = read_json(sealed / "info.json")
    assert info["n"] == 2
    assert info["files"] == {
        name: sha256(sealed / name) for name in ("a.npy", "deep/b.npy")
    }


def test_a_sealed_array_reads_back(sealed):
    found = records.checked_array(sealed, "info.json", "deep/b.npy")
    assert np.array_equal(found, ARRAY + 1)


def test_a_sealed_array_that_was_replaced_is_damaged(sealed):
    write_array(sealed / "a.npy", ARRAY + 1)
    with pytest.raises(BadInput, match=r"a\.npy is damaged: expected sha256"):
        records.checked_array(sealed, "info.json", "a.npy")


def test_an_array_that_was_never_sealed_is_missing(sealed):
    write_array(sealed / "c.npy", ARRAY)
    with pytest.raises(BadInput, match=r"c\.npy is missing"):
        records.checked_array(sealed, "info.json", "c.npy")


def test_a_folder_without_its_seal_is_not_done(sealed):
    (sealed / "info.json").unlink()
    with pytest.raises(BadInput, match=r"info\.json is missing"):
        records.checked_array(sealed, "info.json", "a.npy")


def test_every_sealed_file_is_checked_and_the_folder_is_the_remedy(sealed):
    assert records.check_done_mark(sealed, "info.json")["n"] == 2
    write_array(sealed / "deep" / "b.npy", ARRAY)
    message = (
        r"b\.npy is damaged: .* by .*info\.json, found .*Delete the folder .*sealed"
    )
    with pytest.raises(BadInput, match=message):
        records.check_done_mark(sealed, "info.json")


def test_every_array_has_a_record_of_its_own(tmp_path):
    for name in ("a.npy", "a.path.npy", "b.npy"):
        write_array(tmp_path / name, ARRAY)
    write_json(tmp_path / "a.json", {})
    write_json(tmp_path / "alone.json", {})
    with pytest.raises(BadInput, match=r"b\.json is missing"):
        records.list_records(tmp_path, ".npy")
    (tmp_path / "b.npy").unlink()
    found = records.list_records(tmp_path, ".npy")
    assert [path.name for path in found] == ["a.json", "alone.json"]


def test_records_that_changed_places_are_refused(run):
    one, other = (run.queries(name) / "info.json" for name in ("one", "other"))
    write_json(one, {"n": 1})
    other.parent.mkdir()
    one.rename(other)
    message = r"other/info\.json was written as queries/one/info\.json: .*Put each back"
    with pytest.raises(BadInput, match=message):
        read_json(other)


def test_a_record_keeps_its_place_when_its_folder_is_finished(run):
    with atomic_folder(run.queries("demo")) as folder:
        records.write_done_mark(folder, "info.json", {"n": 1})
    assert read_json(run.queries("demo") / "info.json")["n"] == 1


def test_a_code_book_is_bits_in_rows_and_columns(tmp_path):
    write_array(tmp_path / "codes.npy", np.eye(3, dtype=bool))
    assert read_codes(tmp_path / "codes.npy").n_members == 3
    for other in (ARRAY, np.ones(3, dtype=bool)):
        write_array(tmp_path / "codes.npy", other)
        with pytest.raises(BadInput, match=r"codes\.npy is an array .*bits \(sources"):
            read_codes(tmp_path / "codes.npy")


def test_control_characters_are_spelled_out():
    assert visible("a\n\x1b[2J\u202eb é") == "a\n\\x1b[2J\\u202eb é"


# Folders in the making.


def test_a_folder_in_the_making_gets_its_name_last(tmp_path):
    final = tmp_path / "made"
    with atomic_folder(final) as partial:
        (partial / "file").write_text("whole")
        assert not final.exists()
    assert (final / "file").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [final]


def test_a_folder_that_failed_has_no_name_and_starts_afresh(tmp_path):
    final = tmp_path / "made"

    def failing():
        with atomic_folder(final) as partial:
            (partial / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert not final.exists()
    with atomic_folder(final) as partial:
        assert not list(partial.iterdir())


def test_publishing_replaces_what_had_the_name(tmp_path):
    final, partial = tmp_path / "made", tmp_path / "made.part"
    for folder, name in ((final, "old"), (partial, "new")):
        folder.mkdir()
        (folder / name).touch()
    commit_folder(partial, final)
    assert [path.name for path in final.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [final]


# The run and its config.


def test_every_path_lies_in_the_run_folder(run):
    paths = {
        run.codes: "codes.npy",
        run.source_of: "source_of.npy",
        run.manifest: "manifest.json",
        run.member(7): "members/007",
        run.queries("demo"): "queries/demo",
        run.influence("demo"): "influence/demo",
        run.scores("demo"): "scores/demo",
        run.evaluation: "evaluation",
    }
    assert {str(path.relative_to(run.path)) for path in paths} == set(paths.values())
    assert all(path == run.path / name for path, name in paths.items())


def test_the_resolved_config_is_kept_and_opens_the_run(config):
    run = create(config)
    assert run == Run(Path(config.run), config)
    assert open_run(config.run) == run
    assert create(config) == run


def test_a_run_of_which_nothing_came_is_withdrawn_and_no_other(config):
    run = create(config)
    with locks.exclusive(run.path / "plan"):
        remove_if_unused(run)
        assert run_exists(config)
    remove_if_unused(run)
    assert not run_exists(config)
    run = create(config)
    write_array(run.codes, np.zeros((2, 2), dtype=bool))
    remove_if_unused(run)
    assert run_exists(config)


def test_a_folder_with_another_config_is_refused_with_the_difference(config):
    create(config)
    with pytest.raises(
        BadInput, match=r"another config:\n  training\.steps: 6 -> 7\nUse"
    ):
        create(changed(config, "training", steps=7))


def test_whether_a_run_stands_is_told_and_nothing_is_written(config):
    assert not run_exists(config)
    assert not Path(config.run).exists()
    create(config)
    assert run_exists(config)
    with pytest.raises(BadInput, match=r"training\.steps: 6 -> 7"):
        run_exists(changed(config, "training", steps=7))


@pytest.mark.parametrize("ask", [create, run_exists])
def test_a_folder_of_photos_becomes_no_run(config, ask):
    folder = Path(config.run)
    (folder / "inside").mkdir(parents=True)
    for name in ("b.png", "a.png", "c.png"):
        (folder / name).touch()
    message = (
        r"not empty: it holds a\.png, b\.png, c\.png, \.\.\., but .*config\.yaml is"
    )
    with pytest.raises(BadInput, match=message):
        ask(config)
    there = {path.name for path in folder.iterdir()}
    assert there == {"inside", "a.png", "b.png", "c.png"}


def test_an_empty_folder_becomes_a_run_and_hidden_files_do_not_count(config):
    folder = Path(config.run)
    folder.mkdir()
    (folder / ".DS_Store").touch()
    assert create(config).path == folder


def test_a_run_without_its_config_is_not_begun_anew(config):
    run = create(config)
    start_manifest(run, {})
    (run.path / "config.yaml").unlink()
    with pytest.raises(BadInput, match=r"holds manifest\.json, .* restore its config"):
        create(config)


def test_processes_may_differ_but_threads_may_not(config):
    create(config)
    more = changed(config, "training", processes=3)
    assert create(more).config.training.processes == 3
    with pytest.raises(BadInput, match=r"training\.threads: 1 -> 2"):
        create(changed(config, "training", threads=2))


def test_a_run_folder_may_move(run, tmp_path):
    moved = tmp_path / "moved"
    shutil.move(run.path, moved)
    tree = {**config_file.to_dict(run.config), "run": str(moved)}
    assert create(config_file.from_dict(tree)).path == moved


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(
        BadInput, match="is not a run folder: .*config.yaml is missing. Mak"
    ):
        open_run(tmp_path)


def test_a_config_that_was_changed_by_hand_is_refused(run):
    kept = run.path / "config.yaml"
    kept.write_text(kept.read_text().replace("steps: 6\n", "steps: 7\n"))
    for reopen in (
        lambda: open_run(run.path),
        lambda: create(config_file.load(kept)),
    ):
        with pytest.raises(BadInput, match="config_digest of .* has changed"):
            reopen()


# The manifest.


def test_the_manifest_says_what_the_run_was_made_with(run):
    manifest = read_json(run.manifest)
    assert manifest["versions"] == environment.versions()
    assert set(manifest["versions"]) == set(environment.PACKAGES)
    assert manifest["seeds"] == {"splits": 0, "training": 0}
    assert manifest["commit"] == environment.commit()
    assert set(manifest["machine"]) == {"python", "processor", "cores", "system"}
    assert all(manifest["machine"].values())
    assert {name: manifest[name] for name in FACTS} == FACTS
    assert manifest["stages"] == {}


def test_a_manifest_is_written_once(run):
    before = run.manifest.read_bytes()
    start_manifest(run, FACTS)
    assert run.manifest.read_bytes() == before


@pytest.mark.parametrize("compare", [check_manifest, start_manifest])
def test_a_fact_that_has_changed_is_named_with_expected_and_found(run, compare):
    message = "n_sources of .*run has changed: the run was made with 3, now there is 4"
    with pytest.raises(BadInput, match=message):
        compare(run, {**FACTS, "n_sources": 4})


def test_a_stage_is_recorded_with_its_cost_and_facts(run):
    with stage(run, "train") as facts:
        time.sleep(0.02)
        facts["n_members"] = 4
    with stage(run, "generate demo"):
        pass
    stages = read_json(run.manifest)["stages"]
    assert list(stages) == ["train", "generate demo"]
    train = stages["train"]
    assert 0.02 <= train["seconds"] < 60
    # More than an interpreter with numpy, less than this machine could hold.
    assert 2**24 < train["peak_memory_bytes"] < 2**40
    assert train["n_members"] == 4
    assert train["commit"] == environment.commit()
    assert re.fullmatch(r"\d{4}(-\d\d){2}T(\d\d:){2}\d\d\+00:00", train["done"])


def test_the_peak_of_memory_is_that_of_the_process_not_of_its_parent():
    held = np.ones(2**27, np.uint8)
    command = "from ensemble.system import environment; print(environment.peak_memory_bytes())"
    said = subprocess.run([sys.executable, "-c", command], capture_output=True)
    assert held.nbytes < environment.peak_memory_bytes()
    assert 2**23 < int(said.stdout) < environment.peak_memory_bytes() - held.nbytes // 2


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux forgets a peak"
)
def test_a_stages_peak_is_its_own_and_the_process_remembers_all(run):
    held = np.ones(2**28, np.uint8)
    del held
    before = environment.peak_memory_bytes()
    with stage(run, "small"):
        pass
    with stage(run, "large"):
        assert np.ones(2**27, np.uint8).any()
    stages = read_json(run.manifest)["stages"]
    small, large = (stages[name]["peak_memory_bytes"] for name in ("small", "large"))
    assert small + 2**26 < large
    assert small + 2**27 < environment.peak_memory_bytes()
    assert environment.peak_memory_bytes() >= before


def test_a_stage_that_failed_is_not_recorded(run):
    with pytest.raises(RuntimeError), stage(run, "train"):
        raise RuntimeError
    assert read_json(run.manifest)["stages"] == {}


def test_without_git_there_is_no_commit(monkeypatch):
    assert re.fullmatch("[0-9a-f]{40}", environment.commit() or "0" * 40)
    monkeypatch.setenv("PATH", "")
    assert environment.commit() is None


def test_text_that_is_no_unicode_is_written_as_escapes(tmp_path):
    write_text(tmp_path / "a.txt", "caf\udce9 café\n")
    assert (tmp_path / "a.txt").read_text("utf-8") == "caf\\udce9 café\n"


def test_names_become_file_names_that_stay_different():
    assert file_name("denoising_loss") == "denoising_loss"
    names = [
        "a:b/c",
        "a-b-c",
        "a/b:c",
        "../up",
        "similarity:" + "x" * 300,
        "ä",
        "\udce4",
    ]
    found = [file_name(name) for name in names]
    assert len(set(found)) == len(names)
    for one in found:
        assert set(one) <= set(string.ascii_letters + string.digits + "_.-")
        assert len(one) < 120
    assert found[0].startswith("a-b-c-")


def denied(*_, **__):
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def whole_files(tmp_path):
    write_json(tmp_path / "a.json", {})
    write_array(tmp_path / "a.npy", np.ones((3, 2), bool))
    return tmp_path


READERS = [
    (read_json, "a.json"),
    (read_array, "a.npy"),
    (read_codes, "a.npy"),
    (lambda path: check_file(path, ""), "a.npy"),
    (sha256, "a.npy"),
]


@pytest.mark.parametrize(("read", "name"), READERS)
def test_what_may_not_be_read_is_not_called_damaged(
    whole_files, monkeypatch, read, name
):
    monkeypatch.setattr(Path, "read_bytes", denied)
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(
        BadInput, match=r"Cannot read .*: Permission denied\. The"
    ) as said:
        read(whole_files / name)
    assert "elete" not in str(said.value)


@pytest.mark.parametrize(("read", "name"), READERS)
def test_a_folder_in_the_place_of_a_file_is_named(whole_files, read, name):
    (whole_files / name).unlink()
    (whole_files / name).mkdir()
    with pytest.raises(BadInput, match=f"{name} is a folder, where a file is wanted"):
        read(whole_files / name)


def test_a_folder_in_the_place_of_the_config_of_a_run_is_named(config):
    run = create(config)
    write_json(run.manifest, {})
    (run.path / "config.yaml").unlink()
    with pytest.raises(BadInput, match=r"config\.yaml is missing"):
        sha256(run.path / "config.yaml")
    (run.path / "config.yaml").mkdir()
    with pytest.raises(BadInput, match=r"config\.yaml is a folder, where a file"):
        open_run(run.path)


def test_what_the_memory_does_not_hold_is_not_called_damaged(whole_files, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    path = whole_files / "a.npy"
    monkeypatch.setattr(np.lib.format, "read_array", full)
    with pytest.raises(
        BadInput, match=r"not enough memory to read .*a\.npy\. It may be"
    ):
        read_array(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"a\.npy is not a readable array"):
        read_array(path)
    monkeypatch.setattr(json, "loads", full)
    with pytest.raises(BadInput, match=r"not enough memory to read .*a\.json"):
        read_json(whole_files / "a.json")


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = f".a.json.{platform.node()}.{{}}.part"
    (tmp_path / "deep").mkdir()
    for folder in (tmp_path, tmp_path / "deep"):
        for name in (here.format(ended.pid), here.format(os.getpid())):
            (folder / name).write_text("")
    kept = [
        *(here.format(os.getpid()), f"deep/{here.format(os.getpid())}"),
        *(f".a.json.elsewhere.{ended.pid}.part", "a.part", ".a.json.lock"),
    ]
    for name in kept:
        (tmp_path / name).write_text("")
    remove_abandoned(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(tmp_path)) for path in files) == sorted(kept)
