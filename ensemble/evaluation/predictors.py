"""Predictors: every table of a run that says which sources matter to a query.

Scores are read from `scores/NAME`, ablation's tables from `influence/NAME`. All are
brought to one sign: higher means that training on the source lowered the query's loss
more, so that its removal raises it. Displacement knows no sign.

Before: ensemble/scoring.py, ensemble/influence.py. After: lds.py, deletion.py,
false_attribution.py.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ensemble import queries, scoring, store
from ensemble.evaluation import tables
from ensemble.pipeline import EnsemblePipeline
from ensemble.plan import Plan
from ensemble.scorers import SCORERS, Scorer
from ensemble.store import Run
from splits.errors import BadInput

# What ablation's folders are called beside NAME, and what that becomes as a method.
ABLATIONS = {"": "ablation", "-differential": "differential_ablation"}
AGAIN = "-damping-"


@dataclass(frozen=True, eq=False)
class Predictor:
    """Somebody's word on which sources matter.

    Attributes:
        method: What it is called.
        base: What it is called with its default damping.
        kind: `score`, or `influence` if ablation measured it.
        score: Higher: the source's removal raises the query's loss more.
        digest: The sha256 of the file.
        facts: The sidecar of a score.
    """

    method: str
    base: str
    kind: str
    score: Float[np.ndarray, "queries sources"]
    digest: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """What it took, where that is on record."""
        return self.facts.get("seconds")

    @property
    def family(self) -> str:
        """The same for scores that differ by their damping alone."""
        options, _ = _without_damping(self.facts["options"])
        return json.dumps([self.facts["class"], self.facts["model"], options])

    @property
    def damping(self) -> float | None:
        """The damping; None for a method that has none."""
        return _without_damping(self.facts["options"])[1]


def find(run: Run, name: str, methods: Sequence[str] | None = None) -> list[Predictor]:
    """Every predictor for the queries of that name, or those that are asked for.

    Raises:
        BadInput: If one that is asked for is not there, or one is of other queries.
    """
    asked = queries.load(run, name)
    found = [
        *_scores(run, name, store.array_digest(asked.images)),
        *_influences(run, name),
    ]
    if methods is None:
        return found
    known = [predictor.method for predictor in found]
    for method in methods:
        if method not in known:
            raise BadInput(
                f"There is nothing by the method {method!r} for the queries {name!r}; "
                f"known: {', '.join(known) or 'nothing'}. Make it with `attribute.py "
                f"{run.path} score --name {name} --method {method}`."
            )
    return [
        predictor
        for predictor in found
        if predictor.method in methods or predictor.base in methods
    ]


def defaults(found: Sequence[Predictor]) -> list[Predictor]:
    """Those that are not there only for another damping."""
    return [predictor for predictor in found if predictor.method == predictor.base]


def score_again(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    name: str,
    methods: Sequence[str] | None,
    dampings: Sequence[float],
) -> None:
    """Score what is there and has a damping with other dampings too."""
    for path in sorted(run.scores(name).glob("*.json")):
        facts = store.read_json(path)
        scorer = SCORERS.get(facts["method"])
        asked = methods is None or path.stem in methods
        if scorer is None or not asked or not _has_damping(scorer):
            continue
        for damping in dampings:
            scoring.score(
                run,
                pipe,
                plan,
                name,
                f"{facts['method']}{AGAIN}{damping:g}",
                facts["model"],
                _with_damping(scorer, damping),
            )


def _scores(run: Run, name: str, queries_digest: str) -> Iterator[Predictor]:
    for sidecar in sorted(run.scores(name).glob("*.json")):
        facts, path = store.read_json(sidecar), sidecar.with_suffix(".npy")
        tables.require_same(path, facts, {"queries_digest": queries_digest})
        score = store.read_array(path, facts["sha256"])
        method = facts["method"]
        base = method.split(AGAIN)[0] + path.stem.removeprefix(method)
        yield Predictor(path.stem, base, "score", score, facts["sha256"], facts)


def _influences(run: Run, name: str) -> Iterator[Predictor]:
    for suffix, method in ABLATIONS.items():
        folder = run.influence(name + suffix)
        if not (folder / "info.json").exists():
            continue
        files = store.read_json(folder / "info.json")["files"]
        for file, sign in {"displacement": 1, "influence_denoising_loss": -1}.items():
            if f"{file}.npy" in files:
                yield _influence(folder, file, sign, method)


def _influence(folder: Path, file: str, sign: int, method: str) -> Predictor:
    files = store.read_json(folder / "info.json")["files"]
    table = store.sealed_array(folder, "info.json", f"{file}.npy")
    called = f"{method}_{file.split('_')[-1]}"
    digest = files[f"{file}.npy"]
    return Predictor(called, called, "influence", sign * table, digest)


def _has_damping(scorer: Scorer) -> bool:
    options: Any = scorer
    return _without_damping(dataclasses.asdict(options))[1] is not None


def _with_damping(scorer: Scorer, damping: float) -> Scorer:
    """The same method with another damping, its own or its curvature's."""
    options: Any = scorer
    if hasattr(options, "damping"):
        return dataclasses.replace(options, damping=damping)
    curvature = dataclasses.replace(options.curvature, damping=damping)
    return dataclasses.replace(options, curvature=curvature)


def _without_damping(options: dict[str, Any]) -> tuple[dict[str, Any], float | None]:
    """A method's options without its damping, and the damping."""
    rest = {key: value for key, value in options.items() if key != "damping"}
    damping = options.get("damping")
    if damping is None and isinstance(options.get("curvature"), dict):
        rest["curvature"], damping = _without_damping(options["curvature"])
    return rest, damping
