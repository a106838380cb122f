"""Arguments: what a call of the pipeline is given, checked before any work is done.

Each function takes what somebody passed and returns it in the one form that the
pipeline works with, or says what came, what is allowed and what to do.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splits.entries import is_one, members_of
from splits.errors import BadInput

Generators = torch.Generator | list[torch.Generator] | None
Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]

# Seeds are kept as 64-bit integers: they run from 0 up to, not with, this.
N_SEEDS = 2**63
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
# What schedulers must have to be stepped through.
_PARTS = ("set_timesteps", "step", "scale_model_input", "init_noise_sigma", "config")


def checked_seeds(seeds: Any) -> list[int]:
    """One noise seed per image; a single number is one image.

    Raises:
        BadInput: If it is anything but whole numbers from 0 to 2**63 - 1.
    """
    found = [seeds] if is_one(seeds) else members_of(seeds)
    if isinstance(seeds, set | frozenset) or found is None or not all_whole(found):
        raise BadInput(
            f"seeds is {shown(seeds)}; allowed: a whole number, or a list, range or array "
            "of whole numbers in the order of the images. Give one seed for each image."
        )
    if not found:
        raise BadInput("seeds is empty: give one seed for each image.")
    for seed in found:
        if not 0 <= seed < N_SEEDS:
            raise BadInput(
                f"seeds has {seed}; allowed: 0 to 2**63 - 1. Choose another seed."
            )
    return [int(seed) for seed in found]


def checked_generators(generator: Any, device: torch.device) -> Generators:
    """One generator for all images, or a list of one for each.

    Raises:
        BadInput: If it is anything else, or one is on another device than the members.
    """
    if generator is None:
        return None
    each = list(generator) if isinstance(generator, list | tuple) else [generator]
    if not each or not all(isinstance(one, torch.Generator) for one in each):
        raise BadInput(
            f"generator is {shown(generator)}; allowed: a torch.Generator, or a list of "
            "one for each image. Or give seeds, which is simpler."
        )
    for one in each:
        # Noise that is drawn on the CPU can be moved anywhere.
        if one.device.type not in ("cpu", device.type):
            raise BadInput(
                f"A generator is on {one.device}, the members are on {device}. Give one "
                "on the CPU or on that device, or give seeds."
            )
    return each if isinstance(generator, list | tuple) else generator


def checked_latents(
    latents: Any, image_shape: Sequence[int]
) -> Float[Tensor, "images channels height width"] | None:
    """The noise to start from.

    Raises:
        BadInput: If it is no tensor of finite numbers, or of another shape.
    """
    if latents is None:
        return None
    if isinstance(latents, np.ndarray) and latents.dtype.kind == "f":
        latents = torch.from_numpy(np.ascontiguousarray(latents))
    if not isinstance(latents, Tensor) or not latents.is_floating_point():
        raise BadInput(
            f"latents is {shown(latents)}; allowed: a tensor of floats of shape (images, "
            f"{_sides(image_shape)}). Leave it out to have noise drawn from seeds."
        )
    if latents.ndim != 4 or tuple(latents.shape[1:]) != tuple(image_shape):
        raise BadInput(
            f"latents have shape {tuple(latents.shape)}; allowed: (images, "
            f"{_sides(image_shape)}), as the members denoise it. Give them that shape."
        )
    if not is_finite(latents):
        raise BadInput(
            "latents hold numbers that are not finite. Give finite numbers, or leave "
            "latents out to have noise drawn."
        )
    return latents


def number_of_images(given: Mapping[str, int | None]) -> int:
    """How many images are wanted, where several arguments say so.

    Args:
        given: What each argument says, by its name; None where it says nothing.

    Raises:
        BadInput: If they differ.
    """
    said = {name: count for name, count in given.items() if count is not None}
    for (name, count), (other, wanted) in itertools.pairwise(said.items()):
        if count != wanted:
            raise BadInput(
                f"{count} {name} came for {other} {wanted}. Give one of them for each "
                "image, or leave one out."
            )
    return next(iter(said.values()), 1)


def checked_batch_size(batch_size: Any) -> int | None:
    """The number of images; None where other arguments say it.

    Raises:
        BadInput: If it is no whole number of at least 1.
    """
    if batch_size is None:
        return None
    return _whole("batch_size", batch_size, 1, None)


def checked_labels(
    class_labels: Any, no_label: int | None, n_images: int
) -> list[int] | None:
    """One label for each image; None for unconditional members.

    Args:
        class_labels: A label for all images, or one each.
        no_label: The number of labels that the members know; None if they know none.
        n_images: How many images there are.

    Raises:
        BadInput: If labels are missing, too few, unknown or without use.
    """
    if no_label is None:
        if class_labels is not None:
            raise BadInput(
                "class_labels were given, but the members are unconditional. Leave "
                "them out, or train with model.class_conditional=true."
            )
        return None
    if class_labels is None:
        raise BadInput(
            f"The members are conditional: give class_labels from 0 to {no_label - 1}."
        )
    labels = [class_labels] if is_one(class_labels) else members_of(class_labels)
    unordered = isinstance(class_labels, set | frozenset)
    if unordered or labels is None or not all_whole(labels):
        raise BadInput(
            f"class_labels is {shown(class_labels)}; allowed: whole numbers from 0 to "
            f"{no_label - 1}. Give one for all images, or a list of one for each."
        )
    if len(labels) == 1:
        labels = labels * n_images
    if len(labels) != n_images:
        raise BadInput(
            f"{len(labels)} class_labels came for {n_images} images. Give one for "
            "all, or one for each."
        )
    if min(labels) < 0 or max(labels) >= no_label:
        raise BadInput(
            f"class_labels run from {min(labels)} to {max(labels)}; allowed: 0 to "
            f"{no_label - 1}."
        )
    return [int(label) for label in labels]


def checked_scheduler(scheduler: Any) -> None:
    """Refuse what the pipeline cannot step through.

    Raises:
        BadInput: If it lacks something that is asked of every scheduler.
    """
    lacking = [name for name in _PARTS if not hasattr(scheduler, name)]
    if lacking:
        raise BadInput(
            f"The scheduler is a {type(scheduler).__name__}, which has no "
            f"{', '.join(lacking)}. Set pipe.scheduler to one of diffusers that predicts "
            "noise or velocity, such as DDIMScheduler."
        )


def checked_steps(n_steps: Any, scheduler: Any) -> int:
    """How many denoising steps there are.

    Raises:
        BadInput: If it is no whole number, or there are not so many timesteps.
    """
    most = scheduler.config.get("num_train_timesteps")
    return _whole("num_inference_steps", n_steps, 1, most)


def checked_guidance(guidance_scale: Any) -> float:
    """Strength of classifier-free guidance.

    Raises:
        BadInput: If it is no finite number of at least 0.
    """
    return _number("guidance_scale", guidance_scale, 0.0, math.inf)


def require_use_of_guidance(guidance_scale: Any, no_label: int | None) -> None:
    """Refuse guidance where there is nothing to guide by.

    Raises:
        BadInput: If guidance is asked of unconditional members.
    """
    if no_label is None and checked_guidance(guidance_scale) != 1.0:
        raise BadInput(
            f"guidance_scale is {guidance_scale}, but the members are unconditional, and "
            "guidance has no effect. Leave it out, or train with "
            "model.class_conditional=true."
        )


def checked_eta(eta: Any, scheduler: Any) -> float:
    """Share of fresh noise in DDIM.

    Raises:
        BadInput: If it is no number from 0 to 1, or has no effect.
    """
    found = _number("eta", eta, 0.0, 1.0)
    if found and "eta" not in inspect.signature(scheduler.step).parameters:
        raise BadInput(
            f"eta is {eta}, but {type(scheduler).__name__} does not take it. Leave it "
            "out, or set pipe.scheduler to a DDIMScheduler."
        )
    return found


def checked_output_type(output_type: Any) -> str:
    """What form the images are returned in.

    Raises:
        BadInput: If there is none of that name.
    """
    if not isinstance(output_type, str) or output_type not in OUTPUT_TYPES:
        raise BadInput(
            f"output_type is {shown(output_type)}; allowed: {', '.join(OUTPUT_TYPES)}. "
            "Choose one of them."
        )
    return output_type


def checked_callback(callback: Any, tensor_inputs: Any) -> list[str]:
    """Names of the tensors that a callback is given.

    Raises:
        BadInput: If the callback cannot be called, or one is unknown.
    """
    if callback is not None and not callable(callback):
        raise BadInput(
            f"callback_on_step_end is {shown(callback)}; allowed: a function of (pipe, "
            "step, timestep, tensors), or None. Give a function."
        )
    # diffusers' own callbacks say what they want.
    tensor_inputs = getattr(callback, "tensor_inputs", tensor_inputs)
    names = None if isinstance(tensor_inputs, str) else members_of(tensor_inputs)
    unknown = [name for name in names or [] if name != "latents"]
    if names is None or unknown:
        raise BadInput(
            f"callback_on_step_end_tensor_inputs has {shown(unknown or tensor_inputs)}; "
            "allowed: latents. Give a list of it, or an empty list."
        )
    return names


def changed_latents(answer: Any, latents: Tensor) -> Tensor:
    """The images as a callback wants them from here on.

    Args:
        answer: What it returned: nothing, or a dictionary with changed latents.
        latents: What they were; the callback may have changed them in place.

    Raises:
        BadInput: If it returned anything else, or latents of another shape or that are
            not finite.
    """
    if answer is None:
        answer = {}
    if not isinstance(answer, Mapping) or answer.keys() - {"latents"}:
        raise BadInput(
            f"callback_on_step_end returned {shown(answer)}; allowed: nothing, or a "
            "dictionary with changed latents. Return {'latents': latents}."
        )
    changed = answer.get("latents", latents)
    if not isinstance(changed, Tensor) or changed.shape != latents.shape:
        raise BadInput(
            f"callback_on_step_end returned latents {shown(changed)}; allowed: a tensor "
            f"of shape {tuple(latents.shape)}. Keep the shape that it was given."
        )
    if not is_finite(changed):
        raise BadInput(
            "After callback_on_step_end the latents are not finite. Return finite numbers."
        )
    return changed


def require_finite(
    states: Tensor, scheduler: Any, step: int, n_steps: int, timestep: Any
) -> None:
    """Refuse to go on with, or to show, pictures that are not finite.

    Raises:
        BadInput: If one is not; says after which step of which scheduler.
    """
    if is_finite(states):
        return
    broken = (~torch.isfinite(states)).flatten(1).any(dim=1)
    first = int(torch.nonzero(broken)[0])
    raise BadInput(
        f"Image {first} is not finite after step {step + 1} of {n_steps} (timestep "
        f"{float(timestep):g}) of {type(scheduler).__name__} with members of "
        f"{str(states.dtype).removeprefix('torch.')}. Use more steps, another scheduler, "
        "less guidance, or float32."
    )


def is_finite(states: Tensor) -> bool:
    """Whether all numbers are finite; on the `meta` device there are none."""
    return states.is_meta or bool(torch.isfinite(states).all())


def shown(value: Any, n_letters: int = 80) -> str:
    """What was given, in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of {value.dtype}, shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= n_letters else f"{text[:n_letters]}..."


def all_whole(entries: Sequence[Any]) -> bool:
    """Whether all are whole numbers; True and 3.0 are not."""
    return all(
        isinstance(one, int | np.integer) and not isinstance(one, bool)
        for one in entries
    )


def _whole(name: str, value: Any, least: int, most: int | None) -> int:
    bound = f"at least {least}" if most is None else f"from {least} to {most}"
    fits = all_whole([value]) and least <= value <= (value if most is None else most)
    if not fits:
        raise BadInput(
            f"{name} is {shown(value)}; allowed: a whole number, {bound}. Give that."
        )
    return int(value)


def _number(name: str, value: Any, least: float, most: float) -> float:
    bound = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    is_number = isinstance(value, int | float | np.integer | np.floating)
    is_number = is_number and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:
        raise BadInput(
            f"{name} is {shown(value)}; allowed: a finite number, {bound}. Give that."
        )
    return float(value)


def _sides(image_shape: Sequence[int]) -> str:
    return ", ".join(str(side) for side in image_shape)
