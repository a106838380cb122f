"""`attribute.py RUN evaluate`, as people run it."""

import pytest

import attribute
from ensemble import queries, scoring
from ensemble.evaluation import EVALUATIONS
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
    scoring.score(run, pipe, plan, "demo", "pixel_dot")
    return run


def evaluate(run, *flags):
    return attribute.main([str(run.path), "evaluate", *flags])


def test_every_evaluation_can_be_asked_for():
    assert list(EVALUATIONS) == attribute.EVALUATIONS


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
