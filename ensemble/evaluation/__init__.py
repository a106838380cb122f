"""Evaluation: how far scores and ablation can be believed.

Each evaluation reads what a run holds, trains what it needs below `RUN/evaluation`,
and writes one table. To add one, write a module with functions `work` and `evaluate`,
and a line in the table below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ensemble.evaluation import deletion, false_attribution, lds, quality
from ensemble.evaluation.options import Options
from ensemble.provenance.plans import Plan
from ensemble.run.folder import Run
from ensemble.sampling.pipeline import EnsemblePipeline


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a run.

    Attributes:
        work: Describes in one line what has to be trained; empty if nothing has.
        evaluate: Runs the evaluation and returns the table's file.
        on_record: Does the same without members if the run's records suffice; returns
            None if they do not.
    """

    work: Callable[[Run, Plan, Options], str]
    evaluate: Callable[[Run, EnsemblePipeline, Plan, Options], Path]
    on_record: Callable[[Run, Plan, Options], Path | None] = lambda *_: None


EVALUATIONS = {
    "lds": Evaluation(lds.work, lds.evaluate, lds.on_record),
    "deletion": Evaluation(deletion.work, deletion.evaluate),
    "far": Evaluation(false_attribution.work, false_attribution.evaluate),
    "quality": Evaluation(quality.work, quality.evaluate),
}
