"""A table is known by what it is of, never by a name that something else may have too."""

import numpy as np
import pytest

from ensemble.report import findings
from ensemble.run import files, records, table_records
from ensemble.run.table_records import Kind
from splits.errors import BadInput
from tests import finished

KINDS = [
    Kind("exact"),
    Kind("differential"),
    Kind("exact", groups="0123456789abcdef"),
    Kind("differential", groups="0123456789abcdef"),
    Kind("adjoint", reading="brightness"),
    Kind("adjoint", reading="first-3"),
    Kind("adjoint", groups="0123456789abcdef", reading="brightness"),
    Kind("loss"),
    Kind("loss", n_first=16),
]


@pytest.fixture
def run(tmp_path):
    data = finished.images()
    return finished.asked(finished.trained(tmp_path / "run", data), data)


def found(run, name="demo"):
    return {kind: path for path, kind in table_records.tables(run, name)}


def table(run, path, **info):
    kept = "influence_denoising_loss" if "n_members" in info else "displacement"
    files.write_array(path / f"{kept}.npy", np.zeros(3))
    records.write_done_mark(path, "info.json", info)


def test_no_choice_of_names_gives_two_tables_one_folder(run):
    names = ["demo", "demo-differential", "exact", "demo-0123456789abcdef"]
    folders = {
        table_records.folder_of(run, name, kind) for name in names for kind in KINDS
    }
    assert len(folders) == len(names) * len(KINDS)
    # None lies in another one, where it would be deleted with it.
    assert not any(one in other.parents for one in folders for other in folders)


def test_every_table_is_found_where_it_was_written(run):
    for kind in KINDS:
        table(run, table_records.folder_of(run, "demo", kind), method=kind.method)
    assert set(found(run)) == set(KINDS)
    assert not found(run, "demo-differential")


def test_what_is_in_the_making_is_no_table(run):
    for name in ("exact.part", "exact.work", ".exact.lock", "notes"):
        table(run, run.influence("demo") / name, method="exact")
    assert not found(run)


@pytest.mark.parametrize(
    ("folder", "info", "whose", "kind"),
    [
        ("demo", {"method": "exact", "units": "sources"}, "demo", Kind("exact")),
        (
            "demo-differential",
            {"method": "differential", "units": "sources"},
            "demo",
            Kind("differential"),
        ),
        (
            "demo-differential",
            {"method": "exact", "units": "sources"},
            "demo-differential",
            Kind("exact"),
        ),
        (
            "demo-0123abcd",
            {"method": "exact", "units": "groups"},
            "demo",
            Kind("exact", groups="0123abcd"),
        ),
        (
            "demo-0123abcd",
            {"method": "exact", "units": "sources"},
            "demo-0123abcd",
            Kind("exact"),
        ),
        (
            "demo-adjoint.brightness",
            {"method": "adjoint"},
            "demo",
            Kind("adjoint", reading="brightness"),
        ),
        (
            "demo-first-3",
            {"method": "exact", "units": "sources", "n_members": 3},
            "demo",
            Kind("loss", n_first=3),
        ),
        (
            "demo-first-3",
            {"method": "exact", "units": "sources", "n_members": 6},
            "demo-first-3",
            Kind("loss"),
        ),
    ],
)
def test_what_version_0_1_left_is_told_apart_by_what_it_is(
    run, folder, info, whose, kind
):
    path = run.influence(folder)
    table(run, path, **info)
    assert found(run, whose) == {kind: path}
    assert table_records.old_folder_of(run, whose, kind) == path
    other = folder if whose == "demo" else "demo"
    if other != whose:
        assert not found(run, other)


def test_a_table_of_now_stands_before_one_of_version_0_1(run):
    finished.ablated(run, "demo")
    assert found(run) == {Kind("exact"): run.influence("demo")}
    finished.ablated(run, "exact")
    assert found(run) == {Kind("exact"): run.influence("demo") / "exact"}


def test_groups_of_both_versions_are_one_table(run):
    groups = {"a": [0, 1]}
    finished.ablated(run, "demo-0123abcd", groups, n_top=1)
    finished.ablated(run, "exact-0123456789abcdef", groups, n_top=1)
    (path,) = found(run).values()
    assert path.name == "exact-0123456789abcdef"


def test_a_table_without_its_record_is_missed(run):
    finished.ablated(run, "exact")
    (run.influence("demo") / "exact" / "info.json").unlink()
    with pytest.raises(BadInput, match=r"influence/demo/exact/info\.json is missing"):
        findings.saved(run, "demo")


def test_a_table_of_queries_that_are_gone_is_not_reported(run):
    finished.ablated(run, "exact", **table_records.read_query_facts(run, "demo"))
    assert len(findings.saved(run, "demo")) == 1
    finished.ablated(run, "exact", query_seeds=[7, 8, 9])
    with pytest.raises(BadInput, match="another query_seeds") as told:
        findings.saved(run, "demo")
    for side in ("[7, 8, 9]", "[40, 41, 42]", "Delete", "demo/exact"):
        assert side in str(told.value)


@pytest.mark.parametrize("changed", ["images", "seeds", "conditions"])
def test_queries_are_known_by_pictures_seeds_and_conditions(changed):
    given = {
        "images": np.zeros((2, 1, 8, 8), np.float32),
        "seeds": np.array([0, 1]),
        "conditions": np.array([1, 0]),
    }
    facts = table_records.query_facts(**given)
    assert table_records.query_facts(**given) == facts
    other = table_records.query_facts(**{**given, changed: given[changed] + 1})
    assert table_records.first_difference(facts, other)
    alone = table_records.query_facts(given["images"], given["seeds"], None)
    assert table_records.first_difference(facts, alone) == "seeds_digest"


def test_only_what_is_on_record_can_differ():
    assert table_records.first_difference({"a": 1}, {"a": 1, "b": 2}) is None
    assert table_records.first_difference({"a": 1, "b": 3}, {"a": 1, "b": 2}) == "b"


def test_an_old_exact_table_tells_whether_it_is_of_these_pictures(run):
    finished.ablated(run, "demo")
    folder = run.influence("demo")
    images = files.read_array(run.queries("demo") / "images.npy")
    assert table_records.matches_images(folder, images, exact=True)
    assert not table_records.matches_images(folder, images[::-1], exact=True)
    assert table_records.matches_images(folder, images[::-1], exact=False)
    assert not table_records.matches_images(folder, images[:2], exact=False)


def test_what_was_made_of_queries_is_listed(run):
    assert table_records.results_on(run, "demo") == []
    finished.ablated(run, "demo-differential")
    finished.ablated(run, "exact")
    files.write_json(run.scores("demo") / "trak.json", {})
    assert table_records.results_on(run, "demo") == [
        run.influence("demo"),
        run.influence("demo-differential"),
        run.scores("demo"),
    ]
