"""What the pages of docs/ promise."""

from pathlib import Path

import pytest

from ensemble.scorers import SCORERS

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("method", SCORERS)
def test_every_scorer_is_explained(method):
    assert f"`{method}`" in (DOCS / "scorers.md").read_text(encoding="utf-8")
