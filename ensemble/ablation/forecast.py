"""What a plan is going to cost and can show, before anything is paid for.

Time comes from a few steps of one member that are really done, and thrown away. What
p-values the codes allow is drawn from them, and images that sit in two sources are
looked for.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64

from ensemble.ablation import placebo, removal_sets
from ensemble.ablation.removal_sets import Units
from ensemble.data.datasets import require_classes
from ensemble.models.conditioning import UNCONDITIONAL, ClassLabels, Condition
from ensemble.models.denoisers import build_member, predict
from ensemble.models.objective import objective_of
from ensemble.provenance import extension
from ensemble.provenance.plans import Plan
from ensemble.run.config import Config
from ensemble.system import launching
from ensemble.training.optimization import denoising_loss
from ensemble.training.process import prepared
from splits import duplicates
from splits.errors import BadInput

TIMED_SECONDS = 1.5
# More times than this say nothing new.
MOST_TIMES = 100
# Pictures that are denoised at once where a forward pass is timed.
_PICTURES = 64
# All pairs are compared: with so many images that takes a few seconds.
MOST_COMPARED = 20_000
# More placebos than this are not drawn to know the smallest p.
MOST_PLACEBOS = 100_000


@dataclass(frozen=True, eq=False)
class Ablations:
    """What exact ablation of every source would sample.

    Attributes:
        removed: Every source as a unit of its own.
        placebos: The codes that they are compared with.
    """

    removed: Units
    placebos: Bool[np.ndarray, "placebos members"]


def described(config: Config, plan: Plan) -> str:
    """Time, what can stand out, and pictures in two sources, as lines of a plan.

    A few steps of one member are trained, and forgotten again.
    """
    ablations = _ablations(config, plan)
    return "\n".join(
        [
            *_times(config, plan, ablations),
            _findable(ablations),
            *_in_two_sources(config, plan),
        ]
    )


def timed(work: Callable[[], object], seconds: float = TIMED_SECONDS) -> list[float]:
    """Seconds that some work takes, again and again; at least once.

    The first time is left out if there is a second: it also sets things up.
    """
    began, found = time.perf_counter(), list[float]()
    while not found or (
        time.perf_counter() - began < seconds and len(found) <= MOST_TIMES
    ):
        before = time.perf_counter()
        work()
        found.append(time.perf_counter() - before)
    return found[1:] or found


def spoken(seconds: float) -> str:
    """A time in the unit that fits it, with two digits that count."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{_two_digits(seconds / length)} {unit}"
    return f"{_two_digits(seconds)} s"


