"""Scoring: what the literature's methods predict for the queries of a run.

A score is written beside the truth, `scores/NAME/METHOD.npy` (queries, sources) beside
`influence/NAME`, with a sidecar that says what it is: method, options, sign, scale, the
model that was scored, what the method noted, and what it cost. On request the scores at
other dampings are kept beside it, `METHOD.path.npy` (dampings, queries, sources), so that
somebody who holds out some truth can choose one, and the scores of single images,
`METHOD.images.npy` (queries, images). Where a method says how far its scores may be off,
standard deviations are there too, `METHOD.errors.npy` (queries, sources). Gradients and
losses that several methods look at are kept in `scores/.features`, for all queries; they
may be deleted at any time.
"""

import dataclasses
import functools
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import nn

from ensemble.models.denoisers import load_member
from ensemble.models.objective import Objective, objective_of
from ensemble.provenance.plan import Plan
from ensemble.run import (
    files,
    manifest,
    table_records,
    voters,
)
from ensemble.run.files import check
from ensemble.run.folder import (
    REFERENCE,
    Run,
)
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.sampling.trajectory import Trajectory, guided
from ensemble.scorers import (
    SCORERS,
    Alone,
    Damped,
    Examples,
    Journey,
    Scorer,
    Setting,
    Uncertain,
    Work,
    by_source,
)
from ensemble.scorers.interface import (
    ENSEMBLE,
    FIRST,
    over_images,
)
from ensemble.system import (
    environment,
    locks,
    seeding,
)
from ensemble.training import snapshots
from splits.codes import full_votes
from splits.errors import BadInput

SIGN = "higher: training on the source lowered the query's loss more"


