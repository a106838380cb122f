"""The log of a member's training, one line a point of its loss curve."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ensemble.run import files
from ensemble.run.config import TrainingConfig
from ensemble.training.optimization import learning_rate
from ensemble.training.trainer import TrainState


def mend(log: Path, state: TrainState, settings: TrainingConfig) -> None:
    """Write the log of what is done; steps that will be done again are not in it.

    A process that is killed, or a machine, may leave less than it, more, or half a line.
    """
    old = log.read_bytes().decode(errors="replace").splitlines() if log.exists() else []
    n_points, n_timed = len(state.losses), len(state.loss_seconds)
    lines = [
        _log_line(state, settings, point)
        if point >= n_points - n_timed
        else _old_line(old, state, settings, point)
        for point in range(n_points)
    ]
    files.write_text(log, "".join(f"{line}\n" for line in lines))


def _old_line(
    old: Sequence[str], state: TrainState, settings: TrainingConfig, point: int
) -> str:
    """The line of a point whose seconds only the log knows, if it is there and whole."""
    line = old[point] if point < len(old) else ""
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        if json.loads(line)["step"] == state.loss_steps[point]:
            return line
    return _log_line(state, settings, point)


def _log_line(state: TrainState, settings: TrainingConfig, point: int) -> str:
    """The line of a point of the loss curve; without seconds if those are not known."""
    step = state.loss_steps[point]
    line = {
        "step": step,
        "loss": round(state.losses[point], 6),
        "learning_rate": learning_rate(settings, step - 1),
        "images_seen": step * settings.batch_size,
    }
    timed = point - len(state.losses) + len(state.loss_seconds)
    if timed >= 0:
        line["seconds"] = round(state.loss_seconds[timed], 3)
    return json.dumps(line)


def report(
    state: TrainState, settings: TrainingConfig, bar: tqdm, log: Any, writer: Any
) -> None:
    """Write the last point of the loss curve to the log, the bar and TensorBoard.

    Args:
        state: What the training has come to.
        settings: The training's options.
        bar: The progress bar.
        log: The open log file.
        writer: A TensorBoard writer; None: there is none.
    """
    loss = state.losses[-1]
    log.write(_log_line(state, settings, len(state.losses) - 1) + "\n")
    log.flush()
    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
    if writer is not None:
        writer.add_scalar("loss", loss, state.step)
