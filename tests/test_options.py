"""The page of options is complete, and that of the code."""

import dataclasses
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest

from ensemble.run import config_file
from ensemble.run.config import (
    Config,
    TrainingConfig,
)

DOCS = Path(__file__).parents[1] / "docs"
options = runpy.run_path(str(DOCS / "options.py"))


def test_the_page_of_options_is_that_of_the_code():
    kept = options["PAGE"].read_text(encoding="utf-8")
    assert kept == options["page"](), "write it again: python -m docs.options"


def test_every_option_is_on_the_page():
    page = options["PAGE"].read_text(encoding="utf-8")
    tree = config_file.to_dict(Config("x"))
    for section, content in tree.items():
        if not isinstance(content, dict):
            assert f"| `{section}` |" in page
            continue
        for name in content:
            assert f"| `{section}.{name}` |" in page


def test_types_and_defaults_are_those_of_yaml():
    page = options["PAGE"].read_text(encoding="utf-8")
    assert "| `training.learning_rate` | number | `0.002` | Peak of AdamW" in page
    assert "| `training.ema_decay` | number or null | `null` |" in page
    assert "| `model.block_out_channels` | list of whole numbers | `[16, 32]` |" in page
    assert "| `run` | text | \N{EN DASH} | The run folder. |" in page
    assert "balanced" in page


def test_meanings_go_over_several_lines():
    meaning = options["meanings"](TrainingConfig)["slices"]
    assert meaning.startswith("Let the sources join a member")
    assert meaning.endswith("a repair starts again.")


def test_an_option_that_nobody_explained_is_found():
    @dataclass
    class Bare:
        """A section.

        Attributes:
            known: What it is.
        """

        known: int = 0
        unknown: int = 0

    assert len(dataclasses.fields(Bare)) == 2
    with pytest.raises(KeyError, match="unknown"):
        options["meanings"](Bare)
