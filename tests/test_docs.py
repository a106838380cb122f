"""What the pages of docs/ promise."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.codes.designs import picture
from ensemble.data import (
    decoding,
    metadata,
)
from ensemble.data.inventory import RULES
from ensemble.scorers import SCORERS
from splits.designs.registry import DESIGNS

DOCS = Path(__file__).parents[1] / "docs"


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
    *(DOCS.parent / page for page in ("README.md", "SECURITY.md")),
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
