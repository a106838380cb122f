"""Every option, its default and its allowed range; strict loading from YAML.

A config file holds only what differs from the defaults below. A resolved config, with
every default filled in, is kept in the run folder, and replays the run.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

from splits.designs.keyed import salt_digest
from splits.errors import BadInput
from splits.sources import IMAGE, NEAR_DUPLICATES

# What nests deeply is read in quadratic time: more would look like a hang.
MOST_BYTES = 2**14
MOST_CLASSES = 100_000


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
        separator: What stands between several owners in that column, such as `;`; an
            image is then used only by members that may see all of them. null: the
            values are taken as they are.
        near: Greatest distance of near-duplicates: 0 is the same picture, 1 another.
        owner: Column of the metadata that says whose each source is, for the design
            `product`.
        label: Column of the metadata that conditional members are told; null: `label`
            where the data has one.
        classes: The labels that there are: a list of their names, or their number
            where they are 0, 1, 2 and so on. A class may be without images. null: the
            labels that the images have, so that a source that alone has one of them
            changes how many classes every member knows.
        n_images: Keep only the first so many images; null keeps all.
        stream: Read images from the folder or the shards whenever they are needed,
            instead of holding all of them in memory. The result is the same.
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
        _one_of("data.kind", self.kind, ("digits", "folder", "shards"))
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
        _one_of("data.channels", self.channels, (None, 1, 3))
        _at_least("data.size", self.size, 1)
        _at_least("data.n_images", self.n_images, 1)
        _within("data.near", self.near, 0.0, 1.0)
        _require_classes(self.classes)
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
    """Who trains on what.

    Attributes:
        design: A name in `splits.designs.DESIGNS`.
        n_members: Members of the ensemble.
        weight: Members that train on each source; null: the design's own choice.
        seed: Draws the code book.
        removable: For designs that promise it: any so many sources can be ablated
            together; null: the design's own choice.
        survivors: For the same designs: members that are then left at least.
        salt: For designs whose codes follow from numbers or names: a secret that takes
            the place of the seed.
        salt_sha256: The salt's digest, published before the data came in; a salt that
            does not fit it is refused.
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
        _at_least("splits.n_members", self.n_members, 1)
        for name in ("weight", "removable", "survivors"):
            _at_least(f"splits.{name}", getattr(self, name), 1)
        _at_least("splits.seed", self.seed, 0)
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
        class_conditional: Tell the members each image's label.
        block_out_channels: Channels at each resolution; halves the side each time.
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
        _one_of(
            "model.prediction_type",
            self.prediction_type,
            ("epsilon", "v_prediction"),
        )
        _one_of("model.schedule", self.schedule, ("linear", "cosine"))
        _at_least("model.n_timesteps", self.n_timesteps, 2)
        _at_least("model.layers_per_block", self.layers_per_block, 1)
        _at_least("model.norm_num_groups", self.norm_num_groups, 1)
        _within("model.dropout", self.dropout, 0.0, 1.0)
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
        batch_size: Images a step.
        learning_rate: Peak of AdamW's learning rate.
        warmup_steps: Steps over which the learning rate rises from zero.
        lr_schedule: After the warm-up: `cosine` (down to zero) or `constant`.
        weight_decay: AdamW's weight decay.
        max_grad_norm: Gradients longer than this are scaled down to it.
        ema_decay: Keep an exponential moving average of the weights, and generate with
            it; null keeps the last weights.
        mixed_precision: `no`, `bf16` or `fp16`.
        shared_noise: All members start from the same weights and see the same stream of
            timesteps and noise, so that they differ by their data and nothing else.
        flip: Mirror half of the images left to right.
        label_dropout: Share of labels hidden from conditional members, for guidance.
        seed: Draws initial weights, order, timesteps, noise and augmentation.
        processes: Processes to start; null: one per device, without devices one per
            core. Never more than the members need, and whole teams.
        processes_per_member: Processes that train each member together, each on its
            part of every batch; for members that are too slow on one device.
        threads: Threads of each process on a CPU. The last bits of the weights depend
            on it; members of this size gain nothing from more than one.
        checkpoint_every_steps: Steps between two checkpoints.
        keep_every_steps: Keep each member's weights after so many steps, again and
            again, for methods that follow the training (`tracin`, `gas`); null: only
            the finished ones.
        slices: Let the sources join a member's training in so many slices, one after
            the other, and keep a checkpoint from before each, from which a repair goes
            on; null: all at once, and a repair starts again.
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
            _at_least(f"training.{name}", getattr(self, name), 1)
        _at_least("training.slices", self.slices, 2)
        _at_least("training.keep_every_steps", self.keep_every_steps, 1)
        if self.slices and self.slices > self.steps:
            raise BadInput(
                f"training.slices is {self.slices}, but there are only {self.steps} "
                "training.steps, and each slice takes one at least. Use fewer slices, "
                "or more steps."
            )
        _at_least("training.warmup_steps", self.warmup_steps, 0)
        _at_least("training.seed", self.seed, 0)
        _at_least("training.weight_decay", self.weight_decay, 0.0)
        _above("training.learning_rate", self.learning_rate, 0.0)
        _above("training.max_grad_norm", self.max_grad_norm, 0.0)
        _within("training.ema_decay", self.ema_decay, 0.0, 1.0)
        _within("training.label_dropout", self.label_dropout, 0.0, 1.0)
        _one_of(
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
        _one_of("training.lr_schedule", self.lr_schedule, ("cosine", "constant"))


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are generated unless a call says otherwise.

    Attributes:
        scheduler: `ddim`, `ddpm`, `dpmsolver++` or `euler`.
        n_steps: Denoising steps.
        guidance_scale: Strength of classifier-free guidance; 1 is none.
    """

    scheduler: str = "ddim"
    n_steps: int = 50
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        _one_of(
            "sampling.scheduler",
            self.scheduler,
            ("ddim", "ddpm", "dpmsolver++", "euler"),
        )
        _at_least("sampling.n_steps", self.n_steps, 1)
        _at_least("sampling.guidance_scale", self.guidance_scale, 0.0)


@dataclass(frozen=True)
class Config:
    """Everything that a run is made from.

    Attributes:
        run: The run folder.
        extends: The run folder of an ensemble that this one takes over, and adds data
            to; null: it starts from nothing.
        data: Where the training images come from; those that are added, if it extends
            another run.
        splits: Who trains on what.
        model: One member.
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


class _Loader(yaml.SafeLoader):
    """Refuses what no config needs.

    That is: a key that stands twice, of which YAML readers take the last without a
    word; anchors and aliases, by which a short file can become an endless one; tags,
    by which a text can claim to be anything; and numbers of more than 64 bits.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        for part in ("anchor", "tag"):
            if getattr(event, part, None) is not None:
                _refuse(f"a config has no anchors, aliases or tags, here {part}", event)
        return super().compose_node(parent, index)  # type: ignore[arg-type]

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse("a key must be a word", key)
            if key.value in seen:
                _refuse(f"the key {key.value!r} stands twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if abs(number) >= 2**64:
            _refuse("a whole number of more than 64 bits", node)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _refuse(what: str, at: Any) -> typing.NoReturn:
    raise yaml.constructor.ConstructorError(None, None, what, at.start_mark)


def _parsed(text: str, name: str) -> Any:
    """What a text of YAML says.

    Raises:
        BadInput: If it is not YAML, or holds what no config needs.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - derives from SafeLoader
    # ValueError: a day that no calendar has, such as 2024-02-31.
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(
            f"{name} is not valid YAML: {error}. Mend it there; plain `key: value` lines "
            "are all that is needed."
        ) from None
    except RecursionError:
        raise BadInput(
            f"{name} is not valid YAML: it is nested too deeply. Options are two deep: "
            "sections and their keys."
        ) from None


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a YAML file, with `section.key=value` overrides applied.

    Raises:
        BadInput: If the file cannot be read, or a key, type or value is wrong.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"Cannot read the config {path}: {error}. Name a YAML file in UTF-8."
        ) from None
    if len(content) > MOST_BYTES:
        raise BadInput(
            f"The config {path} is longer than {MOST_BYTES} bytes; every option with its "
            "default fits into a fifth of that. Name another file."
        )
    tree = _parsed(text, str(path))
    if not isinstance(tree, dict):
        raise BadInput(f"{path} holds no options. Write `run: runs/NAME` at least.")
    for override in overrides:
        _apply(tree, override)
    try:
        return from_dict(tree)
    except BadInput as error:
        raise BadInput(f"In the config {path}: {error}") from None


