"""What the pages of docs/ promise."""

import contextlib
import dataclasses
import re
import runpy
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from benchmarks.codes.designs import picture
from ensemble.ablation.measurements import MEASUREMENTS
from ensemble.data import datasets, decoding, metadata
from ensemble.data.inventory import RULES
from ensemble.models.objective import OBJECTIVES
from ensemble.run import config_file
from ensemble.run.config import Config, TrainingConfig
from ensemble.scorers import SCORERS
from splits.designs.registry import DESIGNS
from tests import tiny

DOCS = Path(__file__).parents[1] / "docs"
errors = runpy.run_path(str(DOCS / "errors.py"))
options = runpy.run_path(str(DOCS / "options.py"))


@pytest.mark.parametrize("method", SCORERS)
def test_every_scorer_is_explained(method):
    assert f"`{method}`" in (DOCS / "scorers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_is_explained_and_pictured_as_it_is_drawn(design):
    text = (DOCS / "designs.md").read_text(encoding="utf-8")
    assert f"`{design}`" in text
    assert f"(designs/{design}.png)" in text
    with Image.open(DOCS / "designs" / f"{design}.png") as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(picture(design)))


PAGES = [
    *DOCS.glob("*.md"),
    *(DOCS.parent / page for page in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_blank_line_cuts_off_the_last_rows_of_a_table(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    for before, row, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        begins = row.startswith("|") and not before.startswith("|")
        assert not begins or after.startswith(("|---", "|:--", "| ---")), row


def test_every_format_that_is_read_is_on_the_page_of_data():
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    for ending in decoding.endings(RULES):
        assert f"`{ending}`" in text
    for name in metadata.NAMES:
        assert f"`{name}`" in text.replace("`photos/", "`")


@pytest.fixture
def place_of_a_run(tmp_path, monkeypatch):
    """The current directory holds a trained `runs/mine`; the tables are put back."""
    monkeypatch.chdir(tmp_path)
    splits = {"design": "balanced", "n_members": 4, "weight": 2}
    tiny.trained(Path("runs/mine"), data={"n_images": 6}, splits=splits)
    with contextlib.ExitStack() as kept:
        tables = DESIGNS, SCORERS, MEASUREMENTS, datasets.DATA_SETS, OBJECTIVES
        for table in tables:
            kept.enter_context(mock.patch.dict(table))
        yield


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/python.md"])
def test_the_code_of_a_page_runs_from_top_to_bottom(page, place_of_a_run):
    text = (DOCS.parent / page).read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) > 4
    names = {"__name__": "page"}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert "://" in link or (page.parent / link).exists(), link


def test_every_page_is_in_the_map():
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in text


@pytest.mark.parametrize("path", errors["files"](), ids=str)
def test_every_message_has_a_cause_and_a_remedy(path):
    for message in errors["messages"](path):
        cause, remedy = errors["parts"](message)
        assert len(cause) > 5, message
        assert len(remedy) > 5, f"this says nothing of what to do: {message}"


def test_the_page_of_errors_is_that_of_the_code():
    kept = errors["PAGE"].read_text(encoding="utf-8")
    assert kept == errors["page"](), "write it again: python docs/errors.py"


def test_every_call_is_on_the_page():
    page = errors["PAGE"].read_text(encoding="utf-8")
    for path in errors["files"]():
        n_calls = path.read_text(encoding="utf-8").count("BadInput(")
        n_found = len(errors["messages"](path))
        assert n_found >= min(1, n_calls - ("class BadInput(" in path.read_text()))
    assert "is damaged: expected sha256" in page
    assert "has no key" in page


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
    assert meaning.startswith("Number of slices of the sources (SISA)")
    assert meaning.endswith("a repair trains from the start.")


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
