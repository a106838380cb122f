"""One member while it is trained: its state, one step, and its checkpoint.

Every draw is keyed (seeding.py): order by (seed, member, epoch), timesteps and noise by
(seed, step) where members share them and by (seed, member, step) where they do not. A
checkpoint is one file, replaced whole.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from jaxtyping import Int
from safetensors.torch import load_model
from torch import Tensor
from tqdm.auto import tqdm

from ensemble.data.datasets import TrainingImages, require_classes
from ensemble.data.loader import key_of, make_loader
from ensemble.models.conditioning import UNCONDITIONAL, ClassLabels, Condition
from ensemble.models.denoisers import build_member
from ensemble.models.objective import objective_of
from ensemble.provenance import extension
from ensemble.provenance.extension import Start
from ensemble.run import locations
from ensemble.run.config import TrainingConfig
from ensemble.run.folder import CHECKPOINT, Run, Trainable, called
from ensemble.system import seeding
from ensemble.training import checkpoint, optimization, sisa, snapshots
from ensemble.training.data_parallel import ALONE, Team
from ensemble.training.optimization import denoising_loss, learning_rate


class Diverged(Exception):
    """A member's loss is no longer finite."""


@dataclass
class TrainState:
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


# All of a member's state that is no tensor, by its names in a checkpoint.
_FACTS = [one.name for one in dataclasses.fields(TrainState) if one.name != "exposure"]


class MemberTrainer:
    """One member while it is trained: weights, optimiser, average and state.

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
        self.condition: Condition = UNCONDITIONAL
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
        self.average = optimization.average(self.network, self.settings)
        shown = np.zeros(len(data.images), dtype=np.uint32)
        self.state = TrainState(start.exposure.copy() if start else shown)

    def step(self) -> float:
        """One optimiser step; returns its loss.

        Raises:
            Diverged: If the loss is not finite; names member and step.
        """
        settings, step = self.settings, self.state.step
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
        state = self.state
        np.add.at(state.exposure, shown, 1)
        state.step += 1
        state.running.append(loss)
        last = state.step == self.settings.steps
        if state.step % self.settings.log_every_steps == 0 or last:
            state.loss_steps.append(state.step)
            state.loss_seconds.append(state.seconds)
            state.losses.append(float(np.mean(state.running)))
            state.running = []

    def keep_weights(self) -> None:
        """Keep the weights of now, if it is time; of a team, the first process does."""
        every, step = self.settings.keep_every_steps, self.state.step
        if not self.team.first or every is None or step == self.settings.steps:
            return
        if step % every == 0:
            name, digest = snapshots.keep(self.folder, self.network, step)
            self.state.kept[name] = digest

    def save_checkpoint(self, name: str = CHECKPOINT) -> None:
        """Replace the checkpoint with one of now; of a team, the first process does."""
        if not self.team.first:
            return
        tensors = self._tensors()
        scaler = self.accelerator.scaler
        facts = {
            "split": self.split.digests[name],
            "trained_for": self.due[name],
            **{fact: getattr(self.state, fact) for fact in _FACTS},
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
        state = self.state
        begin = f"{state.step} steps in {state.seconds} s"
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
        snapshots.drop_others(self.folder, self.state.kept)

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
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"adam.{index}.{name}": value for name, value in moments.items()
            }
        if self.average is not None:
            tensors |= {
                f"average.{index}": value
                for index, value in enumerate(self.average.shadow_params)
            }
        tensors["exposure"] = torch.from_numpy(self.state.exposure.astype(np.int64))
        return {name: value.contiguous().cpu() for name, value in tensors.items()}

    def _restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        named: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            named.setdefault(group, {})[rest] = tensor
        self.network.load_state_dict(named["weights"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in named.get("adam", {}).items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        adam = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**adam, "state": moments})
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
        self.state = TrainState(
            exposure=tensors["exposure"].numpy().astype(np.uint32),
            **{fact: facts[fact] for fact in _FACTS if fact in facts},
        )

    def finished(self) -> UNet2DModel:
        """The weights to generate with: the average, if one is kept."""
        if self.average is not None:
            self.average.copy_to(self.network.parameters())
        return self.network.eval()


def _settings(run: Run, start: Start | None) -> TrainingConfig:
    """Who goes on from an earlier run draws other numbers than those drawn there."""
    settings = run.config.training
    if start is None:
        return settings
    depth = extension.depth(locations.of_run(run))
    seed = seeding.seed_of(settings.seed, "extended", depth)
    return dataclasses.replace(settings, seed=seed)
