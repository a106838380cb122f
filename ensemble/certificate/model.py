"""Clauses (b), (d) and (e) for the model: labels, objective, network, average, seeds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ensemble.certificate.subject import (
    Finding,
    Member,
    Subject,
    first_few,
    remark,
    violation,
)
from ensemble.models.denoisers import build_member
from ensemble.provenance import classes
from ensemble.sampling.loading import check_pipeline
from ensemble.sampling.schedulers import sampler
from splits.errors import BadInput

# Options of a scheduler that training fixes; the others only concern sampling.
_OBJECTIVE = ("prediction_type", "num_train_timesteps", "beta_schedule")
_WHY = (
    "and data.classes is null, so the members know the classes that the images have: "
    "without, every member would know others, and begin with other weights"
)
DECLARE = "Name all classes in data.classes, and train a new run."


def labels(subject: Subject) -> Iterator[Finding]:
    """Check whether a source can change which classes the members know."""
    config, plan = subject.run.config, subject.plan
    if not config.model.class_conditional:
        yield Finding("b", "the members are told nothing: no label can change them")
        return
    if config.data.classes is not None:
        yield Finding(
            "b",
            f"the {len(plan.data.label_names)} classes are those that data.classes "
            "names: no source changes them",
        )
        return
    if subject.asked:
        yield _labels_of_asked(subject)
    else:
        yield from _labels_of_each(subject)
    nobody = classes.of_nobody(plan) if plan.removed else []
    if nobody:
        yield remark(
            "b",
            f"the classes still have {', '.join(nobody)}, which removed sources alone "
            "had: a run that had never held these would know fewer classes. What they "
            "showed is in no member that votes",
        )


def _labels_of_asked(subject: Subject) -> Finding:
    """Check whether members would know other classes without the requested sources."""
    lost = classes.only_of(subject.plan, subject.asked)
    if not lost:
        return Finding(
            "b",
            "every label of these sources belongs to others too: without them the "
            "members would know the same classes",
        )
    return violation(
        "b",
        f"no other source than {subject.plan.called.these(subject.asked)} has the label "
        f"{' or '.join(map(repr, lost))}, {_WHY}",
        DECLARE,
        tuple(subject.asked),
    )


def _labels_of_each(subject: Subject) -> Iterator[Finding]:
    """Remark on each source that is the only one with some label.

    Labels that several sources share are only checked for the sources of `--sources`.
    """
    plan = subject.plan
    found = classes.by_single_source(plan)
    n_others = plan.codes.n_sources - len(plan.removed) - len(found)
    for source, names in found.items():
        # A statement about each source is also true of any of them together.
        yield remark(
            "b",
            f"not exact without source {plan.called.called(source)}: it alone has the "
            f"label {' and '.join(map(repr, names))}, {_WHY}",
            (source,),
        )
    if n_others:
        yield remark(
            "b",
            f"{n_others} sources have no label alone. Several together may: ask with "
            "--sources, or let data.classes name the classes, which no source changes",
        )


def pipeline(subject: Subject) -> Iterator[Finding]:
    """Check that the pipeline's sampling files are as they were written."""
    recorded = "files" in subject.manifest["stages"].get("train", {})
    if not recorded and not (subject.run.path / "model_index.json").exists():
        yield remark("d", "Not checked: the pipeline, which is not on record yet")
        return
    try:
        check_pipeline(subject.run.path, subject.manifest)
    except BadInput as error:
        yield violation("d", str(error))
        return
    yield Finding("d", "what says how to sample is as it was written")


def objective(subject: Subject) -> Iterator[Finding]:
    """Do members learn, and the sampler follow, what the config says?"""
    config = subject.run.config
    path = subject.run.path / "scheduler" / "scheduler_config.json"
    if "train" not in subject.manifest["stages"] or not path.exists():
        yield remark(
            "b", "Not checked: the objective, because there is no scheduler yet"
        )
        return
    found = _read_json(path)
    wanted = dict(sampler(config.model, config.sampling).config)
    for name in _OBJECTIVE:
        if name in wanted and found.get(name) != wanted[name]:
            yield violation(
                "d",
                f"{path} has {name} {found.get(name)!r}; the config of the run says "
                f"{wanted[name]!r}",
            )
            return
    model = config.model
    yield Finding(
        "b",
        f"the objective is fixed by the config: {model.prediction_type} at "
        f"{model.n_timesteps} timesteps of the schedule {model.schedule}, and so says "
        "the scheduler; nothing of it is fitted",
    )


