"""A log file is told now and then how far some work has come, a terminal all the time."""

import time

import pytest

from ensemble.system import progress
from ensemble.system.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_is_told_in_lines_and_not_too_often(clock, capsys):
    with Progress("ablating", "pictures", total=100) as shown:
        for _ in range(9):
            clock[0] += 20
            shown.advance(10)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "ablating: 20 of 100 pictures, 40 s spent, about 3 min left"
    assert len(said) == 4


def test_what_earlier_sessions_did_counts_as_done_and_spent(clock, capsys):
    with Progress("ablating", "pictures", 100, done=60, seconds=600.0) as shown:
        clock[0] += 40
        shown.advance(20)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "ablating: 60 of 100 pictures are there"
    assert second == "ablating: 80 of 100 pictures, 11 min spent, about 40 s left"


def test_the_end_is_not_announced(clock, capsys):
    with Progress("ablating", "pictures", total=10) as shown:
        clock[0] += 2 * progress.SECONDS
        shown.advance(10)
    assert capsys.readouterr().err == ""
