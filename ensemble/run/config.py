"""The config dataclasses: every option, its default and its allowed range.

A config determines a run. `ensemble.run.config_file` reads it from YAML, which only
needs the options that differ from the defaults below.
"""

from dataclasses import dataclass, field

from ensemble.run import option_checks
from splits.designs.keyed import salt_digest
from splits.errors import BadInput
from splits.sources import IMAGE, NEAR_DUPLICATES


@dataclass(frozen=True)
class DataConfig:
    """Where the training images come from.

    Attributes:
        kind: `digits` (embedded, 8x8 grey), `folder` (of image files) or `shards`
            (WebDataset tar files).
        path: The folder; or the shards: a path, a brace range, or `pipe:command`.
        size: Side length in pixels to resize to; null keeps the images as they are.
        channels: 1 grey, 3 RGB; null keeps the images as they are.
        source: What one source is: `image`, `near_duplicates` (images that are nearly
            the same), or a column of the metadata.
        separator: The text between several owners in that column, such as `;`. An image
            is then only used by members that may see the images of all its owners.
            null: values are not split.
        near: Greatest distance of near-duplicates: 0 is the same picture, 1 an unrelated
            one.
        owner: Column of the metadata that names the owner of each source, for the
            design `product`.
        label: Column of the metadata with the labels of class-conditional members;
            null: `label` if there is such a column.
        classes: All classes: a list of their names, or their number if they are called
            0, 1, 2 and so on. A class may have no images. null: the labels that occur
            in the data; then a source that is the only one with some label changes the
            number of classes of every member.
        n_images: Keep only this many images, the first by name; null keeps all.
        stream: Read images from the folder or the shards whenever they are needed,
            instead of keeping all of them in memory. The result is the same.
    """

    kind: str = "digits"
    path: str | None = None
    size: int | None = None
    channels: int | None = None
    source: str = "image"
    separator: str | None = None
    near: float = 0.01
    owner: str | None = None
    label: str | None = None
    classes: list[str] | int | None = None
    n_images: int | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        option_checks.one_of("data.kind", self.kind, ("digits", "folder", "shards"))
        if self.kind != "digits" and not self.path:
            raise BadInput(
                f"data.path is missing: data.kind {self.kind!r} reads images from "
                "there. Set it to a folder, or to shards."
            )
        if self.kind == "digits" and self.stream:
            raise BadInput(
                "data.stream reads images from files, and the digits have none: they "
                "take half a megabyte. Set it to false."
            )
        option_checks.one_of("data.channels", self.channels, (None, 1, 3))
        option_checks.at_least("data.size", self.size, 1)
        option_checks.at_least("data.n_images", self.n_images, 1)
        option_checks.within("data.near", self.near, 0.0, 1.0)
        option_checks.require_classes(self.classes)
        if self.separator == "":
            raise BadInput("data.separator is empty: write what separates owners.")
        if self.separator and self.source in (IMAGE, NEAR_DUPLICATES):
            raise BadInput(
                f"data.separator splits the values of a column, but data.source is "
                f"{self.source!r}. Name the column there, or leave the separator out."
            )
        if self.separator and self.owner:
            raise BadInput(
                "data.separator and data.owner are two ways to say who owns what: "
                "leave one of them out."
            )


@dataclass(frozen=True)
class SplitsConfig:
    """Which members train on which sources.

    Attributes:
        design: A name in `splits.designs.registry.DESIGNS`.
        n_members: Number of members of the ensemble.
        weight: Number of members that train on each source; null: the design's default.
        seed: Seed of the code book.
        removable: For designs with this guarantee: this many sources, whichever they
            are, can be ablated together; null: the design's default.
        survivors: For the same designs: at least this many members remain then.
        salt: For designs that compute codes from numbers or names: a secret that
            replaces the seed.
        salt_sha256: The salt's sha256, if it was published before the data arrived; a
            salt with another digest is refused.
    """

    design: str = "balanced"
    n_members: int = 16
    weight: int | None = None
    seed: int = 0
    removable: int | None = None
    survivors: int | None = None
    salt: str | None = None
    salt_sha256: str | None = None

    def __post_init__(self) -> None:
        option_checks.at_least("splits.n_members", self.n_members, 1)
        for name in ("weight", "removable", "survivors"):
            option_checks.at_least(f"splits.{name}", getattr(self, name), 1)
        option_checks.at_least("splits.seed", self.seed, 0)
        if self.salt_sha256 is not None:
            found = salt_digest(self.salt or "")
            if found != self.salt_sha256:
                raise BadInput(
                    f"splits.salt has the sha256 {found}, but splits.salt_sha256 "
                    f"promised {self.salt_sha256}. Give the salt that was promised."
                )