def network(subject: Subject) -> Iterator[Finding]:
    """Is every member the network that the config says, whoever its sources are?"""
    config, plan = subject.run.config, subject.plan
    n_classes = len(plan.data.label_names) if config.model.class_conditional else None
    try:
        with torch.device("meta"):
            member = build_member(
                config.model, plan.data.images.shape[1:], n_classes, 0
            )
    except BadInput as error:
        yield violation("e", str(error))
        return
    wanted = _public_options({**member.config})
    found = 0
    for one in subject.members:
        has = _public_options(_read_json(one.folder / "config.json"))
        other = [name for name in wanted if name in has and has[name] != wanted[name]]
        if other:
            found += 1
            yield violation(
                "e",
                f"member {one.number} is another network than the config says: "
                f"{other[0]} is {has[other[0]]}, expected {wanted[other[0]]}",
            )
    if not found and subject.members:
        told = "" if n_classes is None else f" for {n_classes} classes"
        yield Finding(
            "e",
            f"all {len(subject.members)} members are the network that the config "
            f"says{told}",
        )


def average(subject: Subject) -> Iterator[Finding]:
    """Check that weights are averaged over one member's own training at most."""
    decay, unrecorded = subject.run.config.training.ema_decay, list[int]()
    for one in subject.members:
        recorded = _training_of(one)
        if recorded is None:
            unrecorded.append(one.number)
        elif recorded.get("ema_decay") != decay:
            yield violation(
                "a",
                f"member {one.number} was trained with ema_decay "
                f"{recorded.get('ema_decay')}; the config of the run says {decay}",
            )
            return
    if unrecorded:
        yield remark(
            "a",
            f"Not recorded: whether members {first_few(unrecorded)} vote with an average of "
            "their weights. Version 0.1 did not write it down",
        )
    elif subject.members:
        yield Finding(
            "a",
            "every member votes with "
            + (
                "the last weights of its own training"
                if decay is None
                else f"the moving average (decay {decay}) of its own training's weights"
            ),
        )


def draws(subject: Subject) -> Iterator[Finding]:
    """Check that order, timesteps, noise and augmentation follow from keyed seeds alone."""
    config, found = subject.run.config, 0
    settings = config.training
    for one in subject.members:
        seed = one.record.get("seed", settings.seed)
        if one.start is None and seed != settings.seed:
            found += 1
            yield violation(
                "d",
                f"member {one.number} was trained with the seed {seed}; training.seed "
                f"is {settings.seed}",
            )
    if found or not subject.members:
        return
    whose = "alone" if settings.shared_noise else "and the number of the member"
    what = ["timesteps", "noise"]
    what += ["flips"] if settings.flip else []
    what += ["dropout"] if config.model.dropout else []
    if config.model.class_conditional and settings.label_dropout:
        what.append("which labels are hidden")
    yield Finding(
        "d",
        f"{', '.join(what)} follow from the seed and the step {whose}, and the order of "
        "images from the seed, the epoch and the number of the member: the records name "
        f"the seed {'that the config gives' if config.extends is None else 'of each'}",
    )


def _training_of(member: Member) -> dict[str, Any] | None:
    """The `training` options that a member's record lists; None if it lists none."""
    return member.record.get("trained_for", {}).get("options", {}).get("training")


def _public_options(config: dict[str, Any]) -> dict[str, Any]:
    """A network's config as JSON stores it, without diffusers' private entries."""
    plain = json.loads(json.dumps(config, default=str))
    return {name: value for name, value in plain.items() if not name.startswith("_")}


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that diffusers wrote; {} if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
