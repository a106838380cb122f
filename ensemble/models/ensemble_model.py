"""The ensemble: one diffusers model that owns its members and averages them by votes."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensemble.models import denoisers
from ensemble.models.conditioning import UNCONDITIONAL, ClassLabels, Condition
from ensemble.models.denoisers import Timestep
from ensemble.run import voters
from ensemble.run.voters import Membership
from splits.errors import BadInput

Of = TypeVar("Of")
Result = TypeVar("Result")


class EnsembleModel(ModelMixin, ConfigMixin):
    """Members that vote on one prediction.

    Attributes:
        member_ids: Number of each member in the code book.
        forward_batch: Most images that a member sees in one forward pass; bounds
            memory.
        side_by_side: Members that run at the same time, each in a thread of its own;
            on a CPU, as many as cores with one torch thread each is fastest.
        n_forwards: Images that members were run on, counted over members.
    """

    @register_to_config
    def __init__(self, member_ids: Sequence[int], member: dict[str, Any]) -> None:
        super().__init__()
        self.member_ids = [int(member_id) for member_id in member_ids]
        self.networks = nn.ModuleList([UNet2DModel(**member) for _ in self.member_ids])
        self.forward_batch = 256
        self.side_by_side = 1
        self.n_forwards = 0
        self._counting = threading.Lock()

    @property
    def n_members(self) -> int:
        """How many members are loaded."""
        return len(self.networks)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the members denoise."""
        size = self.config["member"]["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return self.config["member"]["in_channels"], height, width

    @property
    def no_label(self) -> int | None:
        """The label that stands for "no label"; None for unconditional members."""
        n_embeddings = self.config["member"]["num_class_embeds"]
        return None if n_embeddings is None else n_embeddings - 1

    def condition(self, labels: Sequence[int] | np.ndarray | None) -> Condition:
        """What the members are told of images, where the members are.

        Args:
            labels: Of each image; None for unconditional members.
        """
        if labels is None or self.no_label is None:
            return UNCONDITIONAL
        told = torch.tensor(np.asarray(labels), dtype=torch.int64)
        return ClassLabels(told.to(self.device), self.no_label)

    def predict_by(
        self,
        member: int,
        noisy: Float[Tensor, "states channels height width"],
        timestep: Timestep,
        condition: Condition = UNCONDITIONAL,
    ) -> Float[Tensor, "states channels height width"]:
        """What the member at this position predicts; the work is counted."""
        with self._counting:
            self.n_forwards += len(noisy)
        network = self.networks[member]
        if len(noisy) <= self.forward_batch:
            return denoisers.predict(network, noisy, timestep, condition)
        parts = torch.arange(len(noisy)).split(self.forward_batch)
        return torch.cat(
            [
                denoisers.predict(
                    network,
                    noisy[part[0] : part[-1] + 1],
                    _at(timestep, part),
                    condition[part],
                )
                for part in parts
            ]
        )

    def forward(
        self,
        noisy: Float[Tensor, "states channels height width"],
        timestep: Timestep,
        votes: Float[Tensor, "images members"],
        condition: Condition = UNCONDITIONAL,
        state_of: Int[Tensor, " images"] | None = None,
    ) -> Float[Tensor, "images channels height width"]:
        """The members' predictions, averaged by votes.

            prediction[i] = sum over m of votes[i, m] member_m(noisy[state_of[i]])

        A member runs only on states that some image votes for it at.

        Args:
            noisy: The states.
            timestep: Of the diffusion; one for all, or one for each state.
            votes: How much each member counts for each image; rows sum to one.
            condition: What the members are told of each state.
            state_of: The state that each image stands at; by default image i stands at
                state i. Images that share a state share the work.
        """
        voted = votes > 0
        everywhere = torch.arange(len(votes), device=votes.device)
        state_of = everywhere if state_of is None else state_of

        def share(member: int) -> tuple[Tensor, Tensor]:
            images = torch.nonzero(voted[:, member]).flatten()
            states, position = torch.unique(state_of[images], return_inverse=True)
            at = _at(timestep, states)
            prediction = self.predict_by(member, noisy[states], at, condition[states])
            return images, prediction[position]

        total = noisy.new_zeros(len(votes), *noisy.shape[1:])
        members = torch.nonzero(voted.any(dim=0)).flatten().tolist()
        for member, (images, prediction) in zip(
            members, self.each(share, members), strict=True
        ):
            total[images] += votes[images, member, None, None, None] * prediction
        return total

    def each(
        self, task: Callable[[Of], Result], given: Sequence[Of]
    ) -> Iterator[Result]:
        """Run a task for each member, or what is given, some side by side; in order."""
        if self.side_by_side == 1:
            yield from map(task, given)
            return
        # Whether gradients are wanted is a property of the thread that asks.
        wanted = torch.is_grad_enabled()

        def inside(one: Of) -> Result:
            with torch.set_grad_enabled(wanted):
                return task(one)

        with ThreadPoolExecutor(self.side_by_side) as pool:
            yield from pool.map(inside, given)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, variant: str | None = None, **kwargs: Any
    ) -> None:
        """Write one folder a member, as diffusers writes one model."""
        for member_id, network in zip(self.member_ids, self.networks, strict=True):
            assert isinstance(network, UNet2DModel)
            folder = denoisers.member_folder(save_directory, member_id)
            network.save_pretrained(folder, variant=variant, **kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        members: Sequence[int] | None = None,
        membership: Membership | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
    ) -> "EnsembleModel":
        """Load members from the folder that holds their folders.

        Args:
            pretrained_model_name_or_path: The folder.
            members: Which to load; None loads all that may vote.
            membership: Who may vote; None: as the folder says now.
            dtype: Type of the weights; None keeps float32.
            variant: Part of the name of the weights' files; None: the usual ones.

        Raises:
            BadInput: If the folder holds no members, one is missing, saw sources that
                were removed or was trained for another run, nobody is left, or weights
                are not those that were trained.
        """
        root = Path(pretrained_model_name_or_path)
        present = sorted(
            int(path.name) for path in root.glob("[0-9]*") if path.name.isdecimal()
        )
        if not present:
            raise BadInput(f"{root} holds no trained member. Train some with train.py.")
        if membership is None:
            silent = voters.silenced_members(root.parent)
        else:
            silent = list(membership.silenced)
        voting = [member for member in present if member not in silent]
        if not voting:
            raise voters.no_voters_error(root.parent)
        chosen = voting if members is None else list(members)
        voters.require_voting(root.parent, silent, chosen)
        for member in chosen:
            if member not in present:
                raise BadInput(
                    f"Member {member} is not in {root}: it holds {_ranges(present)}. "
                    "Train it, or leave it out."
                )
        expected = denoisers.expected_in(root.parent)
        networks = [
            denoisers.load_member(
                denoisers.member_folder(root, member), expected, variant
            )
            for member in chosen
        ]
        config = _same_config(root, dict(zip(chosen, networks, strict=True)))
        # Networks that only make room for the loaded ones would cost as much as those.
        ensemble = cls(member_ids=[], member={**config})
        ensemble.register_to_config(member_ids=chosen)
        ensemble.member_ids = chosen
        ensemble.networks = nn.ModuleList(networks)
        if dtype is not None:
            nn.Module.to(ensemble, dtype=dtype)
        return ensemble.eval()


def _same_config(root: Path, networks: dict[int, UNet2DModel]) -> dict[str, Any]:
    """The config that all members share, without what diffusers adds to it.

    Raises:
        BadInput: If one differs.
    """
    configs = {
        member: {key: one for key, one in network.config.items() if key[0] != "_"}
        for member, network in networks.items()
    }
    first, *others = configs
    for member in others:
        for key, value in configs[member].items():
            if configs[first][key] != value:
                raise BadInput(
                    f"Members {first} and {member} of {root} differ in {key}: "
                    f"{configs[first][key]} and {value}. An ensemble has members of one "
                    "kind: restore the one that is not of this run, or leave it out."
                )
    return configs[first]


def _at(
    timestep: Timestep, states: Int[Tensor, " chosen"]
) -> Int[Tensor, ""] | Int[Tensor, " chosen"] | Float[Tensor, ""] | int:
    """The timesteps of some states; one timestep for all stays as it is."""
    if isinstance(timestep, int) or timestep.ndim == 0:
        return timestep
    return timestep[states]


def _ranges(numbers: Sequence[int]) -> str:
    """0-3, 5, 7-8."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(
        str(first) if first == last else f"{first}-{last}" for first, last in parts
    )
