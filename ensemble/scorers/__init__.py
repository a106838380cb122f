"""Scorers: the literature's predictions of influence behind one interface.

A scorer may not see the truth that it is judged by: nothing here imports ablation or
influence. To add one, write a module named after author, year and method, and one line
in the table below.

Before: queries.py, plan.py. After: ensemble/scoring.py.
"""

from ensemble.scorers.setting import (
    READOUTS,
    Examples,
    Journey,
    Scorer,
    Setting,
    Work,
    by_source,
)

__all__ = [
    "READOUTS",
    "SCORERS",
    "Examples",
    "Journey",
    "Scorer",
    "Setting",
    "Work",
    "by_source",
]

SCORERS: dict[str, Scorer] = {}
