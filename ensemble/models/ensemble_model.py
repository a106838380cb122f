"""Members: denoisers and their noise schedule, one by one and as an ensemble.

A member is any denoiser (noisy image, timestep, condition) -> prediction. The ensemble
is one diffusers model that owns its members and averages their predictions by votes.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import (
    ConfigMixin,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    ModelMixin,
    UNet2DModel,
)
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensemble.models import safe_loading
from ensemble.run import (
    lineage,
    records,
    voters,
)
from ensemble.run.config import (
    ModelConfig,
    SamplingConfig,
)
from ensemble.run.folder import REFERENCE, WEIGHTS
from ensemble.run.lineage import Expected
from ensemble.run.voters import Membership
from splits.errors import BadInput

Timestep = Int[Tensor, ""] | Int[Tensor, " states"] | Float[Tensor, ""] | int
Condition = Int[Tensor, " states"] | None
# diffusers' SchedulerMixin declares none of the methods that every scheduler has.
Scheduler = Any

BETA_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
SCHEDULERS = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
_KEEP = (
    "Its files are those that were written, so keep them: see to memory, disk and the "
    "versions of diffusers and torch, and give the same command again."
)
Of = TypeVar("Of")
Result = TypeVar("Result")


def build_member(
    config: ModelConfig, image_shape: Sequence[int], n_classes: int | None, seed: int
) -> UNet2DModel:
    """A member with fresh weights that follow from the seed alone.

    Args:
        config: Its architecture.
        image_shape: (channels, height, width) of the training images.
        n_classes: Labels that it is told of; None for an unconditional member. One
            more label, n_classes, stands for "no label".
        seed: Draws the weights.

    Raises:
        BadInput: If the image cannot be halved as often as the architecture asks, or
            the names of its blocks are wrong.
    """
    channels, height, width = image_shape
    n_levels = len(config.block_out_channels)
    factor = 2 ** (n_levels - 1)
    if height % factor or width % factor:
        raise BadInput(
            f"Images of {height}x{width} cannot be halved {n_levels - 1} times, as "
            f"model.block_out_channels with {n_levels} entries asks. Set data.size to a "
            f"multiple of {factor}, or use fewer entries."
        )
    down = config.down_block_types or ["DownBlock2D"] * n_levels
    up = config.up_block_types or ["UpBlock2D"] * n_levels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return UNet2DModel(
                sample_size=(height, width),
                in_channels=channels,
                out_channels=channels,
                block_out_channels=tuple(config.block_out_channels),
                layers_per_block=config.layers_per_block,
                down_block_types=tuple(down),
                up_block_types=tuple(up),
                norm_num_groups=config.norm_num_groups,
                add_attention=config.add_attention,
                attention_head_dim=config.attention_head_dim,
                dropout=config.dropout,
                act_fn=config.act_fn,
                resnet_time_scale_shift=config.resnet_time_scale_shift,
                num_class_embeds=None if n_classes is None else n_classes + 1,
            )
        except ValueError as error:
            raise BadInput(
                f"model: UNet2DModel refuses this config: {error}. Change the options "
                "of `model` that it names."
            ) from None


def noise_schedule(config: ModelConfig) -> DDPMScheduler:
    """The noise that members are trained on."""
    return DDPMScheduler(
        num_train_timesteps=config.n_timesteps,
        beta_schedule=BETA_SCHEDULES[config.schedule],  # type: ignore[arg-type]
        prediction_type=config.prediction_type,  # type: ignore[arg-type]
        clip_sample=False,
    )


def sampler(config: ModelConfig, sampling: SamplingConfig) -> Scheduler:
    """The scheduler that generates; it never clips, so that derivatives are exact."""
    noise = noise_schedule(config).config
    return SCHEDULERS[sampling.scheduler].from_config(noise)


def predict(
    member: nn.Module,
    noisy: Float[Tensor, "states channels height width"],
    timestep: Timestep,
    condition: Condition = None,
) -> Float[Tensor, "states channels height width"]:
    """What one member predicts."""
    return member(noisy, timestep, class_labels=condition).sample


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

    def predict_by(
        self,
        member: int,
        noisy: Float[Tensor, "states channels height width"],
        timestep: Timestep,
        condition: Condition = None,
    ) -> Float[Tensor, "states channels height width"]:
        """What the member at this position predicts; the work is counted."""
        with self._counting:
            self.n_forwards += len(noisy)
        network = self.networks[member]
        if len(noisy) <= self.forward_batch:
            return predict(network, noisy, timestep, condition)
        parts = torch.arange(len(noisy)).split(self.forward_batch)
        return torch.cat(
            [
                predict(
                    network,
                    noisy[part[0] : part[-1] + 1],
                    _at(timestep, part),
                    None if condition is None else condition[part],
                )
                for part in parts
            ]
        )

    def forward(
        self,
        noisy: Float[Tensor, "states channels height width"],
        timestep: Timestep,
        votes: Float[Tensor, "images members"],
        condition: Condition = None,
        state_of: Int[Tensor, " images"] | None = None,
    ) -> Float[Tensor, "images channels height width"]:
        """The members' predictions, averaged by votes.

            prediction[i] = sum over m of votes[i, m] member_m(noisy[state_of[i]])

        A member runs only on states that some image votes for it at.

        Args:
            noisy: The states.
            timestep: Of the diffusion; one for all, or one for each state.
            votes: How much each member counts for each image; rows sum to one.
            condition: Label of each state, for conditional members.
            state_of: The state that each image stands at; by default image i stands at
                state i. Images that share a state share the work.
        """
        voted = votes > 0
        everywhere = torch.arange(len(votes), device=votes.device)
        state_of = everywhere if state_of is None else state_of

        def share(member: int) -> tuple[Tensor, Tensor]:
            images = torch.nonzero(voted[:, member]).flatten()
            states, position = torch.unique(state_of[images], return_inverse=True)
            label = None if condition is None else condition[states]
            at = _at(timestep, states)
            prediction = self.predict_by(member, noisy[states], at, label)
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
            folder = member_folder(save_directory, member_id)
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
            silent = voters.silenced(root.parent)
        else:
            silent = list(membership.silenced)
        voting = [member for member in present if member not in silent]
        if not voting:
            raise voters.nobody(root.parent)
        chosen = voting if members is None else list(members)
        voters.require_voting(root.parent, silent, chosen)
        for member in chosen:
            if member not in present:
                raise BadInput(
                    f"Member {member} is not in {root}: it holds {_ranges(present)}. "
                    "Train it, or leave it out."
                )
        expected = expected_in(root.parent)
        networks = [
            load_member(member_folder(root, member), expected, variant)
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


def member_folder(root: str | Path, member: int) -> Path:
    """The folder of one member below the folder of all."""
    return Path(root) / f"{member:03d}"


def load_member(
    folder: Path, expected: Expected | None = None, variant: str | None = None
) -> UNet2DModel:
    """One trained member, its weights checked against the digest in `member.json`.

    Args:
        folder: The member's, or the reference's.
        expected: What the models of its run must have been trained for; None: it is
            read from the run folder, if the model lies in one.
        variant: Part of the name of the weights' file; None: the usual one.

    Raises:
        BadInput: If a file is missing or damaged, the model was trained for another run
            than the one that it lies in, or a variant is asked for of a member whose
            record knows none.
    """
    run = folder.parents[1] if folder.parent.name == "members" else folder.parent
    expected = expected or expected_in(run)
    # Only what lies outside of a run may be without a record.
    sealed = expected is not None or (folder / "member.json").exists()
    if sealed:
        record = records.check_sealed(folder, "member.json")
        if expected is not None:
            which = REFERENCE if folder.name == REFERENCE else int(folder.name)
            expected.require(which, record)
        if variant is not None:
            raise BadInput(
                f"The record of {folder} knows no variant {variant!r} of its weights: a "
                "trained member has one file. Leave `variant` out, and say "
                "dtype=torch.float16."
            )
    stem, dot, ending = WEIGHTS.rpartition(".")
    weights = WEIGHTS if variant is None else f"{stem}.{variant}{dot}{ending}"
    # The digests of what is sealed have just been found right.
    remedy = _KEEP if sealed else "Write the folder again from its run."
    return safe_loading.read_unet(folder, weights, remedy).eval()


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


def expected_in(folder: Path) -> Expected | None:
    """What the models in a folder must have been trained for; None: it is no run."""
    there = (folder / "config.yaml").exists()
    return lineage.Expected.of(folder) if there else None


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
