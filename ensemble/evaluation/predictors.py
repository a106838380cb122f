"""Predictors: all tables of a run that say which sources matter to a query.

Scores are read from `scores/NAME`, ablation's tables from `influence/NAME`. All are
given one sign: higher means that training on the source lowered the query's loss more,
so that its removal raises it. Displacement has no sign.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ensemble.evaluation import tables
from ensemble.provenance.plans import Plan
from ensemble.run import records, table_records
from ensemble.run.files import array_digest, read_array, read_json
from ensemble.run.folder import Run
from ensemble.run.voters import Membership
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.scorers import SCORERS, SupportsDampingPath, runner, score_files
from splits.errors import BadInput

# What ablation's tables of single sources are called as methods.
ABLATIONS = {
    table_records.EXACT: "ablation",
    table_records.LOSS: "ablation",
    table_records.DIFFERENTIAL: "differential_ablation",
}
# Which of their tables count, and the sign that makes them scores.
TABLES = {"displacement": 1, "influence_denoising_loss": -1}


@dataclass(frozen=True, eq=False)
class Predictor:
    """A method's scores of sources for the queries.

    Attributes:
        method: What it is called.
        kind: `score`, or `influence` if ablation measured it.
        score: Higher: the source's removal raises the query's loss more.
        digest: The sha256 of the file, and of the path's.
        facts: The sidecar of a score.
        path: Scores by damping, its own among them; empty if there is only one.
    """

    method: str
    kind: str
    score: Float[np.ndarray, "queries sources"]
    digest: str
    facts: dict[str, Any] = field(default_factory=dict)
    path: dict[float, np.ndarray] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """What it took, where that is on record."""
        return self.facts.get("seconds")

    @property
    def n_networks(self) -> int | None:
        """How many networks it looked at, where that is on record."""
        return self.facts.get("networks")

    @property
    def single(self) -> bool:
        """Whether it is a scorer that builds on no other one."""
        return self.kind == "score" and not self.combined

    @property
    def combined(self) -> bool:
        """Whether it combines scores with what members measured."""
        return "errors_sha256" in self.facts


def find(run: Run, name: str, methods: Sequence[str] | None = None) -> list[Predictor]:
    """Every predictor for the queries of that name, or those that are asked for.

    Raises:
        BadInput: If one that is asked for is not there, or one is of other queries.
    """
    asked = queries.load(run, name)
    found = [
        *_scores(run, name, array_digest(asked.images)),
        *_influences(run, name),
    ]
    known = [predictor.method for predictor in found]
    for method in methods or ():
        if method not in known:
            raise BadInput(
                f"There is nothing by the method {method!r} for the queries {name!r}; "
                f"known: {', '.join(known) or 'nothing'}. Make it with `attribute.py "
                f"{run.path} score --name {name} --method {method}`."
            )
    return [one for one in found if methods is None or one.method in methods]


def score_again(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    name: str,
    methods: Sequence[str] | None,
    dampings: Sequence[float],
) -> None:
    """Score what is there and has a damping with other dampings too."""
    if not dampings:
        return
    for path in records.list_records(run.scores(name), ".npy"):
        facts = read_json(path)
        scorer = SCORERS.get(facts["method"])
        asked = methods is None or path.stem in methods
        if asked and isinstance(scorer, SupportsDampingPath):
            runner.score(
                run,
                pipe,
                plan,
                name,
                facts["method"],
                facts["model"],
                dampings=dampings,
            )


def _scores(run: Run, name: str, queries_digest: str) -> Iterator[Predictor]:
    for sidecar in records.list_records(run.scores(name), ".npy"):
        facts, file = read_json(sidecar), sidecar.with_suffix(".npy")
        tables.require_same(file, facts, {"queries_digest": queries_digest})
        score, digest, path = (
            read_array(file, facts["sha256"]),
            facts["sha256"],
            {},
        )
        if facts["dampings"]:
            others = read_array(score_files.path_file(file), facts["path_sha256"])
            path = {score_files.damping_of(facts["options"]): score}
            path |= dict(zip(facts["dampings"], others, strict=True))
            digest = f"{digest} {facts['path_sha256']}"
        yield Predictor(file.stem, "score", score, digest, facts, path)


def _influences(run: Run, name: str) -> Iterator[Predictor]:
    found = {}
    for folder, method in ablations(run, name):
        files = read_json(folder / "info.json")["files"]
        for file, sign in TABLES.items():
            if f"{file}.npy" in files:
                table = records.checked_array(folder, "info.json", f"{file}.npy")
                called = f"{method}_{file.split('_')[-1]}"
                digest = files[f"{file}.npy"]
                # Where the loss was also measured by itself, that is by more draws.
                found[called] = Predictor(called, "influence", sign * table, digest)
    yield from found.values()


def ablations(run: Run, name: str) -> Iterator[tuple[Path, str]]:
    """Folders of ablation's tables, each with what its method is called.

    Raises:
        BadInput: If one is damaged, or of other queries or members.
    """
    known, of = Membership.read(run.path), table_records.read_query_facts(run, name)
    for folder, kind in table_records.tables(run, name):
        if kind.method in ABLATIONS and not kind.groups:
            table_records.require_current(folder, known, of)
            first = "" if kind.n_first is None else f"_first_{kind.n_first}"
            yield folder, ABLATIONS[kind.method] + first
