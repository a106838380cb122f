"""The sources that are asked about: who saw them, who is left, and who really runs."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from ensemble.certificate.subject import (
    Finding,
    Subject,
    broken,
    noted,
    some,
)
from ensemble.sampling.pipeline import EnsemblePipeline


def ablated(subject: Subject) -> Iterator[Finding]:
    """Generate without the sources; do members that saw them run all the same?"""
    asked, plan = subject.asked, subject.plan
    if not asked:
        return
    names = plan.called.these(asked)
    gone = sorted(set(asked) & set(plan.removed))
    if gone:
        yield noted("", f"Removed already: {plan.called.these(gone)}")
    seen = np.flatnonzero(plan.codes.bits[asked].any(axis=0))
    saw = sorted(set(subject.voting) & set(seen.tolist()))
    left = [m for m in subject.voting if m not in saw]
    if not left:
        yield broken(
            "a",
            f"all {len(subject.voting)} members that vote saw {names}: without "
            f"{'it' if len(asked) == 1 else 'them'} nobody is left",
            "Ask for fewer sources at once, or train with a design that keeps members "
            "without so many (train.py CONFIG --plan --remove N).",
            tuple(asked),
        )
        return
    ran = members_that_run(subject, asked)
    for member in sorted(ran & set(saw)):
        yield broken(
            "a", f"member {member} saw a source of {list(asked)}, and still runs"
        )
    if not ran & set(saw):
        yield Finding(
            "a",
            f"of {len(subject.voting)} members that vote, {len(saw)} saw {names}: "
            f"{some(saw) or 'none'}. Left without: {len(left)}: {some(left)}. A picture "
            f"was generated without: {len(ran)} members ran, {some(sorted(ran))}, and "
            "none that saw",
        )


def members_that_run(subject: Subject, sources: Sequence[int]) -> set[int]:
    """Numbers of the members whose networks run when the sources are ablated."""
    pipe = EnsemblePipeline.from_pretrained(subject.run.path)
    pipe.set_progress_bar_config(disable=True)
    return that_run(pipe, sources)


def that_run(pipe: EnsemblePipeline, sources: Sequence[int]) -> set[int]:
    """Numbers of the members of a pipeline that run when the sources are ablated."""
    ran: set[int] = set()
    hooks = [
        network.register_forward_hook(functools.partial(_note, ran, member))
        for member, network in zip(
            pipe.members.member_ids, pipe.members.networks, strict=True
        )
    ]
    label = None if pipe.members.no_label is None else 0
    pipe(seeds=[0], ablate=list(sources), class_labels=label, num_inference_steps=1)
    for hook in hooks:
        hook.remove()
    return ran


def _note(ran: set[int], member: int, *_: object) -> None:
    ran.add(member)