def _two_digits(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def _so_many(number: int | float, seconds: list[float]) -> str:
    """How long so many take together: likely, and if all are as quick or slow as some."""
    low, middle, high = (np.quantile(seconds, (0.1, 0.5, 0.9)) * number).tolist()
    return f"{spoken(middle)} ({spoken(low)} to {spoken(high)})"


def _times(config: Config, plan: Plan, ablations: Ablations | None) -> Iterator[str]:
    """How long training takes, and exact ablation of one picture."""
    settings = config.training
    n_trained = extension.n_trained(config, plan.codes)
    try:
        step, forward = _works(config, plan)
    except BadInput as error:
        yield f"time          cannot be measured here: {error}"
        return
    steps, forwards = timed(step), timed(forward)
    per_member = settings.processes_per_member
    processes = launching.n_processes(settings.processes, n_trained, per_member)
    all_steps = n_trained * settings.steps
    line = f"time          {_so_many(all_steps, steps)} of training in all"
    if processes > 1:
        line += (
            f"; {_so_many(all_steps / processes, steps)} if {processes} processes do "
            "not slow each other down"
        )
    yield line
    if ablations is not None:
        cores = 1 if torch.accelerator.is_available() else os.cpu_count() or 1
        share = _forwards(config, ablations) / _PICTURES / cores
        yield (
            f"              {_so_many(share, forwards)} to ablate every source from one "
            "picture exactly"
        )
    yield (
        f"              estimates, from {len(steps)} steps and {len(forwards)} forward "
        "passes of one member, timed here just now; reading images is not in them"
    )


def _works(
    config: Config, plan: Plan
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A step of training a member, and a forward pass of it with several pictures."""
    accelerator = prepared(config.training)
    shape = plan.data.images.shape[1:]
    n_classes = require_classes(plan.data) if config.model.class_conditional else None
    network = build_member(config.model, shape, n_classes, 0).to(accelerator.device)
    objective = objective_of(config.model)
    rate = config.training.learning_rate
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, fused=True)
    per_member = config.training.processes_per_member

    def given(n_images: int) -> tuple[torch.Tensor, torch.Tensor, Condition]:
        noise = torch.randn((n_images, *shape), generator=torch.Generator())
        times = objective.even_times(n_images)
        told: Condition = UNCONDITIONAL
        if n_classes is not None:
            told = ClassLabels(torch.arange(n_images) % n_classes, n_classes)
        device = accelerator.device
        return noise.to(device), times.to(device), told.to(device)

    noise, times, told = given(config.training.batch_size // per_member)
    pictures = given(_PICTURES)

    def step() -> None:
        network.train()
        loss = denoising_loss(
            network, objective, noise, times, noise, told, accelerator
        )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    @torch.no_grad()
    def forward() -> None:
        network.eval()
        predict(network, *pictures).sum().item()

    return step, forward


def _ablations(config: Config, plan: Plan) -> Ablations | None:
    """What exact ablation would sample; None if some source cannot be ablated."""
    try:
        removed = removal_sets.each_source(plan)
    except BadInput:
        return None
    wanted = min(placebo.enough(len(removed.sources)), MOST_PLACEBOS)
    placebos = placebo.codes(plan, removed, wanted, config.splits.seed)
    return Ablations(removed, placebos)


def _forwards(config: Config, ablations: Ablations) -> int:
    """Member forwards of exact ablation of all sources of one picture."""
    n_left = (~ablations.removed.silenced).sum() + (~ablations.placebos).sum()
    guided = config.model.class_conditional and config.sampling.guidance_scale != 1
    return int(n_left) * config.sampling.n_steps * (2 if guided else 1)


def _findable(ablations: Ablations | None) -> str:
    """The smallest p that the codes allow."""
    if ablations is None:
        return (
            "smallest p    none: every member sees some source, so it cannot be ablated"
        )
    removed, placebos = ablations.removed, ablations.placebos
    smallest = placebo.smallest_p(removed.weights, placebos.sum(axis=1))
    line = (
        f"smallest p    {smallest:.3g} for a source, corrected for "
        f"{len(removed.sources)} sources, with {len(placebos):,} placebo codes"
    )
    if smallest <= placebo.THRESHOLD:
        return line
    return (
        f"{line}: no source can stand out at p <= {placebo.THRESHOLD}, because too few "
        "codes belong to nobody. Take more members (splits.n_members), or another "
        "weight or design (--plan --remove 1 compares designs)"
    )


def _in_two_sources(config: Config, plan: Plan) -> Iterator[str]:
    """Pictures that sit in sources with different codes."""
    same = _apart(plan, duplicates.identical(plan.data.images))
    yield f"identical     {_pairs(plan, same, 'identical images')}"
    if len(plan.data.images) > MOST_COMPARED:
        yield (
            f"alike         not looked for among more than {MOST_COMPARED:,} images; "
            "`attribute.py RUN verify` does"
        )
        return
    near = config.data.near
    pairs, _ = duplicates.near_pairs(plan.data.pictures(), near)
    known = {tuple(pair) for pair in same.tolist()}
    alike = [pair for pair in _apart(plan, pairs).tolist() if tuple(pair) not in known]
    told = f"images at a distance of {near:g} or less"
    yield f"alike         {_pairs(plan, np.array(alike, np.int64).reshape(-1, 2), told)}"


def _apart(
    plan: Plan, pairs: Int64[np.ndarray, "pairs two"]
) -> Int64[np.ndarray, "apart two"]:
    """Those pairs whose sources have different codes."""
    codes = plan.codes.bits[plan.source_of[pairs]]
    return pairs[(codes[:, 0] != codes[:, 1]).any(axis=1)]


def _pairs(plan: Plan, pairs: Int64[np.ndarray, "pairs two"], kind: str) -> str:
    """How many pairs there are, the first of them, and what to do."""
    if not len(pairs):
        return f"no {kind} in sources with different codes"
    first, second = pairs[0].tolist()
    sources = np.unique(plan.source_of[pairs])
    one, two = (
        f"{plan.data.names[image]} of {_called(plan, int(plan.source_of[image]))}"
        for image in (first, second)
    )
    return (
        f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''} of {kind} in "
        f"{len(sources)} sources with different codes, such as {one} and {two}: without "
        "one, the other stays, so that no ablation of one of them is exact. Make them "
        "one source (data.source=near_duplicates), or leave all but one of them out"
    )


def _called(plan: Plan, source: int) -> str:
    name = plan.source_names[source]
    return f"source {source}" if name == str(source) else f"source {source} ({name})"
