"""Sources whose labels decide how many classes there are are found, by name."""

import numpy as np
import pytest

from ensemble.cli import train
from ensemble.data.datasets import TrainingImages
from ensemble.provenance import classes
from ensemble.provenance.plans import Plan
from ensemble.run import config_file
from splits.codes import CodeBook
from tests import tiny


def plan(labels, source_of=None, removed=(), names=("ape", "bee", "cat", "dog")):
    """Images with these labels; every image is a source unless somebody says."""
    numbers = np.array(labels) if labels is not None else None
    n_images = 6 if labels is None else len(labels)
    source_of = np.arange(n_images) if source_of is None else np.array(source_of)
    data = TrainingImages(
        images=np.zeros((n_images, 1, 2, 2), np.float32),
        labels=numbers,
        label_names=() if labels is None else names,
        columns={},
        names=tuple(f"{image}.png" for image in range(n_images)),
    )
    n_sources = int(source_of.max()) + 1
    called = [f"artist {source}" for source in range(n_sources)]
    codes = CodeBook(np.ones((n_sources, 2), bool))
    return Plan(data, source_of, called, codes, removed=list(removed))


def test_a_label_that_one_source_has_is_its_alone():
    drawn = plan([0, 1, 0, 2, 3, 3])
    assert classes.by_single_source(drawn) == {1: ["bee"], 3: ["cat"]}
    assert classes.only_of(drawn, [1, 3]) == ["bee", "cat"]
    assert classes.only_of(drawn, [0]) == []


def test_sources_together_can_have_a_label_alone():
    drawn = plan([0, 1, 0, 2, 3, 3], source_of=[0, 0, 1, 2, 2, 1])
    assert classes.only_of(drawn, [1]) == []
    assert classes.only_of(drawn, [1, 2]) == ["cat", "dog"]
    assert classes.by_single_source(drawn) == {0: ["bee"], 2: ["cat"]}


def test_removed_sources_have_no_labels():
    """Their images are blank, and stand under the first label."""
    drawn = plan([0, 1, 0, 1], removed=[2, 3])
    assert classes.by_single_source(drawn) == {0: ["ape"], 1: ["bee"]}
    assert classes.only_of(drawn, [2]) == []
    assert classes.of_nobody(drawn) == ["cat", "dog"]


def test_without_labels_nobody_has_one():
    drawn = plan(None)
    assert classes.by_single_source(drawn) == {}
    assert classes.only_of(drawn, [0]) == []
    assert classes.of_nobody(drawn) == []


def config(tmp_path, declared=None, conditional=True):
    model = {"class_conditional": conditional}
    return tiny.config(tmp_path / "run", model=model, data={"classes": declared})


def test_the_plan_warns_of_sources_whose_removal_changes_the_classes(tmp_path):
    drawn = plan([0, 1, 0, 2])
    (line,) = classes.warnings(config(tmp_path), drawn)
    assert "source 1 (artist 1) alone has 'bee'; source 3 (artist 3) alone" in line
    assert "Name all classes in data.classes before you train" in line
    assert list(classes.warnings(config(tmp_path), plan([0, 1, 1, 0]))) == []


@pytest.mark.parametrize(("declared", "conditional"), [(10, True), (None, False)])
def test_what_no_source_can_change_is_no_warning(tmp_path, declared, conditional):
    asked = config(tmp_path, declared, conditional)
    assert list(classes.warnings(asked, plan([0, 1, 0, 2]))) == []


def test_many_sources_are_counted():
    drawn = plan(list(range(8)), names=tuple("abcdefgh"))
    line = classes.named(drawn, classes.by_single_source(drawn))
    assert line.count("alone has") == classes.MOST_NAMED
    assert line.endswith("; and 3 more sources")


def test_the_command_prints_the_warning(tmp_path, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(config_file.to_yaml(config(tmp_path)))
    assert train.main([str(path), "--plan"]) == 0
    assert "Warning: data.classes is null" in capsys.readouterr().out
    assert train.main([str(path), "data.classes=10", "--plan"]) == 0
    assert "Warning" not in capsys.readouterr().out