@dataclass(frozen=True)
class ModelConfig:
    """One member: a diffusers `UNet2DModel` and its noise schedule.

    Keys from `block_out_channels` to `resnet_time_scale_shift` are UNet2DModel's own.

    Attributes:
        prediction_type: What the network predicts: `epsilon` or `v_prediction`.
        schedule: Noise over timesteps: `linear` or `cosine`.
        n_timesteps: Noise levels between a clean image and pure noise.
        class_conditional: Whether members are conditioned on each image's label.
        block_out_channels: Channels at each resolution; each one halves the side.
        layers_per_block: Residual layers at each resolution.
        down_block_types: One per resolution; null: plain convolution blocks.
        up_block_types: One per resolution; null: plain convolution blocks.
        norm_num_groups: Groups of the group normalisation.
        add_attention: Self-attention at the lowest resolution.
        attention_head_dim: Channels of an attention head; null: one head.
        dropout: Share of activations dropped while training.
        act_fn: Activation function.
        resnet_time_scale_shift: How the timestep enters: `default` or `scale_shift`.
    """

    prediction_type: str = "epsilon"
    schedule: str = "linear"
    n_timesteps: int = 1000
    class_conditional: bool = False
    block_out_channels: list[int] = field(default_factory=lambda: [16, 32])
    layers_per_block: int = 1
    down_block_types: list[str] | None = None
    up_block_types: list[str] | None = None
    norm_num_groups: int = 8
    add_attention: bool = True
    attention_head_dim: int | None = 8
    dropout: float = 0.0
    act_fn: str = "silu"
    resnet_time_scale_shift: str = "default"

    def __post_init__(self) -> None:
        option_checks.one_of(
            "model.prediction_type",
            self.prediction_type,
            ("epsilon", "v_prediction"),
        )
        option_checks.one_of("model.schedule", self.schedule, ("linear", "cosine"))
        option_checks.at_least("model.n_timesteps", self.n_timesteps, 2)
        option_checks.at_least("model.layers_per_block", self.layers_per_block, 1)
        option_checks.at_least("model.norm_num_groups", self.norm_num_groups, 1)
        option_checks.within("model.dropout", self.dropout, 0.0, 1.0)
        if not self.block_out_channels:
            raise BadInput("model.block_out_channels is empty: name at least one.")
        for channels in self.block_out_channels:
            if channels < 1 or channels % self.norm_num_groups:
                raise BadInput(
                    f"model.block_out_channels has {channels}, which is no multiple of "
                    f"model.norm_num_groups ({self.norm_num_groups}). Change either."
                )