def setting_of(
    run: Run,
    pipe: EnsemblePipeline,
    plan: Plan,
    asked: Queries,
    which: str | int = ENSEMBLE,
    max_memory_mb: int = 1024,
) -> Setting:
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
    networks, saw, folders = _scored_model(run, pipe, plan, which)
    objective = objective_of(run.config.model)
    return Setting(
        networks=networks,
        saw=saw,
        objective=objective,
        train=_training_images(pipe, plan),
        queries=_queries(pipe, asked),
        source_of=np.asarray(plan.source_of, dtype=np.int64),
        n_sources=plan.codes.n_sources,
        codes=None if which == REFERENCE else plan.codes,
        max_memory_mb=max_memory_mb,
        folder=run.features,
        journey=functools.partial(journey_of, pipe, asked, objective),
        alone=alone_of(pipe, asked) if _begins_with_the_first(which) else None,
        checkpoints=functools.partial(_checkpoints, pipe, folders),
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
        which: The scored model, as in `setting_of`.
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
    if dampings and not isinstance(scorer, Damped):
        raise BadInput(
            f"{method} has no path of dampings. Leave them out, or choose a method of a "
            "kernel or an influence function."
        )
    asked = queries.load(run, name, pipe.membership)
    path = score_file(run, name, method, which)
    stage = f"score {name} {path.stem}"
    identity = {
        "method": method,
        "options": _options(scorer),
        "model": which,
        **asked.facts(),
        "code_book_digest": plan.codes.digest(),
        **_weights(run, pipe, which),
    }
    with locks.alone(path):
        kept = _kept(path, identity)
        per_image |= kept is not None and kept["images_sha256"] is not None
        if kept is not None and not _lacks(kept, dampings, per_image):
            _check(path, kept)
            manifest.note_stage(run, stage)
            return path
        setting = setting_of(run, pipe, plan, asked, which, max_memory_mb)
        asked_of = (run, pipe, plan, name, max_memory_mb, setting.work)
        others = functools.partial(_scores_counted, *asked_of)
        setting = dataclasses.replace(setting, scores=others)
        began = time.perf_counter()
        with manifest.stage(run, stage):
            written = _write(path, scorer, setting, identity, dampings, per_image)
            seconds = time.perf_counter() - began + setting.work.seconds_before
            facts = {**_facts(scorer, setting, seconds), **written}
            files.write_json(path.with_suffix(".json"), {**identity, **facts})
    return path


def _kept(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The sidecar of scores that are there already; None if they are not.

    Raises:
        BadInput: If they are not those asked for.
    """
    sidecar = path.with_suffix(".json")
    if not (path.exists() and sidecar.exists()):
        return None
    _require_same(path, identity)
    return files.read_json(sidecar)


def _lacks(kept: dict[str, Any], dampings: Sequence[float], per_image: bool) -> bool:
    """Whether scores that are there lack something that is asked for now."""
    without_images = kept["images_sha256"] is None
    return (per_image and without_images) or not set(dampings) <= set(kept["dampings"])


def _check(path: Path, kept: dict[str, Any]) -> None:
    """Compare the files of a score with its sidecar.

    Raises:
        BadInput: If one is missing or damaged.
    """
    digests = {
        path: kept["sha256"],
        path_file(path): kept["path_sha256"],
        images_file(path): kept["images_sha256"],
        errors_file(path): kept.get("errors_sha256"),
    }
    for file, digest in digests.items():
        if digest is not None:
            check(file, digest, path.with_suffix(".json"))


def _write(
    path: Path,
    scorer: Scorer,
    setting: Setting,
    identity: dict[str, Any],
    dampings: Sequence[float],
    per_image: bool,
) -> dict[str, Any]:
    """Score, and write what there is; returns what the sidecar says of the files."""
    facts: dict[str, Any] = {"dampings": list(dampings)}
    method, others, errors = identity["method"], [], None
    if isinstance(scorer, Damped):
        own = damping_of(identity["options"])
        found, *others = scorer.path(setting, [own, *dampings])
    elif isinstance(scorer, Uncertain):
        mean, errors = scorer.with_errors(setting)
        found = over_images(mean, setting.source_of)
        errors = _finite(errors, method).astype(np.float32)
    else:
        found = scorer.score(setting)
    summed = _sums(found, setting, method)
    sums = [_sums(some, setting, method) for some in others]
    # It speaks for files that are replaced now; without it they count as not there.
    path.with_suffix(".json").unlink(missing_ok=True)
    facts["sha256"] = files.write_array(path, summed)
    facts |= {"path_sha256": None, "images_sha256": None}
    if errors is not None:
        facts["errors_sha256"] = files.write_array(errors_file(path), errors)
    if per_image:
        facts["images_sha256"] = files.write_array(images_file(path), found)
    if others:
        facts["path_sha256"] = files.write_array(path_file(path), np.stack(sums))
    return facts


def _sums(
    per_image: Float32[np.ndarray, "queries images"], setting: Setting, method: str
) -> Float32[np.ndarray, "queries sources"]:
    """Sums over the images of each source."""
    return by_source(_finite(per_image, method), setting.source_of, setting.n_sources)


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


def load(
    run: Run, name: str, method: str, which: str | int = ENSEMBLE
) -> Float32[np.ndarray, "queries sources"]:
    """The scores of a method, higher = more helpful.

    Raises:
        BadInput: If they are missing or damaged.
    """
    path = score_file(run, name, method, which)
    expected = files.read_json(path.with_suffix(".json"))["sha256"]
    return files.read_array(path, expected)


def load_path(
    run: Run, name: str, method: str, which: str | int = ENSEMBLE
) -> tuple[list[float], Float32[np.ndarray, "dampings queries sources"]]:
    """Dampings, and the scores of a method at each of them.

    Raises:
        BadInput: If they are missing or damaged.
    """
    path = score_file(run, name, method, which)
    kept = files.read_json(path.with_suffix(".json"))
    if not kept["dampings"]:
        raise BadInput(
            f"{path} is there without other dampings. Score again with --dampings."
        )
    return kept["dampings"], files.read_array(path_file(path), kept["path_sha256"])


def load_errors(
    run: Run, name: str, method: str, which: str | int = ENSEMBLE
) -> Float32[np.ndarray, "queries sources"]:
    """The standard deviation of each score of a method that says how sure it is.

    Raises:
        BadInput: If the method does not say, or the file is missing or damaged.
    """
    path = score_file(run, name, method, which)
    kept = files.read_json(path.with_suffix(".json"))
    if "errors_sha256" not in kept:
        raise BadInput(
            f"{path} has no error bars: {kept['method']} does not say how sure it is. "
            "Score with the posterior."
        )
    return files.read_array(errors_file(path), kept["errors_sha256"])


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
        which: The scored model, as in `setting_of`.
        dampings: Besides its own, where it has one.
    """
    if not isinstance(scorer_called(method), Damped):
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
    own = load(run, name, method, which)
    if not dampings:
        return own[None]
    known, path = load_path(run, name, method, which)
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
    sidecar = score_file(run, name, method, which).with_suffix(".json")
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
    setting = setting_of(run, pipe, plan, asked, which, max_memory_mb)
    if isinstance(scorer, Damped):
        found = scorer.path(setting, [damping_of(_options(scorer)), *dampings])
    else:
        found = [scorer.score(setting)]
    return np.stack([_sums(some, setting, method) for some in found])


def errors_file(score: Path) -> Path:
    """Where the error bars of a method's scores are kept, beside its scores."""
    return score.with_suffix(".errors.npy")


def path_file(score: Path) -> Path:
    """Where a method's scores at other dampings are kept, beside its scores."""
    return score.with_suffix(".path.npy")


def load_images(
    run: Run, name: str, method: str, which: str | int = ENSEMBLE
) -> Float32[np.ndarray, "queries images"]:
    """The scores of single images by a method; a source's is the sum over its own.

    Raises:
        BadInput: If they are missing or damaged.
    """
    path = score_file(run, name, method, which)
    kept = files.read_json(path.with_suffix(".json"))
    if kept["images_sha256"] is None:
        raise BadInput(
            f"{path} is there without the scores of single images. Score again with "
            "--per-image."
        )
    return files.read_array(images_file(path), kept["images_sha256"])


def images_file(score: Path) -> Path:
    """Where a method's scores of single images are kept, beside those of sources."""
    return score.with_suffix(".images.npy")


def damping_of(options: dict[str, Any]) -> float:
    """The damping among a damped method's options: its own, or its curvature's."""
    return (
        options["damping"] if "damping" in options else options["curvature"]["damping"]
    )


def score_file(run: Run, name: str, method: str, which: str | int) -> Path:
    """Where a method's scores are kept."""
    suffix = "" if which == ENSEMBLE else f"-{which}"
    if str(which).isdecimal():
        suffix = f"-member-{which}"
    return run.scores(name) / f"{method}{suffix}.npy"


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


def alone_of(pipe: EnsemblePipeline, asked: Queries) -> Alone:
    """What each member makes of the queries' noise by itself."""
    sampling = pipe.sampling()
    return Alone(
        lambda number: queries.sampled_again(
            pipe, asked, np.eye(pipe.members.n_members)[number]
        ),
        {
            "scheduler": type(sampling.scheduler).__name__,
            "scheduler_config": json.loads(sampling.scheduler.to_json_string()),
            "n_steps": sampling.n_steps,
            "guidance_scale": sampling.guidance_scale,
            "seeds": asked.seeds.tolist(),
        },
    )


@torch.no_grad()
def journey_of(pipe: EnsemblePipeline, asked: Queries, objective: Objective) -> Journey:
    """What the sampler took the finished pictures for, on its way to the queries.

    That is the objective's clean estimate, from the states as the members see them and
    the ensemble's predictions.
    """
    sampling, device = pipe.sampling(), pipe.members.device
    noise = asked.noise(pipe).to(device)
    n_queries = len(noise)
    votes = torch.as_tensor(full_votes(pipe.members.n_members)).to(noise)
    votes = votes.expand(n_queries, -1)
    condition = asked.condition(pipe)
    walk = Trajectory(sampling, noise, asked.generators(pipe, np.arange(n_queries)))
    timesteps, clean = [], []
    for moment in walk:
        prediction = guided(
            functools.partial(pipe.members, moment.scaled, moment.timestep, votes),
            condition,
            sampling.guidance_scale,
        )
        timesteps.append(moment.timestep.round().long().cpu())
        estimate = objective.clean_estimate(moment.scaled, prediction, timesteps[-1])
        clean.append(estimate)
        walk.step(prediction)
    return Journey(torch.stack(timesteps), torch.stack(clean, dim=1))


def _checkpoints(
    pipe: EnsemblePipeline, folders: list[Path], number: int
) -> list[nn.Module]:
    """A network at the moments of its training that were kept."""
    members = pipe.members
    return [
        network.to(members.device, members.dtype)
        for network in snapshots.load(folders[number])
    ]


def _begins_with_the_first(which: str | int) -> bool:
    """Whether a model's networks are the first members of the ensemble, or all."""
    return which == ENSEMBLE or str(which).startswith(FIRST)


def _scored_model(
    run: Run, pipe: EnsemblePipeline, plan: Plan, which: str | int
) -> tuple[list[nn.Module], Bool[np.ndarray, "networks images"], list[Path]]:
    """The networks, what each was trained on, and where it is kept."""
    members = pipe.members
    if which == REFERENCE:
        if not run.reference.exists():
            raise BadInput(
                f"{run.path} has no reference model, trained on everything. Train it "
                f"with `python train.py {run.path / 'config.yaml'} --reference`, or "
                "score the ensemble or one of its members."
            )
        saw = files.read_array(run.reference / "exposure.npy") > 0
        if saw[np.isin(plan.source_of, plan.removed)].any():
            raise BadInput(
                f"The reference of {run.path} saw a source that was removed. Train it "
                f"again without: {voters.repair(run.path)}."
            )
        network = load_member(run.reference).to(members.device, members.dtype)
        saw = ~np.isin(plan.source_of, plan.removed)[None]
        return [network], saw, [run.reference]
    n_first = re.fullmatch(rf"{FIRST}(\d+)", str(which))
    if n_first:
        chosen = members.member_ids[: int(n_first[1])]
    else:
        chosen = [id_ for id_ in members.member_ids if which in (ENSEMBLE, id_)]
    if not chosen or (n_first and len(chosen) != int(n_first[1])):
        raise BadInput(
            f"There is no model {which!r} to score; allowed: {ENSEMBLE}, {REFERENCE}, "
            f"{FIRST}1 to {FIRST}{members.n_members} for so many members, or the number "
            f"of one: {', '.join(map(str, members.member_ids))}."
        )
    networks = [members.networks[members.member_ids.index(member)] for member in chosen]
    saw = plan.seen_by(chosen).T[:, plan.source_of]
    return networks, saw, [run.member(member) for member in chosen]


def _training_images(pipe: EnsemblePipeline, plan: Plan) -> Examples:
    return Examples(
        images=queries.on_device(pipe, np.array(plan.data.images)),
        condition=pipe.members.condition(plan.data.labels),
        keys=torch.arange(len(plan.data.images), device=pipe.members.device),
    )


def _queries(pipe: EnsemblePipeline, asked: Queries) -> Examples:
    # No query's key is a training image's number: it is one of 2**63.
    keys = [seeding.seed_of(seed, "query") for seed in asked.seeds.tolist()]
    return Examples(
        images=queries.on_device(pipe, asked.images),
        condition=asked.condition(pipe),
        keys=torch.tensor(keys, device=pipe.members.device),
    )


def _options(scorer: Scorer) -> dict[str, Any]:
    """The method's options, for the sidecar; a function goes by its name."""
    options: Any = scorer
    text = json.dumps(
        dataclasses.asdict(options), default=lambda function: function.__qualname__
    )
    return json.loads(text)


def _require_same(path: Path, identity: dict[str, Any]) -> None:
    """Refuse scores that are not those asked for.

    Raises:
        BadInput: If the sidecar says otherwise.
    """
    kept = files.read_json(path.with_suffix(".json"))
    remedy = "Delete it, or use another name."
    table_records.require_same(path, kept, identity, remedy)


def _weights(run: Run, pipe: EnsemblePipeline, which: str | int) -> dict[str, Any]:
    """What goes on record of the weights of the scored model, where they are known."""
    if which == REFERENCE and run.reference.exists():
        record = files.read_json(run.reference / "member.json")
        return {"reference_sha256": record["weights_sha256"]}
    known = pipe.membership
    return {} if known is None else {"weights_digest": known.weights_digest}


def _facts(scorer: Scorer, setting: Setting, seconds: float) -> dict[str, Any]:
    return {
        "class": type(scorer).__name__,
        "paper": scorer.paper,
        "sign": SIGN,
        "scale": scorer.scale,
        "networks": len(setting.networks),
        "seconds": round(seconds, 3),
        "seconds_before": round(setting.work.seconds_before, 3),
        "gradient_evaluations": setting.work.gradients,
        "forwards": setting.work.forwards,
        "notes": setting.notes,
        "peak_memory_bytes": environment.peak_memory_bytes(),
        "own_peak_memory_bytes": environment.recent_peak_memory_bytes(),
    }
