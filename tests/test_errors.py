"""The page of errors is complete, and every message says what to do."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
errors = runpy.run_path(str(DOCS / "errors.py"))


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
