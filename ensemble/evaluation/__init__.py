"""Evaluation: how far scores and ablation can be believed.

Each evaluation reads what a run holds, trains what it needs below `RUN/evaluation`,
and writes one table. To add one, write a module with a function `evaluate`, and a line
in the table below.

Before: ensemble/influence.py, ensemble/scoring.py. After: ensemble/report.py.
"""

from collections.abc import Callable
from pathlib import Path

from ensemble.evaluation import lds, quality
from ensemble.evaluation.options import Options
from ensemble.pipeline import EnsemblePipeline
from ensemble.plan import Plan
from ensemble.store import Run

Evaluation = Callable[[Run, EnsemblePipeline, Plan, Options], Path]

EVALUATIONS: dict[str, Evaluation] = {
    "lds": lds.evaluate,
    "quality": quality.evaluate,
}
