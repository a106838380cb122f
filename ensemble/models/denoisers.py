"""Denoisers: the networks that members are, built from a config and loaded from a run.

A denoiser is (noisy image, timestep, condition) -> prediction.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import UNet2DModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensemble.models import safe_loading
from ensemble.models.conditioning import UNCONDITIONAL, Condition
from ensemble.run import lineage, records
from ensemble.run.config import ModelConfig
from ensemble.run.folder import REFERENCE, WEIGHTS
from ensemble.run.lineage import Expected
from splits.errors import BadInput

Timestep = Int[Tensor, ""] | Int[Tensor, " states"] | Float[Tensor, ""] | int
_KEEP = (
    "Its files are those that were written, so keep them: see to memory, disk and the "
    "versions of diffusers and torch, and give the same command again."
)


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


def predict(
    member: nn.Module,
    noisy: Float[Tensor, "states channels height width"],
    timestep: Timestep,
    condition: Condition = UNCONDITIONAL,
) -> Float[Tensor, "states channels height width"]:
    """What one member predicts."""
    return member(noisy, timestep, **condition.arguments()).sample


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
        record = records.check_done_mark(folder, "member.json")
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


def expected_in(folder: Path) -> Expected | None:
    """What the models in a folder must have been trained for; None: it is no run."""
    there = (folder / "config.yaml").exists()
    return lineage.Expected.of(folder) if there else None
