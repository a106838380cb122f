"""A plan follows from its config, is drawn once, and from then on is only checked."""

import dataclasses
import functools
import unicodedata

import numpy as np
import pytest
from PIL import Image

from ensemble.ablation import removal_sets
from ensemble.data import datasets
from ensemble.data.inventory import FIRST_RULES, RULES
from ensemble.provenance import drawing, plans
from ensemble.run import config_file, files, manifest
from ensemble.run.folder import Run, create
from splits import spelling
from splits.designs import placebos
from splits.designs.keyed import named_codes
from splits.errors import BadInput
from tests import tiny


def config(folder, **data):
    return config_file.from_dict(
        {
            "run": str(folder),
            "data": {"n_images": 8, **data},
            "splits": {"n_members": 8},
        }
    )


@pytest.fixture
def run(tmp_path):
    return create(config(tmp_path / "run"))


def same(one, other):
    return (
        plans.facts(one) == plans.facts(other)
        and one.source_names == other.source_names
        and np.array_equal(one.codes.bits, other.codes.bits)
        and np.array_equal(one.source_of, other.source_of)
    )


def test_the_same_config_draws_the_same_plan(run):
    assert same(drawing.draw(run.config), drawing.draw(run.config))


def test_drawing_writes_nothing(run):
    before = sorted(run.path.iterdir())
    drawing.draw(run.config)
    assert sorted(run.path.iterdir()) == before


def test_every_image_is_a_source_unless_a_column_says_otherwise(tmp_path):
    by_image = drawing.draw(config(tmp_path))
    assert np.array_equal(by_image.source_of, np.arange(8))
    by_label = drawing.draw(config(tmp_path, source="label", n_images=30))
    labels = by_label.data.columns["label"]
    assert [by_label.source_names[source] for source in by_label.source_of] == [*labels]
    assert by_label.codes.n_sources == len(set(labels))


def test_sources_of_images_are_called_as_the_images_are_in_old_runs_too(run):
    plan = drawing.prepare(run)
    names = [f"digit {number:04d}" for number in range(8)]
    recorded = files.read_json(run.path / "sources.json")
    assert recorded["names"] == plan.source_names == names
    # Version 0.1 recorded the images' numbers.
    numbers = [str(number) for number in range(8)]
    files.write_json(run.path / "sources.json", {**recorded, "names": numbers})
    assert plans.load(run).source_names == names
    called = plans.source_names(run)
    assert called.of_text(["digit 0005,2"], "--sources") == [2, 5]
    assert called.called(5) == "5 (digit 0005)"


def test_names_are_known_without_reading_an_image(run, monkeypatch):
    drawing.prepare(run)
    monkeypatch.setattr(plans, "read", lambda _: pytest.fail("images were read"))
    assert plans.source_names(run).of_text(["digit 0007"], "--sources") == [7]


def test_another_seed_draws_another_code_book(tmp_path):
    tree = config_file.to_dict(config(tmp_path, n_images=40))
    tree["splits"]["seed"] = 1
    one = drawing.draw(config(tmp_path, n_images=40))
    other = drawing.draw(config_file.from_dict(tree))
    assert one.codes.digest() != other.codes.digest()


def test_a_plan_that_contradicts_itself_is_refused(tmp_path):
    with pytest.raises(BadInput, match="data.source is 'artist', which is no column"):
        drawing.draw(config(tmp_path, source="artist"))


def test_a_prepared_plan_is_read_back_and_never_drawn_again(run, monkeypatch):
    drawn = drawing.prepare(run)
    monkeypatch.delattr(drawing, "draw")
    assert same(drawing.prepare(run), drawn)
    assert same(plans.load(run), drawn)


def test_the_manifest_holds_the_facts_and_the_promises(run):
    plan = drawing.prepare(run)
    manifest = files.read_json(run.manifest)
    facts = plans.facts(plan)
    assert {name: manifest[name] for name in facts} == facts
    assert (facts["n_images"], facts["n_sources"], facts["n_members"]) == (8, 8, 8)
    assert manifest["promises"]["weight_max"] == 4


