"""Trains members, each on its split alone, so that stopping never changes the result.

Every draw is keyed (seeding.py): order by (seed, member, epoch), timesteps and noise by
(seed, step) where members share them and by (seed, member, step) where they do not. A
checkpoint is one file, replaced whole. A member's folder gets its name when the member
is done, with `exposure.npy`: how often each training image was really shown to it.

The reference is one more model, trained in the same way on everything. It is no member:
scorers may look at it, the ensemble never does.
"""

import contextlib
import dataclasses
import datetime
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import GradientAccumulationPlugin, broadcast_object_list
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_model
from torch import Tensor
from tqdm.auto import tqdm

from ensemble.data.datasets import (
    TrainingImages,
    require_classes,
)
from ensemble.data.loader import (
    key_of,
    make_loader,
)
from ensemble.models.conditioning import NOTHING, ClassLabels, Condition
from ensemble.models.denoisers import (
    build_member,
    predict,
)
from ensemble.models.objective import Objective, objective_of
from ensemble.provenance import extension
from ensemble.provenance.extension import Start
from ensemble.provenance.plan import Plan
from ensemble.run import (
    files,
    lineage,
    locations,
    records,
)
from ensemble.run.config import (
    Config,
    TrainingConfig,
)
from ensemble.run.folder import (
    CHECKPOINT,
    REFERENCE,
    WEIGHTS,
    Run,
    Trainable,
)
from ensemble.system import (
    environment,
    launching,
    locks,
    seeding,
)
from ensemble.training import (
    checkpoint,
    sisa,
    snapshots,
)
from ensemble.training.data_parallel import (
    ALONE,
    Deserted,
    Team,
    formed,
)
from splits import guarantees
from splits.codes import CodeBook
from splits.designs import placebos
from splits.errors import BadInput


class Interrupted(Exception):
    """Training was asked to stop; a checkpoint has been written."""


class Diverged(Exception):
    """A member's loss is no longer finite."""


@dataclass
class Progress:
    """What a member's training has come to; all of it is in the checkpoint.

    Attributes:
        step: Optimiser steps done.
        exposure: Times that each training image was shown, uint32 (images,).
        loss_steps: Steps at which a point of the loss curve was taken.
        losses: Mean loss since the point before.
        running: Losses since the last point.
        seconds: Spent on it so far.
        loss_seconds: Seconds spent at each point of the loss curve; of those before
            this was kept there are none.
        unrecorded_steps: Steps done by version 0.1, whose checkpoints did not say what
            they were trained for.
        kept: The sha256 of each file of weights that were kept on the way.
    """

    exposure: np.ndarray
    step: int = 0
    loss_steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    seconds: float = 0.0
    loss_seconds: list[float] = field(default_factory=list)
    unrecorded_steps: int = 0
    kept: dict[str, str] = field(default_factory=dict)


# All of a member's progress that is no tensor, by its names in a checkpoint.
_FACTS = [one.name for one in dataclasses.fields(Progress) if one.name != "exposure"]


