"""`attribute.py RUN evaluate`, as people run it."""

import pytest

from ensemble.cli import attribute, attribute_options
from ensemble.evaluation import EVALUATIONS, options
from ensemble.evaluation.options import Options
from ensemble.run import files
from ensemble.sampling import queries
from ensemble.scorers import runner
from splits.errors import BadInput
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run, plan = tiny.trained(
        tmp_path_factory.mktemp("command") / "run",
        data={"n_images": 6},
        splits={"design": "balanced", "n_members": 4, "weight": 2},
    )
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "demo", [0, 1])
    runner.score(run, pipe, plan, "demo", "pixel_dot")
    return run


def evaluate(run, *flags):
    return attribute.main([str(run.path), "evaluate", *flags])


def test_every_evaluation_can_be_asked_for():
    assert list(EVALUATIONS) == attribute_options.EVALUATIONS


def test_the_price_is_told_before_and_the_table_after(run, capsys):
    flags = ["--what", "lds", "--subsets", "8", "--seeds", "2", "--steps", "2"]
    assert evaluate(run, *flags, "--draws", "2") == 0
    told = capsys.readouterr().out
    assert told.startswith("To do: 16 models of subsets x 2 steps = 32 steps")
    assert "control_exact_retraining" in told
    assert "lds-demo.json; beside it a CSV, and lds-demo-methods.svg" in told
    assert (run.path / "evaluation" / "lds-demo-reliability.png").exists()
    assert evaluate(run, *flags, "--draws", "2") == 0
    assert "To do" not in capsys.readouterr().out


def test_without_a_number_of_subsets_all_that_are_measured_count(
    run, capsys, monkeypatch
):
    few = ["--seeds", "2", "--steps", "2", "--draws", "2"]
    assert evaluate(run, "--what", "lds", "--subsets", "9", *few) == 0
    # As if eight were the default, so that nine are more.
    least = Options(n_subsets=8, n_seeds=2, steps=2, n_draws=2)
    monkeypatch.setattr(options, "from_flags", lambda flags: least)
    capsys.readouterr()
    assert evaluate(run, "--what", "lds", *few) == 0
    assert "To do" not in capsys.readouterr().out
    table = files.read_json(run.evaluation / "lds-demo.json")
    assert table["n_subsets"] == 9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--what", "lds", "--subsets", "3"], "--subsets is 3"),
        (["--what", "deletion", "--top", "9"], "--top has 9, and there are 6 sources"),
        (["--what", "deletion", "--top", "few"], "--top is 'few'"),
        (["--what", "lds", "--name", "none"], "no queries called 'none'"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_trained(run, flags, message):
    with pytest.raises(BadInput, match=message):
        evaluate(run, *flags)