def test_a_plan_that_was_half_written_is_drawn_again(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "start_manifest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            drawing.prepare(run)
    assert same(drawing.prepare(run), drawing.draw(run.config))


def test_one_flipped_bit_of_the_code_book_is_found(run):
    bits = drawing.prepare(run).codes.bits.copy()
    bits[0] = ~bits[0]
    files.write_array(run.codes, bits)
    with pytest.raises(BadInput, match="code_book_digest of .* has changed"):
        plans.load(run)
    assert np.array_equal(plans.read(run).codes.bits, bits)


def test_an_image_that_changed_its_source_is_found(run):
    source_of = drawing.prepare(run).source_of.copy()
    source_of[[0, 1]] = source_of[[1, 0]]
    files.write_array(run.source_of, source_of)
    with pytest.raises(BadInput, match="source_of_digest of .* has changed"):
        plans.load(run)


def test_training_images_that_changed_are_found(run):
    drawing.prepare(run)
    other = Run(run.path, config(run.path, n_images=9))
    with pytest.raises(BadInput, match="data_fingerprint of .* has changed"):
        drawing.prepare(other)


@pytest.mark.parametrize("name", ["codes.npy", "source_of.npy", "sources.json"])
def test_a_missing_file_of_the_plan_is_named(run, name):
    drawing.prepare(run)
    (run.path / name).unlink()
    with pytest.raises(BadInput, match=f"{name} is missing"):
        drawing.prepare(run)


def test_a_named_code_of_an_image_follows_from_its_name_alone(tmp_path):
    tree = config_file.to_dict(config(tmp_path, n_images=60))
    tree["splits"] |= {"design": "named", "salt": "sea"}
    many = drawing.draw(config_file.from_dict(tree))
    tree["data"]["n_images"] = 40
    few = drawing.draw(config_file.from_dict(tree))
    assert np.array_equal(few.codes.bits, many.codes.bits[:40])
    assert np.array_equal(many.codes.bits, named_codes(many.data.names, 8, 4, "sea"))


def test_products_take_their_owners_from_a_column(tmp_path):
    tree = config_file.to_dict(config(tmp_path, n_images=30, owner="label"))
    tree["splits"] |= {"design": "product", "n_members": 12}
    plan = drawing.draw(config_file.from_dict(tree))
    labels = np.array(plan.data.columns["label"])
    for label in set(labels):
        assert plan.codes.bits[labels == label].any(axis=0).sum() <= 5


def folder_of(tmp_path, artists):
    """An image folder whose metadata name the artists of each random picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["file_name,artist"]
    for index, artist in enumerate(artists):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
        rows.append(f"{index:02d}.png,{artist}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def of_folder(tmp_path, folder, n_members, **data):
    return config_file.from_dict(
        {
            "run": str(tmp_path / "run"),
            "data": {"kind": "folder", "path": str(folder), **data},
            "splits": {"n_members": n_members, "design": "partition"},
        }
    )


def test_an_image_of_several_owners_is_used_only_where_all_of_them_agree(tmp_path):
    artists = ["Eve", "Adam", "Cain", "Abel", "Eve;Adam", "Abel;Cain"]
    settings = of_folder(
        tmp_path, folder_of(tmp_path, artists), 2, source="artist", separator=";"
    )
    run = create(settings)
    plan = drawing.prepare(run)
    assert plan.source_names[0] == "Abel"
    assert plan.owners["Eve"] == [
        source for source, name in enumerate(plan.source_names) if "Eve" in name
    ]
    code = dict(zip(plan.source_names, plan.codes.bits, strict=True))
    for pair in ("Adam; Eve", "Abel; Cain"):
        one, other = pair.split("; ")
        assert np.array_equal(code[pair], code[one] & code[other])
    assert plans.load(run).owners == plan.owners
    found = removal_sets.by_column(plan, "owners")
    assert found.names == [f"owner {name}" for name in plan.owners]
    assert np.array_equal(
        found.silenced, np.stack([code[name] for name in plan.owners])
    )


def test_near_duplicates_are_one_source_and_the_borderline_is_pictured(tmp_path):
    folder = folder_of(tmp_path, "abcdef")
    original = np.asarray(Image.open(folder / "03.png")).astype(int)
    Image.fromarray((original * 0.9).astype(np.uint8)).save(folder / "05.png")
    settings = of_folder(tmp_path, folder, 2, source="near_duplicates", near=0.05)
    run = create(settings)
    plan = drawing.prepare(run)
    assert plan.source_of.tolist() == [0, 1, 2, 3, 4, 3]
    assert plan.source_names == ["00.png", "01.png", "02.png", "03.png", "04.png"]
    with Image.open(run.path / "near_duplicates.png") as picture:
        assert picture.format == "PNG"


def test_a_run_that_lost_its_manifest_is_not_begun_again(tmp_path):
    run, _ = tiny.trained(tmp_path / "run")
    run.manifest.unlink()
    with pytest.raises(BadInput, match=r"manifest\.json is missing"):
        drawing.prepare(run)
    assert not run.manifest.exists()


def test_sources_of_images_that_are_no_whole_numbers_are_refused(run):
    drawing.prepare(run)
    np.save(run.source_of, np.zeros(8))
    with pytest.raises(BadInput, match=r"source_of\.npy is damaged: it holds float64"):
        plans.load(run)


TWO = ["Eve", "Adam", "Eve ", "Adam"]


def test_two_spellings_of_a_source_or_owner_are_refused(tmp_path):
    folder = folder_of(tmp_path, TWO)
    with pytest.raises(BadInput, match="'artist' spells one name in two ways, 'Eve' a"):
        drawing.draw(of_folder(tmp_path, folder, 2, source="artist"))
    settings = of_folder(tmp_path, folder, 4, owner="artist")
    product = dataclasses.replace(settings.splits, design="product")
    with pytest.raises(BadInput, match="'artist' spells one name in two ways, 'Eve' a"):
        drawing.draw(dataclasses.replace(settings, splits=product))


def test_two_spellings_of_an_owner_among_several_are_refused(tmp_path):
    forms = [unicodedata.normalize(form, "Zo\u00eb") for form in ("NFC", "NFD")]
    folder = folder_of(tmp_path, [*forms, "Adam", "Adam;Eve", "Eve", "Cain"])
    settings = of_folder(tmp_path, folder, 2, source="artist", separator=";")
    with pytest.raises(BadInput, match=r"two ways, 'Zoe\\u0308' and 'Zo\\xeb'"):
        drawing.draw(settings)


def test_two_spellings_of_a_label_are_refused_where_members_are_told_labels(tmp_path):
    folder = folder_of(tmp_path, TWO)
    settings = of_folder(tmp_path, folder, 2, label="artist")
    (line,) = datasets.describe(drawing.draw(settings).data)[1:]
    assert line == (
        "  Column 'artist' has 'Eve' and 'Eve ', which look like one name and count as "
        "two (1 such pairs)."
    )
    told = dataclasses.replace(settings.model, class_conditional=True)
    with pytest.raises(BadInput, match="'artist' spells one name in two ways"):
        drawing.draw(dataclasses.replace(settings, model=told))


def test_a_run_of_version_0_1_keeps_its_images_its_sources_and_its_spellings(tmp_path):
    folder = folder_of(tmp_path, TWO)
    # As version 0.1 drew it, which knew of no bitmaps and saw two artists here.
    (folder / "more.bmp").write_bytes(b"damaged")
    run = create(of_folder(tmp_path, folder, 2, source="artist"))
    with pytest.MonkeyPatch.context() as patch:
        first = functools.partial(datasets.load, rules=FIRST_RULES)
        patch.setattr(datasets, "load", first)
        patch.setattr(spelling, "require_one", lambda *_: None)
        drawn = drawing.prepare(run)
    manifest = files.read_json(run.manifest)
    assert manifest.pop("reading_rules") == FIRST_RULES
    assert manifest.pop("found")[:2] == [
        "4 images; 1 file not read:",
        "  1 of format .bmp: more.bmp",
    ]
    files.write_json(run.manifest, manifest)
    assert same(drawing.prepare(run), drawn)
    assert plans.load(run).source_names == ["Adam", "Eve", "Eve "]
    groups = removal_sets.by_column(drawn, "artist")
    assert removal_sets.survivors(groups)[-1] == (
        "'artist Eve' and 'artist Eve ' look like one name; each is removed alone."
    )


def test_a_run_says_by_which_rules_it_reads_and_what_it_found(tmp_path):
    folder = folder_of(tmp_path, "ab")
    (folder / "notes.txt").write_text("")
    run = create(of_folder(tmp_path, folder, 2))
    drawing.prepare(run)
    manifest = files.read_json(run.manifest)
    assert manifest["reading_rules"] == RULES
    assert manifest["found"] == [
        "2 images; 1 file not read:",
        "  1 of format .txt: notes.txt",
    ]


def test_a_code_book_that_would_be_drawn_otherwise_today_stays(tmp_path, monkeypatch):
    """What version 0.1 drew for few sources, though some pair is nearly complements."""
    few = config_file.from_dict(
        {"run": str(tmp_path), "data": {"n_images": 4}, "splits": {"n_members": 16}}
    )
    run = create(few)
    with monkeypatch.context() as patch:
        patch.setattr(placebos, "draw_separable", lambda drawn: drawn())
        before = drawing.prepare(run)
    assert placebos.inseparable(before.codes.bits)
    assert not placebos.inseparable(drawing.draw(few).codes.bits)
    assert drawing.prepare(run).codes.digest() == before.codes.digest()
    assert same(plans.load(run), before)
