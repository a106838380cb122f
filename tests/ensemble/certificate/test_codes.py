"""What codes follow from is found out by drawing them again."""

import dataclasses

import numpy as np
import pytest

from ensemble.certificate import codes
from ensemble.certificate.subject import Subject
from ensemble.provenance import drawing, plans, removal
from ensemble.run import config_file, files
from ensemble.run.folder import Run, create
from splits.codes import CodeBook
from tests import tiny
from tests.test_exactness import NAMED, settings, write


def planned(config):
    """A run with a plan and no members."""
    run = create(config)
    drawing.prepare(run)
    return run


def subject(run, config=None, drawn=None):
    plan = plans.read(run)
    return Subject(
        run=Run(run.path, config or run.config),
        manifest=files.read_json(run.manifest),
        plan=plan,
        drawn=plan.codes.bits if drawn is None else drawn,
        voting=[],
        silenced=[],
    )


def test_a_code_by_name_that_is_not_that_names_is_found(tmp_path):
    run = planned(tiny.config(tmp_path / "run", splits=NAMED))
    (found,) = codes.code_book(subject(run))
    assert found.holds
    assert "from the salt and the source's own name, and from no other" in found.line
    other = plans.read(run).codes.bits.copy()
    other[3] = ~other[3]
    (found,) = codes.code_book(subject(run, drawn=other))
    assert found.holds is False
    assert "the codes of 1 sources, the first 3 " in found.line


def test_a_code_book_that_is_drawn_otherwise_now_is_not_confirmed(tmp_path):
    """A later version may draw another one; the run keeps its own."""
    run = planned(tiny.config(tmp_path / "run"))
    (found,) = codes.code_book(subject(run))
    assert found.holds
    assert (
        "it follows from splits.seed, and from how many sources there are" in found.line
    )
    other = plans.read(run).codes.bits[::-1]
    (found,) = codes.code_book(subject(run, drawn=other))
    assert found.holds is None
    assert "Not confirmed" in found.line
    splits = dataclasses.replace(run.config.splits, n_members=9)
    config = dataclasses.replace(run.config, splits=splits)
    (found,) = codes.code_book(subject(run, config))
    assert found.holds is None
    assert "Not drawn again: the code book (8 sources cannot be dealt" in found.line


@pytest.mark.parametrize(
    "data",
    [
        {"source": "artist"},
        {"source": "owners", "separator": ";"},
        {"source": "near_duplicates"},
    ],
)
def test_every_way_to_group_images_is_drawn_again(tmp_path, data):
    folder = write(tmp_path / "photos")
    for design in ({"splits": NAMED}, {}):
        place = tmp_path / str(len(design))
        run = planned(settings(folder, place, data=data, **design))
        (found,) = codes.code_book(subject(run))
        assert found.holds, found.line


def test_whose_removed_images_were_is_not_known_any_more(tmp_path):
    folder = write(tmp_path / "photos")
    splits = {"design": "product", "n_members": 6, "weight": None}
    config = settings(folder, tmp_path / "run", splits=splits, data={"owner": "artist"})
    run = planned(config)
    (found,) = codes.code_book(subject(run))
    assert found.holds
    removal.request(run, [0], "asked", force=True)
    (found,) = codes.code_book(subject(run))
    assert found.holds is None
    assert "Not drawn again" in found.line


def test_removed_sources_keep_their_codes(tmp_path):
    run = planned(tiny.config(tmp_path / "run", splits=NAMED))
    removal.request(run, [0], "asked", force=True)
    (found,) = codes.code_book(subject(run))
    assert found.holds


def test_codes_of_an_extension_are_not_drawn_again(tmp_path):
    run = planned(tiny.config(tmp_path / "run"))
    tree = config_file.to_dict(run.config) | {"run": "x", "extends": str(run.path)}
    (found,) = codes.code_book(subject(run, config_file.from_dict(tree)))
    assert found.holds is None
    assert "the codes of a run that extends another" in found.line


def test_clusters_weaken_what_codes_follow_from(tmp_path):
    folder = write(tmp_path / "photos", copies=[(2, 5)])
    data = {"source": "near_duplicates"}
    for splits, follows in ((NAMED, False), ({}, True)):
        run = planned(
            settings(folder, tmp_path / str(follows), data=data, splits=splits)
        )
        (found,) = codes.clusters(subject(run))
        assert found.holds is None
        assert "2 of 8 images share theirs" in found.line
        assert ("how many clusters there are" in found.line) == follows


def test_codes_again_are_those_of_the_plan(tmp_path):
    run = planned(tiny.config(tmp_path / "run"))
    plan = plans.read(run)
    again = drawing.codes_again(run.config, plan)
    assert isinstance(again, CodeBook)
    assert np.array_equal(again.bits, plan.codes.bits)
