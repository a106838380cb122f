"""Scoring: what the literature's methods predict for the queries of a run.

A score is written beside the truth (score_files.py), of one model of the run
(scored_models.py), and made once: what is there already is left alone. Gradients and
losses that several methods look at are kept in `scores/.features`, for all queries; they
may be deleted at any time.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from ensemble.models.objective import objective_of
from ensemble.provenance.plans import Plan
from ensemble.run import files, manifest
from ensemble.run.folder import REFERENCE, Run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.scorers import (
    SCORERS,
    Scorer,
    ScoringContext,
    SupportsDampingPath,
    SupportsUncertainty,
    Work,
    by_source,
    score_files,
    scored_models,
)
from ensemble.scorers.interface import ENSEMBLE, over_images
from ensemble.system import environment, locks
from splits.errors import BadInput

SIGN = "higher: training on the source lowered the query's loss more"


def context_of(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    asked: Queries,
    which: str | int = ENSEMBLE,
    max_memory_mb: int = 1024,
) -> ScoringContext:
    """What scorers may see of a run.

    Args:
        run: The run folder.
        pipe: The ensemble.
        plan: Training images, sources and codes.
        asked: The queries.
        which: The scored model: `ensemble` (the mean over its members), `first-16`
            (only so many of them), the number of one member, or `reference`, a model
            trained on everything.
        max_memory_mb: Bound on the memory of activations, gradients and kernels.

    Raises:
        BadInput: If there is no such model.
    """
    networks, saw, folders = scored_models.scored_model(run, pipe, plan, which)
    objective, member_samples = objective_of(run.config.model), None
    if scored_models.begins_with_the_first(which):
        member_samples = scored_models.member_samples_of(pipe, asked)
    return ScoringContext(
        networks=networks,
        saw=saw,
        objective=objective,
        train=scored_models.training_images(pipe, plan),
        queries=scored_models.query_images(pipe, asked),
        source_of=np.asarray(plan.source_of, dtype=np.int64),
        n_sources=plan.codes.n_sources,
        codes=None if which == REFERENCE else plan.codes,
        max_memory_mb=max_memory_mb,
        folder=run.features,
        trajectory=functools.partial(
            scored_models.trajectory_of, pipe, asked, objective
        ),
        member_samples=member_samples,
        checkpoints=functools.partial(scored_models.checkpoints, pipe, folders),
        scores=functools.partial(_scores_anew, run, pipe, plan, asked, max_memory_mb),
    )


def score(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    name: str,
    method: str,
    which: str | int = ENSEMBLE,
    scorer: Scorer | None = None,
    max_memory_mb: int = 1024,
    dampings: Sequence[float] = (),
    per_image: bool = False,
) -> Path:
    """Score all sources for the queries of that name; returns the file.

    What is there already is left alone; if more is asked for now, it is made again.

    Args:
        run: The run folder.
        pipe: The ensemble.
        plan: Training images, sources and codes.
        name: The queries.
        method: A name in `scorers.SCORERS`; for another scorer, any name.
        which: The scored model, as in `context_of`.
        scorer: The method with options of its own; None: with its defaults.
        max_memory_mb: Bound on the memory of activations, gradients and kernels.
        dampings: Score at each of these too, in place of the method's own damping, and
            keep that as `path_file`.
        per_image: Keep the scores of single images too, as `images_file`.

    Raises:
        BadInput: If there is no such method, queries or model; if that score exists
            with other options or for other queries; if scores are not finite; or if
            there are dampings and the method knows none.
    """
    scorer = scorer or scorer_called(method)
    if dampings and not isinstance(scorer, SupportsDampingPath):
        raise BadInput(
            f"{method} has no path of dampings. Leave them out, or choose a method of a "
            "kernel or an influence function."
        )
    asked = queries.load(run, name, pipe.membership)
    path = score_files.score_file(run, name, method, which)
    stage = f"score {name} {path.stem}"
    identity = {
        "method": method,
        "options": _options(scorer),
        "model": which,
        **asked.facts(),
        "code_book_digest": plan.codes.digest(),
        **_weights(run, pipe, which),
    }
    with locks.exclusive(path):
        kept = score_files.found(path, identity)
        per_image |= kept is not None and kept["images_sha256"] is not None
        if kept is not None and not score_files.lacks(kept, dampings, per_image):
            score_files.check(path, kept)
            manifest.note_stage(run, stage)
            return path
        context = context_of(run, pipe, plan, asked, which, max_memory_mb)
        asked_of = (run, pipe, plan, name, max_memory_mb, context.work)
        others = functools.partial(_scores_counted, *asked_of)
        context = dataclasses.replace(context, scores=others)
        began = time.perf_counter()
        with manifest.stage(run, stage):
            written = _write(path, scorer, context, identity, dampings, per_image)
            seconds = time.perf_counter() - began + context.work.seconds_before
            facts = {**_facts(scorer, context, seconds), **written}
            files.write_json(path.with_suffix(".json"), {**identity, **facts})
    return path


def _write(
    path: Path,
    scorer: Scorer,
    context: ScoringContext,
    identity: dict[str, Any],
    dampings: Sequence[float],
    per_image: bool,
) -> dict[str, Any]:
    """Score, and write what there is; returns what the sidecar says of the files."""
    facts: dict[str, Any] = {"dampings": list(dampings)}
    method, others, errors = identity["method"], [], None
    if isinstance(scorer, SupportsDampingPath):
        own = score_files.damping_of(identity["options"])
        found, *others = scorer.path(context, [own, *dampings])
    elif isinstance(scorer, SupportsUncertainty):
        mean, errors = scorer.with_errors(context)
        found = over_images(mean, context.source_of)
        errors = _finite(errors, method).astype(np.float32)
    else:
        found = scorer.score(context)
    summed = _sums(found, context, method)
    sums = [_sums(some, context, method) for some in others]
    # It speaks for files that are replaced now; without it they count as not there.
    path.with_suffix(".json").unlink(missing_ok=True)
    facts["sha256"] = files.write_array(path, summed)
    facts |= {"path_sha256": None, "images_sha256": None}
    if errors is not None:
        facts["errors_sha256"] = files.write_array(
            score_files.errors_file(path), errors
        )
    if per_image:
        facts["images_sha256"] = files.write_array(score_files.images_file(path), found)
    if others:
        facts["path_sha256"] = files.write_array(
            score_files.path_file(path), np.stack(sums)
        )
    return facts


def _sums(
    per_image: Float32[np.ndarray, "queries images"],
    context: ScoringContext,
    method: str,
) -> Float32[np.ndarray, "queries sources"]:
    """Sums over the images of each source."""
    return by_source(_finite(per_image, method), context.source_of, context.n_sources)


def _finite(
    table: Float[np.ndarray, "queries things"], method: str
) -> Float[np.ndarray, "queries things"]:
    """The table as it is.

    Raises:
        BadInput: If a score is not finite.
    """
    if not np.isfinite(table).all():
        raise BadInput(
            f"Scores by {method} are not finite. Look at the members' loss curves, or "
            "score with another method."
        )
    return table


def scores_of(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    name: str,
    max_memory_mb: int,
    method: str,
    which: str | int,
    dampings: Sequence[float],
) -> Float32[np.ndarray, "scores queries sources"]:
    """Scores by another method, made if they are not there.

    Args:
        run: The run folder.
        pipe: The ensemble.
        plan: Training images, sources and codes.
        name: The queries.
        max_memory_mb: Bound on memory.
        method: A name in `scorers.SCORERS`.
        which: The scored model, as in `context_of`.
        dampings: Besides its own, where it has one.
    """
    if not isinstance(scorer_called(method), SupportsDampingPath):
        dampings = ()
    score(
        run,
        pipe,
        plan,
        name,
        method,
        which,
        max_memory_mb=max_memory_mb,
        dampings=dampings,
    )
    own = score_files.load(run, name, method, which)
    if not dampings:
        return own[None]
    known, path = score_files.load_path(run, name, method, which)
    return np.stack([own, *(path[known.index(damping)] for damping in dampings)])


def _scores_counted(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    name: str,
    max_memory_mb: int,
    work: Work,
    method: str,
    which: str | int,
    dampings: Sequence[float],
) -> Float32[np.ndarray, "scores queries sources"]:
    """The same, and their seconds are counted whenever they were spent."""
    began = time.perf_counter()
    found = scores_of(run, pipe, plan, name, max_memory_mb, method, which, dampings)
    sidecar = score_files.score_file(run, name, method, which).with_suffix(".json")
    # What was spent on them just now is part of that.
    spent = time.perf_counter() - began
    work.seconds_before += files.read_json(sidecar)["seconds"] - spent
    return found


def _scores_anew(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    asked: Queries,
    max_memory_mb: int,
    method: str,
    which: str | int,
    dampings: Sequence[float],
) -> Float32[np.ndarray, "scores queries sources"]:
    """The same for queries without a name: made each time, and kept nowhere."""
    scorer = scorer_called(method)
    context = context_of(run, pipe, plan, asked, which, max_memory_mb)
    if isinstance(scorer, SupportsDampingPath):
        found = scorer.path(
            context, [score_files.damping_of(_options(scorer)), *dampings]
        )
    else:
        found = [scorer.score(context)]
    return np.stack([_sums(some, context, method) for some in found])


def scorer_called(method: str) -> Scorer:
    """The method of that name, with its defaults.

    Raises:
        BadInput: If there is none.
    """
    if method not in SCORERS:
        raise BadInput(
            f"There is no method {method!r}; known: {', '.join(SCORERS)}. --list says "
            "what they are."
        )
    return SCORERS[method]


def listing() -> str:
    """Every method, for people."""
    lines = []
    for method, scorer in SCORERS.items():
        lines += [
            method,
            f"    {(scorer.__doc__ or '').splitlines()[0]}",
            f"    paper: {scorer.paper}",
            f"    cost:  {scorer.cost}",
            f"    needs: {scorer.needs}",
            f"    scale: {scorer.scale}",
        ]
    return "\n".join(
        [
            *lines,
            "",
            "N training images, Q queries, M networks (a network's gradients are taken",
            "at the images that it saw), K noise draws of each image.",
        ]
    )


def _options(scorer: Scorer) -> dict[str, Any]:
    """The method's options, for the sidecar; a function goes by its name."""
    options: Any = scorer
    text = json.dumps(
        dataclasses.asdict(options), default=lambda function: function.__qualname__
    )
    return json.loads(text)


def _weights(run: Run, pipe: EnsemblePipeline, which: str | int) -> dict[str, Any]:
    """What goes on record of the weights of the scored model, where they are known."""
    if which == REFERENCE and run.reference.exists():
        record = files.read_json(run.reference / "member.json")
        return {"reference_sha256": record["weights_sha256"]}
    known = pipe.membership
    return {} if known is None else {"weights_digest": known.weights_digest}


def _facts(scorer: Scorer, context: ScoringContext, seconds: float) -> dict[str, Any]:
    return {
        "class": type(scorer).__name__,
        "paper": scorer.paper,
        "sign": SIGN,
        "scale": scorer.scale,
        "networks": len(context.networks),
        "seconds": round(seconds, 3),
        "seconds_before": round(context.work.seconds_before, 3),
        "gradient_evaluations": context.work.gradients,
        "forwards": context.work.forwards,
        "notes": context.notes,
        "peak_memory_bytes": environment.peak_memory_bytes(),
        "own_peak_memory_bytes": environment.recent_peak_memory_bytes(),
    }