class Trainee:
    """One member while it is trained: weights, optimiser, average and progress.

    Args:
        run: The run folder.
        member: Its number in the code book; or the reference.
        data: All training images; the member sees only its split of them.
        split: Indices of the images that it trains on.
        accelerator: Decides device and precision.
        slice_of: The slice of each training image, if they join one after the other.
        start: A member of an earlier run that it goes on from; None: from nothing.
        team: The processes that train it together.
    """

    def __init__(
        self,
        run: Run,
        member: Trainable,
        data: TrainingImages,
        split: Int[np.ndarray, " split"],
        accelerator: Accelerator,
        slice_of: Int[np.ndarray, " images"] | None = None,
        start: Start | None = None,
        team: Team = ALONE,
    ) -> None:
        self.start, self.team = start, team
        self.settings = _settings(run, start)
        self.member: Trainable = member
        self.folder = run.trained(member).with_suffix(".part")
        self.accelerator = accelerator
        self.split = sisa.order(split, slice_of, self.settings, member)
        began = start.weights_sha256 if start else None
        self.due = sisa.due(run.config, member, data, self.split.shown, began)
        self.data_fingerprint = data.fingerprint()
        self.shape = data.images.shape[1:]
        self.batches = make_loader(
            data.images,
            accelerator.device,
            lambda step: team.part(self.split.batch(step, self.settings.batch_size)),
            self.settings.steps,
        )
        self.condition: Condition = NOTHING
        n_classes = None
        if run.config.model.class_conditional:
            n_classes = require_classes(data)
            labels = torch.tensor(data.labels, device=accelerator.device)
            self.condition = ClassLabels(labels, n_classes)
        self.seed = seeding.seed_of(self.settings.seed, "weights", *self._whose())
        network = build_member(run.config.model, self.shape, n_classes, self.seed)
        if start is not None:
            load_model(network, start.weights)
        self.network = network.to(accelerator.device).train()
        self.objective = objective_of(run.config.model)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            # One kernel instead of one per weight: a sixth of a small member's step.
            fused=True,
        )
        self.scaled = accelerator.prepare_optimizer(self.optimizer)
        self.average = _average(self.network, self.settings)
        shown = np.zeros(len(data.images), dtype=np.uint32)
        self.progress = Progress(start.exposure.copy() if start else shown)

    def step(self) -> float:
        """One optimiser step; returns its loss.

        Raises:
            Diverged: If the loss is not finite; names member and step.
        """
        settings, step = self.settings, self.progress.step
        shown = self.split.batch(step, settings.batch_size)
        clean, label = self._inputs(shown, step)
        # Dropout can only draw from torch's own generator; every process drops its own.
        key = seeding.seed_of(settings.seed, "dropout", *self._whose(), step)
        torch.manual_seed(key + self.team.rank)
        loss = denoising_loss(
            self.network,
            self.objective,
            clean,
            *self._noise(len(shown), step),
            label,
            self.accelerator,
        )
        value = self.team.mean(loss.item())
        if not math.isfinite(value):
            raise Diverged(
                f"{called(self.member).capitalize()}: the loss is {value} at step {step}. Lower "
                "training.learning_rate, or use mixed_precision=no."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        self.accelerator.backward(loss)
        weights = self.network.parameters()
        self.team.average(
            [weight.grad for weight in weights if weight.grad is not None]
        )
        self.accelerator.clip_grad_norm_(
            self.network.parameters(), settings.max_grad_norm
        )
        self.scaled.step()
        self.scaled.zero_grad()
        if self.average is not None:
            self.average.step(self.network.parameters())
        self._advance(shown, value)
        return value

    def _whose(self) -> list[int]:
        """What keys a stream: nothing where members share it, else the member."""
        return [] if self.settings.shared_noise else key_of(self.member)

    def _inputs(self, shown: np.ndarray, step: int) -> tuple[Tensor, Condition]:
        """Images and conditions of this process's part of a batch, augmented."""
        part = self.team.part
        clean = self.batches.at(step, part(shown))
        if self.settings.flip:
            rng = seeding.rng(self.settings.seed, "flip", *self._whose(), step)
            mirrored = torch.from_numpy(part(rng.random(len(shown))) < 0.5)
            clean = torch.where(
                mirrored[:, None, None, None].to(clean.device), clean.flip(-1), clean
            )
        if not isinstance(self.condition, ClassLabels):
            return clean, self.condition
        rng = seeding.rng(self.settings.seed, "label", *self._whose(), step)
        hidden = part(rng.random(len(shown))) < self.settings.label_dropout
        device = self.condition.labels.device
        told = self.condition[torch.from_numpy(part(shown)).to(device)]
        return clean, told.hidden(torch.from_numpy(hidden).to(device))

    def _noise(self, n_images: int, step: int) -> tuple[Tensor, Tensor]:
        """Timesteps and noise of this process's part; they depend on no image."""
        keyed = seeding.generator(self.settings.seed, "noise", *self._whose(), step)
        timestep = self.objective.sample_times(n_images, keyed)
        noise = torch.randn((n_images, *self.shape), generator=keyed)
        device, part = self.accelerator.device, self.team.part
        return part(timestep).to(device), part(noise).to(device)

    def _advance(self, shown: np.ndarray, loss: float) -> None:
        progress = self.progress
        np.add.at(progress.exposure, shown, 1)
        progress.step += 1
        progress.running.append(loss)
        last = progress.step == self.settings.steps
        if progress.step % self.settings.log_every_steps == 0 or last:
            progress.loss_steps.append(progress.step)
            progress.loss_seconds.append(progress.seconds)
            progress.losses.append(float(np.mean(progress.running)))
            progress.running = []

    def keep_weights(self) -> None:
        """Keep the weights of now, if it is time; of a team, the first process does."""
        every, step = self.settings.keep_every_steps, self.progress.step
        if not self.team.first or every is None or step == self.settings.steps:
            return
        if step % every == 0:
            name, digest = snapshots.keep(self.folder, self.network, step)
            self.progress.kept[name] = digest

    def save_checkpoint(self, name: str = CHECKPOINT) -> None:
        """Replace the checkpoint with one of now; of a team, the first process does."""
        if not self.team.first:
            return
        tensors = self._tensors()
        scaler = self.accelerator.scaler
        facts = {
            "split": self.split.digests[name],
            "trained_for": self.due[name],
            **{fact: getattr(self.progress, fact) for fact in _FACTS},
            "average_steps": self.average.optimization_step if self.average else 0,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        checkpoint.write(self.folder / name, tensors, facts)

    def load_checkpoint(self) -> None:
        """Go on from the last checkpoint that is whole; without one, from the start.

        One of another split knows images that this member may not see; one of another
        training would make another member of it.

        Raises:
            BadInput: If the team does not find the same.
        """
        self._go_on()
        progress = self.progress
        begin = f"{progress.step} steps in {progress.seconds} s"
        self.team.require_same(begin, f"how far {called(self.member)} is")

    def _go_on(self) -> None:
        for name in reversed(self.split.digests):
            path = self.folder / name
            if not path.exists():
                continue
            kept = checkpoint.read(path)
            why = self._unfit(name, kept[1]) if kept else "damaged"
            if kept and not why:
                self._restore(*kept)
                break
            tqdm.write(f"{path} is {why}; {called(self.member)} goes back.")
            path.unlink(missing_ok=True)
        snapshots.drop_others(self.folder, self.progress.kept)

    def _unfit(self, name: str, facts: dict[str, Any]) -> str:
        """Why training may not go on from a checkpoint; empty if it may."""
        if not sisa.leads_on(self.folder, self.split, name, facts):
            return "of another split"
        otherwise = sisa.otherwise(facts, self.due[name])
        if otherwise:
            return f"of another training ({'; '.join(otherwise)})"
        if not snapshots.is_whole(self.folder, facts.get("kept", {})):
            return "of a training whose weights on the way were lost or changed"
        return ""

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        tensors = {
            f"weights.{name}": tensor
            for name, tensor in self.network.state_dict().items()
        }
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
        if self.average is not None:
            tensors |= {
                f"average.{index}": value
                for index, value in enumerate(self.average.shadow_params)
            }
        tensors["exposure"] = torch.from_numpy(self.progress.exposure.astype(np.int64))
        return {name: value.contiguous().cpu() for name, value in tensors.items()}

    def _restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        named: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            named.setdefault(group, {})[rest] = tensor
        self.network.load_state_dict(named["weights"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in named.get("adam", {}).items():
            index, _, moment = name.partition(".")
            state.setdefault(int(index), {})[moment] = tensor
        adam = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**adam, "state": state})
        if self.average is not None:
            for index, value in named["average"].items():
                self.average.shadow_params[int(index)].copy_(value)
            self.average.optimization_step = facts["average_steps"]
        if facts["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        if "trained_for" not in facts:
            # Of version 0.1, which wrote down less.
            kept = snapshots.kept(self.folder, facts["step"])
            facts = {**facts, "unrecorded_steps": facts["step"], "kept": kept}
        self.progress = Progress(
            exposure=tensors["exposure"].numpy().astype(np.uint32),
            **{fact: facts[fact] for fact in _FACTS if fact in facts},
        )

    def finished(self) -> UNet2DModel:
        """The weights to generate with: the average, if one is kept."""
        if self.average is not None:
            self.average.copy_to(self.network.parameters())
        return self.network.eval()


def denoising_loss(
    network: torch.nn.Module,
    objective: Objective,
    clean: Float[Tensor, "batch channels height width"],
    timestep: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch channels height width"],
    condition: Condition,
    accelerator: Accelerator,
) -> Float[Tensor, ""]:
    """Mean squared error of the prediction (Ho et al. 2020, eq. 14)."""
    noisy = objective.perturb(clean, noise, timestep)
    with accelerator.autocast():
        prediction = predict(network, noisy, timestep, condition)
    target = objective.target(clean, noise, timestep)
    return torch.nn.functional.mse_loss(prediction.float(), target)


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """Linear warm-up, then constant or half a cosine down to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    left = max(1, settings.steps - settings.warmup_steps)
    done = (step - settings.warmup_steps) / left
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def called(member: Trainable) -> str:
    """What a member, or the reference, is called in messages."""
    return "the reference" if member == REFERENCE else f"member {member:03d}"


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


def train_member(
    run: Run,
    member: Trainable,
    plan: Plan,
    accelerator: Accelerator,
    stopping: "Stopping",
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
        free = team.first and held.enter_context(locks.alone_now(folder))
        if not team.told(free):
            return None
        sources = trains_on(plan.codes, member, plan.removed)
        digest = CodeBook(sources[:, None]).split_digest(0)
        # Gradients of another split would be traces of sources it may not see.
        team.require_same(digest, f"the sources that {called(member)} trains on")
        if team.told(_trained_on(folder) == digest):
            if team.first:
                files.sweep(folder)
            return "was trained already"
        split = np.flatnonzero(sources[plan.source_of])
        slice_of = sisa.of_images(run.config, plan)
        partial = folder.with_suffix(".part")
        # A process may end after a member is finished, before its folder has its name.
        if not team.told(team.first and _is_finished(run, member, digest)):
            partial.mkdir(exist_ok=True)
            start = extension.start_of(run, member, len(plan.source_of))
            if start is not None and not start.goes_on:
                extension.take_over(start, partial, digest)
            else:
                trainee = Trainee(
                    run, member, plan.data, split, accelerator, slice_of, start, team
                )
                sisa.inherit(folder, trainee.folder, trainee.split.digests, trainee.due)
                trainee.load_checkpoint()
                _train(trainee, stopping, _writer(run, member) if team.first else None)
                if team.first:
                    _finish(run, trainee, int(sources.sum()), digest)
        if team.first:
            files.publish(partial, folder)
            # Not before: whoever is killed on the way goes on from the checkpoint.
            files.sweep(folder)
        return "trained"


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


def _train(trainee: Trainee, stopping: "Stopping", writer: Any) -> None:
    settings, progress, team = trainee.settings, trainee.progress, trainee.team
    log_file = trainee.folder / sisa.LOG if team.first else Path(os.devnull)
    if team.first:
        _mend_log(log_file, progress, settings)
    bar = tqdm(
        total=settings.steps * settings.batch_size,
        initial=progress.step * settings.batch_size,
        desc=called(trainee.member),
        unit=" images",
        position=trainee.accelerator.local_process_index,
        leave=False,
        disable=None if team.first else True,
    )
    with bar, log_file.open("a", encoding="utf-8") as log:
        began, before = time.perf_counter(), progress.seconds
        while progress.step < settings.steps:
            n_points = len(progress.losses)
            trainee.step()
            # Before any checkpoint: who goes on from one does not come here again.
            trainee.keep_weights()
            progress.seconds = before + time.perf_counter() - began
            bar.update(settings.batch_size)
            if len(progress.losses) > n_points:
                progress.loss_seconds[-1] = progress.seconds
                _report(progress, settings, bar, log, writer)
            if progress.step in trainee.split.ends:
                trainee.save_checkpoint(trainee.split.ends[progress.step])
            if team.any(stopping.asked or launching.orphaned()):
                trainee.save_checkpoint()
                raise Interrupted
            unfinished = progress.step < settings.steps
            if unfinished and progress.step % settings.checkpoint_every_steps == 0:
                trainee.save_checkpoint()


def _mend_log(log: Path, progress: Progress, settings: TrainingConfig) -> None:
    """Write the log of what is done; steps that will be done again are not in it.

    A process that is killed, or a machine, may leave less than it, more, or half a line.
    """
    old = log.read_bytes().decode(errors="replace").splitlines() if log.exists() else []
    n_points, n_timed = len(progress.losses), len(progress.loss_seconds)
    lines = [
        _log_line(progress, settings, point)
        if point >= n_points - n_timed
        else _old_line(old, progress, settings, point)
        for point in range(n_points)
    ]
    files.write_text(log, "".join(f"{line}\n" for line in lines))


def _old_line(
    old: Sequence[str], progress: Progress, settings: TrainingConfig, point: int
) -> str:
    """The line of a point whose seconds only the log knows, if it is there and whole."""
    line = old[point] if point < len(old) else ""
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        if json.loads(line)["step"] == progress.loss_steps[point]:
            return line
    return _log_line(progress, settings, point)


def _log_line(progress: Progress, settings: TrainingConfig, point: int) -> str:
    """The line of a point of the loss curve; without seconds if those are not known."""
    step = progress.loss_steps[point]
    line = {
        "step": step,
        "loss": round(progress.losses[point], 6),
        "learning_rate": learning_rate(settings, step - 1),
        "images_seen": step * settings.batch_size,
    }
    timed = point - len(progress.losses) + len(progress.loss_seconds)
    if timed >= 0:
        line["seconds"] = round(progress.loss_seconds[timed], 3)
    return json.dumps(line)


def _report(
    progress: Progress, settings: TrainingConfig, bar: tqdm, log: Any, writer: Any
) -> None:
    loss = progress.losses[-1]
    log.write(_log_line(progress, settings, len(progress.losses) - 1) + "\n")
    log.flush()
    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
    if writer is not None:
        writer.add_scalar("loss", loss, progress.step)


def _finish(run: Run, trainee: Trainee, n_sources: int, split_digest: str) -> None:
    """Write what the member is and what it saw."""
    folder, progress = trainee.folder, trainee.progress
    trainee.finished().save_pretrained(folder)
    files.write_array(folder / "exposure.npy", progress.exposure)
    weights = files.sha256(folder / WEIGHTS)
    facts = {
        "member": trainee.member,
        "n_sources": n_sources,
        "n_images": len(trainee.split.images),
        "images_seen": int(progress.exposure.sum()),
        "steps_kept": sisa.steps_kept(folder.with_suffix(""), trainee.split.ends),
        "split_digest": split_digest,
        "weights_sha256": weights,
        "weights_seed": trainee.seed,
        "seed": trainee.settings.seed,
        "loss_curve": {"steps": progress.loss_steps, "loss": progress.losses},
        "seconds": round(progress.seconds, 3),
        "peak_memory_bytes": environment.peak_memory_bytes(),
        "device": trainee.accelerator.device.type,
        "finished": environment.now(),
    }
    due = trainee.due[CHECKPOINT]
    facts["trained_for"] = {
        "options": due["options"],
        "code_book_digest": files.read_json(run.manifest)["code_book_digest"],
        "data_fingerprint": trainee.data_fingerprint,
        "images_digest": due["images_digest"],
    }
    if progress.unrecorded_steps:
        facts["unrecorded_steps"] = progress.unrecorded_steps
    if trainee.start is not None:
        facts["went_on_from"] = trainee.start.weights_sha256
    records.seal(folder, "member.json", facts)


class Stopping:
    """Whether this process has been asked to stop.

    Attributes:
        asked: True once a signal has come.
        waiting: True while there is nothing to save, so that a signal may end it.
    """

    def __init__(self) -> None:
        self.asked = False
        self.waiting = False

    def __call__(self, *_: Any) -> None:
        """Ask to stop; fits `signal.signal`."""
        self.asked = True
        if self.waiting:
            os._exit(75)


def prepared(settings: TrainingConfig) -> Accelerator:
    """This process's place, device, precision and threads.

    Raises:
        BadInput: If a launcher asks for something else than the config, or no device
            here has the precision that the config asks for.
    """
    launching.require_agreement(settings.mixed_precision)
    require_precision(settings)
    patient = InitProcessGroupKwargs(timeout=datetime.timedelta(weeks=52))
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=settings.mixed_precision,
        # Said outright: otherwise the launcher's environment would decide.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[patient],
    )
    if accelerator.device.type == "cpu":
        torch.set_num_threads(settings.threads)
    return accelerator


def require_precision(settings: TrainingConfig) -> None:
    """Refuse half precision where no device has it.

    Raises:
        BadInput: If float16 is asked for, and this machine has no accelerator.
    """
    if settings.mixed_precision == "fp16" and not torch.accelerator.is_available():
        raise BadInput(
            "training.mixed_precision is fp16, but torch finds no GPU here, and "
            "processors do not train in float16. Set it to bf16 or no, or train where "
            "there is a GPU."
        )


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
            state = train_member(run, member, plan, accelerator, stopping, team)
        except Diverged as error:
            if team.first:
                failed[member] = str(error)
            continue
        except Deserted as error:
            # Without its team, this process can train no other member either.
            return {**failed, member: f"{called(member).capitalize()}: {error}"}
        if not team.first:
            continue
        state = state or f"left to {locks.holder(run.trained(member))}"
        tqdm.write(f"{called(member)}: {state}")
    if not launching.is_launched():
        stopping.waiting = True
        accelerator.wait_for_everyone()
    return failed


def weights_of_a_member(config: Config, data: TrainingImages) -> int:
    """How many weights one member has for these training images."""
    n_classes = require_classes(data) if config.model.class_conditional else None
    member = build_member(config.model, data.images.shape[1:], n_classes, 0)
    return sum(weight.numel() for weight in member.parameters())


def describe(config: Config, plan: Plan) -> str:
    """What training this plan promises and costs, as text."""
    settings = config.training
    n_weights = weights_of_a_member(config, plan.data)
    shown = settings.steps * settings.batch_size
    n_members = plan.codes.n_members
    n_trained = extension.n_trained(config, plan.codes)
    n_kept = 1 + (settings.steps - 1) // (settings.keep_every_steps or settings.steps)
    n_teams = max(1, (settings.processes or 1) // settings.processes_per_member)
    return "\n".join(
        [
            guarantees.describe(guarantees.promises(plan.codes)),
            "",
            *placebos.describe(plan.codes.bits),
            f"work          {n_trained} members x {settings.steps} steps x "
            f"{settings.batch_size} images = {n_trained * shown:,} images",
            f"weights       {n_weights:,} a member",
            f"disk          {n_members * n_kept * 4 * n_weights / 2**20:.1f} MB of weights",
            f"checkpoints   {n_teams} x {16 * n_weights / 2**20:.1f} MB while training",
            *sisa.describe(settings, n_members, n_weights),
        ]
    )


def _settings(run: Run, start: Start | None) -> TrainingConfig:
    """Who goes on from an earlier run draws other numbers than those drawn there."""
    settings = run.config.training
    if start is None:
        return settings
    depth = extension.depth(locations.of_run(run))
    seed = seeding.seed_of(settings.seed, "extended", depth)
    return dataclasses.replace(settings, seed=seed)


def _average(network: UNet2DModel, settings: TrainingConfig) -> EMAModel | None:
    if settings.ema_decay is None:
        return None
    return EMAModel(network.parameters(), decay=settings.ema_decay, foreach=True)


def _writer(run: Run, member: Trainable) -> Any:
    if not run.config.training.tensorboard:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(run.path / "tensorboard" / run.trained(member).name)
