"""Trains members, each on its split alone, so that stopping never changes the result.

A member's folder gets its name when the member is done, with `exposure.npy`: how often
each training image was really shown to it.

The reference is one more model, trained in the same way on everything. It is no member:
scorers may look at it, the ensemble never does.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Bool, Int
from tqdm.auto import tqdm

from ensemble.provenance import extension
from ensemble.provenance.plans import Plan
from ensemble.run import files, lineage, records
from ensemble.run.folder import CHECKPOINT, REFERENCE, WEIGHTS, Run, Trainable, called
from ensemble.system import environment, launching, locks
from ensemble.training import loss_log, sisa
from ensemble.training.data_parallel import ALONE, Deserted, Team, formed
from ensemble.training.process import Interrupted, Stopping, prepared
from ensemble.training.trainer import Diverged, MemberTrainer
from splits.codes import CodeBook


def trains_on(
    codes: CodeBook, member: Trainable, removed: Sequence[int] = ()
) -> Bool[np.ndarray, " sources"]:
    """Which sources a member trains on: its split, or everything for the reference.

    Removed sources are neither's.
    """
    everything = np.ones(codes.n_sources, dtype=bool)
    sources = everything if member == REFERENCE else codes.bits[:, member].copy()
    sources[list(removed)] = False
    return sources


def member_images(
    codes: CodeBook,
    source_of: Int[np.ndarray, " images"],
    member: Trainable,
    removed: Sequence[int] = (),
) -> Int[np.ndarray, " split"]:
    """Indices of the training images that a member trains on, ascending."""
    return np.flatnonzero(trains_on(codes, member, removed)[source_of])


def train_members(
    run: Run, members: Sequence[Trainable], plan: Plan, stopping: Stopping
) -> dict[Trainable, str]:
    """Train this process's share of the members, one after another.

    Of n processes, or teams of them, each takes every n-th member. Under `accelerate
    launch` they wait for each other at the end.

    Returns:
        For each member that failed, why; of a team, the first process says so.

    Raises:
        Interrupted: If asked to stop; the checkpoint is written.
        BadInput: If the processes do not form whole teams, or one does not agree.
    """
    accelerator = prepared(run.config.training)
    team = formed(accelerator, run.config.training.processes_per_member)
    # Whoever starts late may find more done: what is dealt out is the first one's list.
    (members,) = broadcast_object_list([list(members)])
    failed = {}
    for member in members[team.number :: team.n_teams]:
        try:
            outcome = train_member(run, member, plan, accelerator, stopping, team)
        except Diverged as error:
            if team.first:
                failed[member] = str(error)
            continue
        except Deserted as error:
            # Without its team, this process can train no other member either.
            return {**failed, member: f"{called(member).capitalize()}: {error}"}
        if not team.first:
            continue
        outcome = outcome or f"left to {locks.holder(run.trained(member))}"
        tqdm.write(f"{called(member)}: {outcome}")
    if not launching.is_launched():
        stopping.waiting = True
        accelerator.wait_for_everyone()
    return failed


def train_member(
    run: Run,
    member: Trainable,
    plan: Plan,
    accelerator: Accelerator,
    stopping: Stopping,
    team: Team = ALONE,
) -> str | None:
    """Train one member to its end, from its checkpoint if it has one.

    A member that was trained on another split gives way once the new one is done.

    Returns:
        What has become of it, for people; None if another process is at it.

    Raises:
        Interrupted: If asked to stop; the checkpoint is written.
        Diverged: If the loss is no longer finite.
        Deserted: If another process of the team is gone.
        BadInput: If the team does not mean the same sources, or start at the same step.
    """
    folder = run.trained(member)
    folder.parent.mkdir(exist_ok=True)
    with contextlib.ExitStack() as held:
        free = team.first and held.enter_context(locks.try_exclusive(folder))
        if not team.told(free):
            return None
        sources = trains_on(plan.codes, member, plan.removed)
        digest = _split_digest(sources)
        # Gradients of another split would be traces of sources it may not see.
        team.require_same(digest, f"the sources that {called(member)} trains on")
        if team.told(_trained_on(folder) == digest):
            if team.first:
                files.remove_hidden_files(folder)
            return "was trained already"
        # A process may end after a member is finished, before its folder has its name.
        if not team.told(team.first and _is_finished(run, member, digest)):
            _make(run, member, plan, sources, accelerator, stopping, team)
        if team.first:
            files.commit_folder(folder.with_suffix(".part"), folder)
            # Not before: whoever is killed on the way goes on from the checkpoint.
            files.remove_hidden_files(folder)
        return "trained"


def _make(
    run: Run,
    member: Trainable,
    plan: Plan,
    sources: Bool[np.ndarray, " sources"],
    accelerator: Accelerator,
    stopping: Stopping,
    team: Team,
) -> None:
    """Finish a member in its `.part` folder: taken from an earlier run, or trained."""
    folder, digest = run.trained(member), _split_digest(sources)
    partial = folder.with_suffix(".part")
    partial.mkdir(exist_ok=True)
    start = extension.start_of(run, member, len(plan.source_of))
    if start is not None and not start.goes_on:
        extension.take_over(start, partial, digest)
        return
    split = np.flatnonzero(sources[plan.source_of])
    slice_of = sisa.of_images(run.config, plan)
    trainer = MemberTrainer(
        run, member, plan.data, split, accelerator, slice_of, start, team
    )
    sisa.inherit(folder, trainer.folder, trainer.split.digests, trainer.due)
    trainer.load_checkpoint()
    _train(trainer, stopping, _writer(run, member) if team.first else None)
    if team.first:
        _finish(run, trainer, int(sources.sum()), digest)


def _split_digest(sources: Bool[np.ndarray, " sources"]) -> str:
    return CodeBook(sources[:, None]).split_digest(0)


def _trained_on(folder: Path) -> str | None:
    """The digest of the split of the finished member in a folder, if one is there."""
    record = folder / "member.json"
    return files.read_json(record)["split_digest"] if record.exists() else None


def _is_finished(run: Run, member: Trainable, split_digest: str) -> bool:
    """Whether a member in the making is finished; one of another run is deleted."""
    partial = run.trained(member).with_suffix(".part")
    if _trained_on(partial) != split_digest:
        return False
    record = files.read_json(partial / "member.json")
    found = lineage.Expected.of(run.path).contradictions(member, record)
    if found:
        tqdm.write(
            f"{partial} was not trained for this run ({'; '.join(found)}); "
            f"{called(member)} goes back."
        )
        shutil.rmtree(partial)
    return not found


def _train(trainer: MemberTrainer, stopping: Stopping, writer: Any) -> None:
    """Train a member from where it is to its last step.

    Raises:
        Interrupted: If asked to stop; the checkpoint is written.
        Diverged: If the loss is no longer finite.
        Deserted: If another process of the team is gone.
    """
    settings, state, team = trainer.settings, trainer.state, trainer.team
    log_file = trainer.folder / sisa.LOG if team.first else Path(os.devnull)
    if team.first:
        loss_log.mend(log_file, state, settings)
    bar = tqdm(
        total=settings.steps * settings.batch_size,
        initial=state.step * settings.batch_size,
        desc=called(trainer.member),
        unit=" images",
        position=trainer.accelerator.local_process_index,
        leave=False,
        disable=None if team.first else True,
    )
    with bar, log_file.open("a", encoding="utf-8") as log:
        began, before = time.perf_counter(), state.seconds
        while state.step < settings.steps:
            n_points = len(state.losses)
            trainer.step()
            # Before any checkpoint: who goes on from one does not come here again.
            trainer.keep_weights()
            state.seconds = before + time.perf_counter() - began
            bar.update(settings.batch_size)
            if len(state.losses) > n_points:
                state.loss_seconds[-1] = state.seconds
                loss_log.report(state, settings, bar, log, writer)
            if state.step in trainer.split.ends:
                trainer.save_checkpoint(trainer.split.ends[state.step])
            if team.any(stopping.asked or launching.is_orphaned()):
                trainer.save_checkpoint()
                raise Interrupted
            unfinished = state.step < settings.steps
            if unfinished and state.step % settings.checkpoint_every_steps == 0:
                trainer.save_checkpoint()


def _finish(
    run: Run, trainer: MemberTrainer, n_sources: int, split_digest: str
) -> None:
    """Write what the member is and what it saw."""
    folder, state = trainer.folder, trainer.state
    trainer.finished().save_pretrained(folder)
    files.write_array(folder / "exposure.npy", state.exposure)
    weights = files.sha256(folder / WEIGHTS)
    facts = {
        "member": trainer.member,
        "n_sources": n_sources,
        "n_images": len(trainer.split.images),
        "images_seen": int(state.exposure.sum()),
        "steps_kept": sisa.steps_kept(folder.with_suffix(""), trainer.split.ends),
        "split_digest": split_digest,
        "weights_sha256": weights,
        "weights_seed": trainer.seed,
        "seed": trainer.settings.seed,
        "loss_curve": {"steps": state.loss_steps, "loss": state.losses},
        "seconds": round(state.seconds, 3),
        "peak_memory_bytes": environment.peak_memory_bytes(),
        "device": trainer.accelerator.device.type,
        "finished": environment.now(),
    }
    due = trainer.due[CHECKPOINT]
    facts["trained_for"] = {
        "options": due["options"],
        "code_book_digest": files.read_json(run.manifest)["code_book_digest"],
        "data_fingerprint": trainer.data_fingerprint,
        "images_digest": due["images_digest"],
    }
    if state.unrecorded_steps:
        facts["unrecorded_steps"] = state.unrecorded_steps
    if trainer.start is not None:
        facts["went_on_from"] = trainer.start.weights_sha256
    records.write_done_mark(folder, "member.json", facts)


def _writer(run: Run, member: Trainable) -> Any:
    """A TensorBoard writer for a member's loss, if the config asks for one."""
    if not run.config.training.tensorboard:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(run.path / "tensorboard" / run.trained(member).name)
