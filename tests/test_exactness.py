"""Members that never saw a source are the same, bit by bit, whatever the source was.

Train with source X; with noise in the place of its pictures; without it. Where the
design promises it, surviving members have the same weights. Where it does not, the
certificate says so.
"""

import numpy as np
import pytest
import yaml
from PIL import Image

from ensemble.certificate import certificate
from ensemble.cli import attribute
from ensemble.provenance import drawing, plans
from ensemble.report import verification
from ensemble.run import config_file, files
from ensemble.run.folder import WEIGHTS, codes_of, create, open_run
from ensemble.sampling import completion
from ensemble.training.members import train_members
from ensemble.training.process import Stopping
from splits.designs.registry import DESIGNS
from splits.errors import BadInput
from tests import teams, tiny

N_IMAGES = 8
# The image that is X's; its artist has another picture, and so have all others.
X = 2
ARTISTS = ("Ann", "Bob", "Cay", "Dee")
LABELS = ("cat", "dog")


def pictures(rng):
    return rng.integers(0, 256, (N_IMAGES, 8, 8), dtype=np.uint8)


def write(folder, noise=(), left_out=(), label=None, artist=None, copies=()):
    """A folder of images, with two pictures by each of four artists.

    Args:
        folder: Where to.
        noise: Images in whose places there is noise.
        left_out: Images that are not there.
        label: Labels that are not alternately `cat` and `dog`, by image.
        artist: What artists are called otherwise, by name.
        copies: Pairs of images of which the second is the first.
    """
    folder.mkdir(parents=True)
    shown, others = (
        pictures(np.random.default_rng(0)),
        pictures(np.random.default_rng(1)),
    )
    shown[list(noise)] = others[list(noise)]
    for one, other in copies:
        shown[other] = shown[one]
    lines = ["file_name,artist,owners,label"]
    for image in range(N_IMAGES):
        if image in left_out:
            continue
        Image.fromarray(shown[image]).save(folder / f"{image}.png")
        own = ARTISTS[image // 2]
        both = f"{own};{ARTISTS[(image // 2 + 1) % 4]}" if image % 2 else own
        called = (artist or {}).get(own, own)
        told = (label or {}).get(image, LABELS[image % 2])
        lines.append(f"{image}.png,{called},{both},{told}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def settings(folder, run, **changes):
    """A config of the images in a folder."""
    data = {"kind": "folder", "path": str(folder), "n_images": None}
    return tiny.config(
        run,
        **{**changes, "data": {**data, **changes.get("data", {})}},
    )


def made(config, members=None):
    """The run of a config with some of its members trained, or all."""
    run = create(config)
    ready = drawing.prepare(run)
    chosen = range(ready.codes.n_members) if members is None else members
    assert not train_members(run, list(chosen), ready, Stopping())
    if members is None:
        completion.complete(run)
    return run


def weights(run, members):
    return [files.sha256(run.member(member) / WEIGHTS) for member in members]


def sources_of(run, images=(X,)):
    """The sources of some images."""
    return sorted({int(plans.read(run).source_of[image]) for image in images})


def survivors(run, sources):
    """Members that never saw these sources."""
    saw = codes_of(run.path).bits[list(sources)].any(axis=0)
    return np.flatnonzero(~saw).tolist()


# A salt whose codes leave no member without a source, with X and without.
NAMED = {"design": "named", "salt": "sea 3", "weight": 2}
CONDITIONAL = {
    "model": {"class_conditional": True},
    "data": {"classes": ["cat", "dog"]},
}
BY_ARTIST = {"data": {"source": "artist"}}
OPTIONS = {
    "plain": {},
    "flip": {"training": {"flip": True}},
    "moving average": {"training": {"ema_decay": 0.9}},
    "own noise": {"training": {"shared_noise": False}},
    "network dropout": {"model": {"dropout": 0.3}},
    "slices": {"training": {"slices": 3}},
    "stream": {"data": {"stream": True}},
    "labels": CONDITIONAL,
    "hidden labels": {**CONDITIONAL, "training": {"label_dropout": 0.5}},
    "labels that others have too": {"model": {"class_conditional": True}},
    "velocity": {"model": {"prediction_type": "v_prediction"}},
    "bfloat16": {"training": {"mixed_precision": "bf16"}},
    "kept on the way": {"training": {"keep_every_steps": 2}},
    "artists": BY_ARTIST,
    "artists in slices": {**BY_ARTIST, "training": {"slices": 2}},
    "several owners": {"data": {"source": "owners", "separator": ";"}},
    "near-duplicates": {"data": {"source": "near_duplicates"}},
}


def with_design(changes, design=None):
    """The same with codes by name, or by a design."""
    splits = NAMED if design is None else {"design": design, "weight": None}
    return {**changes, "splits": {"n_members": 4, **splits}}


@pytest.mark.parametrize("name", OPTIONS)
def test_noise_in_the_place_of_a_source_and_nothing_leave_survivors_the_same(
    tmp_path, name
):
    """With codes that follow from names, also nothing in its place."""
    changes = with_design(OPTIONS[name])
    whole = made(settings(write(tmp_path / "whole"), tmp_path / "a", **changes))
    sources = sources_of(whole)
    theirs = np.flatnonzero(np.isin(plans.read(whole).source_of, sources)).tolist()
    left = survivors(whole, sources)
    assert left, "a test without survivors cannot fail"
    noise = write(tmp_path / "noise", noise=theirs)
    nothing = write(tmp_path / "nothing", left_out=theirs)
    for number, folder in enumerate((noise, nothing)):
        other = made(settings(folder, tmp_path / f"other{number}", **changes), left)
        assert weights(other, left) == weights(whole, left), folder.name
    found = certificate.check(whole, sources)
    assert found.violations == []
    assert "from no other source" in found.statement()


def test_what_a_source_shows_is_in_the_members_that_saw_it(tmp_path):
    """Otherwise the test above could not fail."""
    changes = with_design({})
    whole = made(settings(write(tmp_path / "whole"), tmp_path / "a", **changes))
    saw = np.setdiff1d(np.arange(4), survivors(whole, [X])).tolist()
    noise = write(tmp_path / "noise", noise=[X])
    other = made(settings(noise, tmp_path / "b", **changes), saw)
    assert not set(weights(other, saw)) & set(weights(whole, saw))


BY_NUMBER = [name for name in DESIGNS if "names" not in DESIGNS[name].facts]
DESIGN_CHANGES = {
    "numbered": {"n_members": 6, "weight": 3, "salt": "sea"},
    "leave_one_out": {"n_members": 8},
    "reed_solomon": {"n_members": 6},
    "hybrid": {"n_members": 8, "removable": 2},
    "sparse": {"n_members": 8, "removable": 2},
    "pairs_safe": {"n_members": 8},
    "hadamard": {"n_members": 16},
    "balanced": {"n_members": 6},
    "product": {"n_members": 7},
}


@pytest.mark.parametrize("design", BY_NUMBER)
def test_codes_by_number_do_not_depend_on_what_sources_show(tmp_path, design):
    """What nobody promises is that they are those of data without a source."""
    splits = {"n_members": 4, "design": design, "weight": None}
    data = {"owner": "artist"} if design == "product" else {}
    changes = {"splits": splits | DESIGN_CHANGES.get(design, {}), "data": data}
    whole = settings(write(tmp_path / "whole"), tmp_path / "a", **changes)
    noise = settings(write(tmp_path / "noise", noise=[X]), tmp_path / "b", **changes)
    bits = drawing.draw(whole).codes.bits
    assert np.array_equal(drawing.draw(noise).codes.bits, bits)
    left = np.flatnonzero(~bits[X])[:1].tolist()
    first, other = made(whole, left), made(noise, left)
    assert weights(other, left) == weights(first, left)
    lines = [found.line for found in certificate.check(first).findings]
    (line,) = [one for one in lines if "drawn again, the code book is the same" in one]
    assert "would have left others with other codes" in line


def test_a_label_that_a_source_alone_has_is_in_every_member(tmp_path):
    """Unless the config says which classes there are."""
    alone = {X: "eel"}
    folder = write(tmp_path / "whole", label=alone)
    others = {
        "nothing": write(tmp_path / "nothing", left_out=[X]),
        "noise": write(tmp_path / "noise", noise=[X]),
    }
    for classes in (None, ["cat", "dog", "eel"]):
        changes = with_design(
            {"model": {"class_conditional": True}, "data": {"classes": classes}}
        )
        place = tmp_path / str(classes is None)
        run = made(settings(folder, place / "run", **changes))
        left = survivors(run, [X])
        for name, other in others.items():
            trained = made(settings(other, place / name, **changes), left)
            same = weights(trained, left) == weights(run, left)
            assert same == (classes is not None), name
        found = certificate.check(run)
        assert found.holds
        asked = certificate.check(run, [X])
        if classes is None:
            assert X in found.inexact
            assert f"source {X} (" in found.statement()
            (line,) = asked.violations
            assert line.startswith("(b) no other source than source 2 ")
            assert "has the label 'eel'" in line
            assert asked.remedies == [
                "Name all classes in data.classes, and train a new run."
            ]
            assert certificate.check(run, [X + 1]).holds
        else:
            assert found.inexact == {}
            assert asked.holds


def test_sources_that_together_have_a_label_are_asked_about_together(tmp_path):
    folder = write(tmp_path / "photos", label={2: "eel", 3: "eel"})
    conditional = {"model": {"class_conditional": True}}
    run = made(settings(folder, tmp_path / "a", **conditional))
    assert certificate.check(run).holds
    assert certificate.check(run, [2]).holds
    (line,) = certificate.check(run, [2, 3]).violations
    assert "has the label 'eel'" in line


def test_another_name_changes_other_codes_unless_codes_follow_from_names(tmp_path):
    """Names decide the order of sources, and numbers decide codes."""
    ann, zoe = write(tmp_path / "ann"), write(tmp_path / "zoe", artist={"Ann": "Zoe"})
    for design in ("partition", "balanced", "named"):
        changes = with_design(BY_ARTIST, None if design == "named" else design)
        before, after = (
            drawing.draw(settings(folder, tmp_path / "run", **changes))
            for folder in (ann, zoe)
        )
        codes = [
            dict(zip(plan.source_names, plan.codes.bits.tolist(), strict=True))
            for plan in (before, after)
        ]
        same = all(codes[0][name] == codes[1][name] for name in ARTISTS[1:])
        assert same == (design == "named"), design


def test_within_a_run_the_order_of_its_sources_is_on_record(tmp_path):
    """So a run that extends it gives nobody another number, whatever the names are."""
    old = write(tmp_path / "old", left_out=[0, 1])
    first = made(
        settings(
            old,
            tmp_path / "a",
            **BY_ARTIST,
            splits={"n_members": 3},
        )
    )
    new = tmp_path / "new"
    write(new, left_out=range(2, 8))
    tree = config_file.to_dict(first.config) | {"run": str(tmp_path / "b")}
    tree |= {"extends": str(first.path)}
    tree["data"]["path"] = str(new)
    plan = drawing.draw(config_file.from_dict(tree))
    assert plan.source_names == ["Bob", "Cay", "Dee", "Ann"]
    bits = plans.read(first).codes.bits
    assert np.array_equal(plan.codes.bits[:3], bits)


def test_the_next_image_takes_the_place_of_one_that_is_cut_off(tmp_path):
    """`data.n_images` is said to be no promise about data without a source."""
    changes = with_design({"data": {"n_images": 7}})
    run = made(settings(write(tmp_path / "whole"), tmp_path / "a", **changes))
    assert "not one in which the next images took their places" in (
        certificate.check(run).statement()
    )
    less = write(tmp_path / "less", left_out=[X])
    other = settings(less, tmp_path / "b", **changes)
    assert "7.png" in drawing.draw(other).data.names
    assert "7.png" not in plans.read(run).data.names


def test_one_image_of_a_cluster_is_no_source(tmp_path):
    """Noise in its place makes another source of it, which the certificate says."""
    data = {"data": {"source": "near_duplicates"}}
    changes = with_design(data, "partition")
    folder = write(tmp_path / "whole", copies=[(2, 5)])
    run = made(settings(folder, tmp_path / "a", **changes))
    noise = write(tmp_path / "noise", copies=[(2, 5)], noise=[])
    Image.fromarray(pictures(np.random.default_rng(2))[5]).save(noise / "5.png")
    other = drawing.draw(settings(noise, tmp_path / "b", **changes))
    assert other.codes.n_sources == 1 + plans.read(run).codes.n_sources
    text = certificate.check(run).statement()
    assert "(c) holds for whole sources: 2 of 8 images share theirs" in text
    assert "how many clusters there are" in text


def test_a_picture_that_two_sources_have_is_exact_only_for_both(tmp_path):
    folder = write(tmp_path / "photos", copies=[(2, 5)])
    run = made(
        settings(
            folder,
            tmp_path / "a",
            splits={"n_members": 8, "design": "leave_one_out", "weight": None},
        )
    )
    found = certificate.check(run)
    (line,) = found.violations
    assert "images 2 (2.png) and 5 (5.png) are identical" in line
    assert found.inexact.keys() >= {2, 5}
    (remedy,) = found.remedies
    assert "data.source=near_duplicates" in remedy
    assert "all of them (sources 2,5)" in remedy
    assert certificate.check(run, [2]).violations == [line]
    assert certificate.check(run, [3]).holds
    assert "are identical but belong" in certificate.check(run, [3]).statement()


def extension_of(first, folder, run, n_members=4):
    """The config of a run that adds the images of a folder to another."""
    tree = config_file.to_dict(first.config) | {"run": str(run)}
    tree |= {"extends": str(first.path)}
    tree["data"]["path"] = str(folder)
    tree["splits"]["n_members"] = n_members
    return config_file.from_dict(tree)


@pytest.mark.parametrize("n_members", [4, 8])
@pytest.mark.parametrize("is_old", [True, False])
def test_members_of_an_extension_do_not_depend_on_sources_that_they_never_saw(
    tmp_path, n_members, is_old
):
    """Whether the source was there before, or came with the extension."""
    x = X if is_old else 6
    changes = with_design({})
    found = []
    for noise in ([], [x]):
        place = tmp_path / f"noise{len(noise)}"
        old = write(place / "old", noise=noise, left_out=range(5, 8))
        new = write(place / "new", noise=noise, left_out=range(5))
        first = made(settings(old, place / "a", **changes))
        run = create(extension_of(first, new, place / "b", n_members))
        bits = drawing.prepare(run).codes.bits
        left = np.flatnonzero(~bits[x]).tolist()
        assert left
        made(run.config)
        found.append((left, weights(run, left)))
        assert certificate.check(run, [x]).violations == []
    assert found[0] == found[1]


@pytest.mark.slow
def test_teams_of_processes_do_not_mix_their_members(tmp_path):
    training_of = {"processes_per_member": 2, "processes": 2, "batch_size": 4}
    changes = with_design({"training": training_of})
    found = []
    for noise in ([], [X]):
        place = tmp_path / f"noise{len(noise)}"
        config = settings(
            write(place / "photos", noise=noise), place / "run", **changes
        )
        path = place / "config.yaml"
        path.write_text(yaml.safe_dump(config_file.to_dict(config)))
        codes = teams.train(place, [str(path)])
        assert [code for code, _ in codes] == [0, 0], codes
        run = open_run(place / "run")
        found.append(weights(run, survivors(run, [X])))
        assert certificate.check(run, [X]).violations == []
    assert found[0]
    assert found[0] == found[1]


def test_copies_in_two_sources_do_not_stop_the_report(tmp_path, capsys):
    """The default command says so at its end, and the report on its first screen."""
    splits = {"n_members": 8, "design": "leave_one_out", "weight": None}
    folder = write(tmp_path / "photos", copies=[(2, 5)])
    run = made(settings(folder, tmp_path / "run", splits=splits))
    with pytest.raises(BadInput, match="images 2 .* are identical but belong"):
        attribute.main([str(run.path)])
    capsys.readouterr()
    assert "does not hold" in (run.path / "report.html").read_text()
    record = run.member(0) / "member.json"
    record.unlink()
    (run.path / "report.html").unlink()
    with pytest.raises(BadInput):
        attribute.main([str(run.path)])
    assert not (run.path / "report.html").exists()


def test_verify_speaks_of_the_sources_that_it_is_asked_about(tmp_path, capsys):
    folder = write(tmp_path / "photos", label={2: "eel"})
    conditional = {"model": {"class_conditional": True}}
    run = made(settings(folder, tmp_path / "a", **conditional))
    assert attribute.main([str(run.path), "verify", "--sources", "3,4"]) == 0
    said = capsys.readouterr().out
    assert "holds for the ablation of sources 3 (3.png), 4 (4.png)" in said
    assert "every label of these sources belongs to others too" in said
    assert verification.read(run).state == "unchecked"
    with pytest.raises(BadInput, match="does not hold for source 2 .*\n.*label 'eel'"):
        attribute.main([str(run.path), "verify", "--sources", "2"])
    assert "does not hold for the ablation of source 2" in capsys.readouterr().out
    assert attribute.main([str(run.path), "verify"]) == 0
    proof = verification.read(run)
    assert proof.state == "holds"
    assert proof.against([2])
    assert not proof.against([3])
