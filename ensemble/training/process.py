"""What the process that trains is: its device and precision, and when it must stop."""

import datetime
import os
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import GradientAccumulationPlugin

from ensemble.run.config import TrainingConfig
from ensemble.system import launching
from splits.errors import BadInput


class Interrupted(Exception):
    """Training was asked to stop; a checkpoint has been written."""


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