@dataclass(frozen=True)
class TrainingConfig:
    """How every member is trained.

    Attributes:
        steps: Optimiser steps of each member.
        batch_size: Images per step.
        learning_rate: Peak of AdamW's learning rate.
        warmup_steps: Steps over which the learning rate rises from zero.
        lr_schedule: After the warm-up: `cosine` (down to zero) or `constant`.
        weight_decay: AdamW's weight decay.
        max_grad_norm: Gradients longer than this are scaled down to it.
        ema_decay: Keep an exponential moving average of the weights, and generate with
            it; null keeps the last weights.
        mixed_precision: `no`, `bf16` or `fp16`.
        shared_noise: All members start from the same weights and get the same timesteps
            and noise, so that they only differ by their data.
        flip: Mirror half of the images left to right.
        label_dropout: Share of labels that are replaced by the null class in training,
            for classifier-free guidance.
        seed: Seed of initial weights, order, timesteps, noise and augmentation.
        processes: Number of processes to start; null: one per device, or one per core
            if there is no device. It is limited to what the members need, and rounded
            down to a multiple of `processes_per_member`.
        processes_per_member: Processes that train each member together, each on its
            part of every batch; for members that are too slow on one device.
        threads: Threads of each process on a CPU. The last bits of the weights depend
            on it; members of this size gain nothing from more than one.
        checkpoint_every_steps: Steps between two checkpoints.
        keep_every_steps: Interval in steps at which a snapshot of each member's weights
            is kept, for methods that follow the training (`tracin`, `gas`); null: only
            the final weights are kept.
        slices: Number of slices of the sources (SISA). Slices join a member's training
            one after the other; a repair continues from the checkpoint before the slice
            of a removed source. null: no slices, and a repair trains from the start.
        log_every_steps: Steps between two points of the loss curve.
        tensorboard: Also write TensorBoard logs (needs the extra `tensorboard`).
    """

    steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 2.0e-3
    warmup_steps: int = 50
    lr_schedule: str = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema_decay: float | None = None
    mixed_precision: str = "no"
    shared_noise: bool = True
    flip: bool = False
    label_dropout: float = 0.1
    seed: int = 0
    processes: int | None = None
    processes_per_member: int = 1
    threads: int = 1
    checkpoint_every_steps: int = 500
    keep_every_steps: int | None = None
    slices: int | None = None
    log_every_steps: int = 20
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "processes",
            "processes_per_member",
            "threads",
            "checkpoint_every_steps",
            "log_every_steps",
        ):
            option_checks.at_least(f"training.{name}", getattr(self, name), 1)
        option_checks.at_least("training.slices", self.slices, 2)
        option_checks.at_least("training.keep_every_steps", self.keep_every_steps, 1)
        if self.slices and self.slices > self.steps:
            raise BadInput(
                f"training.slices is {self.slices}, but there are only {self.steps} "
                "training.steps, and each slice takes one at least. Use fewer slices, "
                "or more steps."
            )
        option_checks.at_least("training.warmup_steps", self.warmup_steps, 0)
        option_checks.at_least("training.seed", self.seed, 0)
        option_checks.at_least("training.weight_decay", self.weight_decay, 0.0)
        option_checks.above("training.learning_rate", self.learning_rate, 0.0)
        option_checks.above("training.max_grad_norm", self.max_grad_norm, 0.0)
        option_checks.within("training.ema_decay", self.ema_decay, 0.0, 1.0)
        option_checks.within("training.label_dropout", self.label_dropout, 0.0, 1.0)
        option_checks.one_of(
            "training.mixed_precision", self.mixed_precision, ("no", "bf16", "fp16")
        )
        if self.slices and self.keep_every_steps:
            raise BadInput(
                f"training.keep_every_steps is {self.keep_every_steps} beside "
                f"training.slices={self.slices}, but a repair that goes on from a slice "
                "has no weights of the steps before. Set one of them to null."
            )
        if self.slices and self.processes_per_member > 1:
            raise BadInput(
                f"training.slices is {self.slices}, but members that are trained in "
                "slices are trained by one process each. Set "
                "training.processes_per_member to 1, or leave slices out."
            )
        if self.batch_size % self.processes_per_member:
            raise BadInput(
                f"A batch of {self.batch_size} images cannot be shared equally by "
                f"{self.processes_per_member} processes: make training.batch_size a "
                "multiple of training.processes_per_member."
            )
        option_checks.one_of(
            "training.lr_schedule", self.lr_schedule, ("cosine", "constant")
        )


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults for generating pictures, which a call can override.

    Attributes:
        scheduler: `ddim`, `ddpm`, `dpmsolver++` or `euler`.
        n_steps: Denoising steps.
        guidance_scale: Strength of classifier-free guidance; 1 is none.
    """

    scheduler: str = "ddim"
    n_steps: int = 50
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        option_checks.one_of(
            "sampling.scheduler",
            self.scheduler,
            ("ddim", "ddpm", "dpmsolver++", "euler"),
        )
        option_checks.at_least("sampling.n_steps", self.n_steps, 1)
        option_checks.at_least("sampling.guidance_scale", self.guidance_scale, 0.0)


@dataclass(frozen=True)
class Config:
    """Everything that a run is made from.

    Attributes:
        run: The run folder.
        extends: The run folder of an ensemble that this run extends by more data; null:
            the run does not extend another one.
        data: Where the training images come from; if the run extends another one, only
            the additional images.
        splits: Which members train on which sources.
        model: The network of each member and its noise schedule.
        training: How every member is trained.
        sampling: How pictures are generated.
    """

    run: str
    extends: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if self.sampling.n_steps > self.model.n_timesteps:
            raise BadInput(
                f"sampling.n_steps is {self.sampling.n_steps}; at most "
                f"model.n_timesteps ({self.model.n_timesteps}) sampling steps are "
                "possible. Lower the one, or raise the other."
            )
        if self.extends is None:
            return
        if self.extends == self.run:
            raise BadInput(
                f"{self.run} cannot extend itself: `run` must be another folder than "
                "`extends`."
            )
        unfit = {
            "data.stream": self.data.stream,
            "data.separator": self.data.separator,
            "data.owner": self.data.owner,
            "data.source near_duplicates": self.data.source == NEAR_DUPLICATES,
            "training.slices": self.training.slices,
            "training.processes_per_member above 1": self.training.processes_per_member
            > 1,
        }
        for option, given in unfit.items():
            if given:
                raise BadInput(
                    f"A run that extends another cannot have {option} yet. Leave it "
                    "out, or train a new run on all data."
                )
