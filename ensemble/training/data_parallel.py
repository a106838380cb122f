"""A team: several processes that train one member together.

All of them hold the same weights. Each computes the loss on its part of the batch, and
gradients are averaged over the team, so that a step is that of one process up to the
order in which numbers are added. What only one may do, the first does; what all must
agree on, the first says, or all together.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, distributed

from splits.errors import BadInput

Batch = TypeVar("Batch", Tensor, np.ndarray)


class Deserted(Exception):
    """Another process of the team is gone, or no longer answers."""


@dataclass(frozen=True)
class Team:
    """This process's place among those that train one member.

    Attributes:
        number: Which team.
        n_teams: Teams there are.
        rank: This process in its team; 0 is the first.
        size: Processes of each team.
        device: Where it computes.
        group: What the team talks through; None for one that is alone.
    """

    number: int = 0
    n_teams: int = 1
    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process does what only one may do."""
        return self.rank == 0

    def part(self, batch: Batch) -> Batch:
        """This process's part of a batch: of its first dimension."""
        n_images = len(batch) // self.size
        return batch[self.rank * n_images : (self.rank + 1) * n_images]

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients by their means over the team.

        They travel as one vector, in which each always has the same place: sums are
        taken in an order that depends on the place, and a member that goes on from a
        checkpoint must get the bits of one that was never stopped.

        Raises:
            Deserted: If another process is gone.
        """
        if self.group is None:
            return
        together = torch.cat([gradient.flatten() for gradient in gradients])
        self._sum(together)
        together /= self.size
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, together.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: float) -> float:
        """The mean of a number over the team.

        Raises:
            Deserted: If another process is gone.
        """
        if self.group is None:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        self._sum(total)
        return total.item() / self.size

    def any(self, asked: bool) -> bool:
        """Whether it is true of some process of the team."""
        return self.mean(float(asked)) > 0

    def told(self, state: bool) -> bool:
        """What is true of the first process."""
        return self.any(state and self.first)

    def require_same(self, text: str, what: str) -> None:
        """Refuse to go on unless the whole team says the same.

        Args:
            text: What this process says.
            what: What it is about, for people.

        Raises:
            BadInput: In every process of the team, if they differ.
            Deserted: If another process is gone.
        """
        # Sums of few numbers of 32 bits are exact.
        number = float(zlib.crc32(text.encode()))
        if self.any(self.mean(number) != number):
            raise BadInput(
                f"The {self.size} processes that should train one member together do not "
                f"agree on {what}; process {self.rank} of them has {text}. Something "
                "changed while they started: give the same command again."
            )

    def _sum(self, tensor: Tensor) -> None:
        try:
            distributed.all_reduce(tensor, group=self.group)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise Deserted(
                f"another process that trains it is gone ({reason}), and process "
                f"{self.rank} of {self.size} cannot go on without it. What was "
                "checkpointed is kept; the same command goes on from there."
            ) from None


ALONE = Team()


def formed(accelerator: Accelerator, size: int) -> Team:
    """The team of this process; every process must ask, with the same size.

    Raises:
        BadInput: If the processes do not form whole teams.
    """
    rank, n_processes = accelerator.process_index, accelerator.num_processes
    if n_processes % size:
        raise BadInput(
            f"{n_processes} processes do not form teams of {size}. Start a multiple of "
            f"training.processes_per_member, or leave it to train.py to start them."
        )
    number, n_teams = rank // size, n_processes // size
    if size == 1:
        return Team(number, n_teams, device=accelerator.device)
    # Everybody must take part in the making of every group.
    groups = [
        distributed.new_group(list(range(first, first + size)))
        for first in range(0, n_processes, size)
    ]
    return Team(number, n_teams, rank % size, size, accelerator.device, groups[number])
