"""Check an ablation: which members saw the sources, which remain, and which ones run."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from ensemble.certificate.subject import Finding, Subject, first_few, remark, violation
from ensemble.sampling.pipeline import EnsemblePipeline


def ablated(subject: Subject) -> Iterator[Finding]:
    """Generate a picture without the sources, and check that no member that saw them runs.

    Nothing is yielded if no sources were asked about.
    """
    asked, plan = subject.asked, subject.plan
    if not asked:
        return
    names = plan.called.these(asked)
    gone = sorted(set(asked) & set(plan.removed))
    if gone:
        yield remark("", f"Removed already: {plan.called.these(gone)}")
    seen = np.flatnonzero(plan.codes.bits[asked].any(axis=0))
    saw = sorted(set(subject.voting) & set(seen.tolist()))
    left = [m for m in subject.voting if m not in saw]
    if not left:
        yield violation(
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
        yield violation(
            "a", f"member {member} saw a source of {list(asked)}, and still runs"
        )
    if not ran & set(saw):
        yield Finding(
            "a",
            f"of {len(subject.voting)} members that vote, {len(saw)} saw {names}: "
            f"{first_few(saw) or 'none'}. Left without: {len(left)}: {first_few(left)}. A picture "
            f"was generated without: {len(ran)} members ran, {first_few(sorted(ran))}, and "
            "none that saw",
        )


def members_that_run(subject: Subject, sources: Sequence[int]) -> set[int]:
    """Find out which members run when a run folder's pipeline ablates the sources.

    Returns:
        The numbers of the members whose networks were called.
    """
    pipe = EnsemblePipeline.from_pretrained(subject.run.path)
    pipe.set_progress_bar_config(disable=True)
    return running_members(pipe, sources)


def running_members(pipe: EnsemblePipeline, sources: Sequence[int]) -> set[int]:
    """Find out which members run when a loaded pipeline ablates the sources.

    Returns:
        The numbers of the members whose networks were called in one sampling step.
    """
    ran: set[int] = set()
    hooks = [
        network.register_forward_hook(functools.partial(_add_member, ran, member))
        for member, network in zip(
            pipe.members.member_ids, pipe.members.networks, strict=True
        )
    ]
    label = None if pipe.members.no_label is None else 0
    pipe(seeds=[0], ablate=list(sources), class_labels=label, num_inference_steps=1)
    for hook in hooks:
        hook.remove()
    return ran


def _add_member(ran: set[int], member: int, *_: object) -> None:
    """Note that a member ran; this is a forward hook of its network."""
    ran.add(member)
