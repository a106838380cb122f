"""What the pages of docs/ promise."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.designs import picture
from ensemble.scorers import SCORERS
from splits.designs import DESIGNS

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