def from_dict(tree: dict[str, Any]) -> Config:
    """A checked config from nested dictionaries.

    Raises:
        BadInput: If a key, type or value is wrong, or `run` is missing.
    """
    if tree.get("run") in (None, ""):
        raise BadInput("The config has no `run`: write the run folder's path there.")
    return _build(Config, tree, "")


def to_dict(config: Config) -> dict[str, Any]:
    """Nested dictionaries with every default filled in."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """The text of a config file with every default filled in."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line `key: old -> new` for every option in which two configs differ."""
    return [
        f"{key}: {before!r} -> {after!r}" for key, before, after in changes(old, new)
    ]


def changes(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Every option in which two configs differ: its name, the old and the new value."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from changes(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}", before, after


def _apply(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise BadInput(
            f"Override {override!r} has no '='. Write section.key=value, such as "
            "training.steps=500."
        )
    *sections, key = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise BadInput(
                f"Override {override!r}: {section!r} is not a section. Write "
                "section.key=value, such as training.steps=500."
            )
    tree[key] = _parsed(text, f"Override {override!r}")


def _build(cls: type, tree: Any, prefix: str) -> Any:
    """An instance of a config dataclass; unknown keys and wrong types are refused."""
    if not isinstance(tree, dict):
        raise BadInput(
            f"{prefix.rstrip('.')} is {tree!r}: a section with keys is wanted."
        )
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            raise BadInput(_unknown(str(key), list(hints), prefix))
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            values[key] = _build(typing.cast(type, hint), value, f"{prefix}{key}.")
        else:
            values[key] = _typed(f"{prefix}{key}", value, hint)
    return cls(**values)


def _unknown(key: str, known: list[str], prefix: str) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    advice = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
    place = f"Section {prefix.rstrip('.')!r}" if prefix else "The config"
    return f"{place} has no key {key!r}. {advice}"


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value, as the type that the field declares."""
    alternatives = (
        typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    )
    if isinstance(value, str) and "\0" in value:
        raise BadInput(f"{name} is {value!r}: no name has a zero in it. Remove it.")
    for alternative in alternatives:
        if _matches(value, alternative):
            return float(value) if alternative is float else value
    wanted = " or ".join(_spelled(alternative) for alternative in alternatives)
    advice = _number_hint(value) if float in alternatives else ""
    if isinstance(value, float) and not math.isfinite(value):
        advice = " It must be finite."
    raise BadInput(f"{name} is {value!r}: {wanted} is wanted.{advice}")


def _matches(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is list:
        (item,) = typing.get_args(hint)
        return isinstance(value, list) and all(_matches(entry, item) for entry in value)
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _spelled(hint: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        types.NoneType: "null",
    }
    if typing.get_origin(hint) is list:
        return f"a list, each entry {_spelled(typing.get_args(hint)[0])},"
    return names[hint]


def _number_hint(value: Any) -> str:
    """YAML 1.1 reads `1e-4` as text: the trap deserves its own sentence."""
    if not isinstance(value, str):
        return ""
    try:
        mantissa, *exponent = f"{Decimal(value):e}".split("e")
    except InvalidOperation:
        return ""
    if not exponent:  # not a number, or infinity
        return ""
    point = "" if "." in mantissa else ".0"
    return (
        f" YAML reads {value} as text; with a decimal point and a sign it is a number: "
        f"{mantissa}{point}e{exponent[0]}."
    )


def _require_classes(classes: list[str] | int | None) -> None:
    """Refuse classes that are too few, too many, nameless or named twice."""
    if classes is None:
        return
    if isinstance(classes, int):
        _at_least("data.classes", classes, 2)
        if classes > MOST_CLASSES:
            raise BadInput(
                f"data.classes is {classes}; it must be at most {MOST_CLASSES}. Every "
                "class takes room in every member."
            )
        return
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if len(classes) < 2 or twice or "" in classes:
        what = f"names {twice[0]!r} twice" if twice else f"is {classes}"
        raise BadInput(
            f"data.classes {what}: at least two classes are wanted, each with a name of "
            "its own. Mend the list, or set it to null."
        )


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(
            str(value), [str(item) for item in allowed], n=1
        )
        advice = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join("null" if item is None else str(item) for item in allowed)
        raise BadInput(f"{name} is {value!r}; allowed: {known}.{advice}")


def _at_least(name: str, value: int | float | None, least: int | float) -> None:
    if value is not None and not value >= least:
        raise BadInput(f"{name} is {value}; it must be at least {least}.")


def _above(name: str, value: int | float, bound: int | float) -> None:
    if not value > bound:
        raise BadInput(f"{name} is {value}; it must be greater than {bound}.")


def _within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value < high:
        raise BadInput(f"{name} is {value}; allowed: {low} up to, not with, {high}.")
