"""EnsemblePipeline: seeds, conditions and votes in, images out.

A diffusers pipeline whose denoiser is an ensemble. At every sampling step the members'
predictions are averaged by their votes; members that no image votes for do not run.
Silencing the members that saw a source (`ablate`) and sampling again with the same
noise gives the picture as it would be without that source.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from jaxtyping import Float
from torch import Tensor

from ensemble.models import safe_loading
from ensemble.models.conditioning import Condition
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.provenance import access
from ensemble.run.files import read_json, write_array, write_json
from ensemble.run.voters import Membership
from ensemble.sampling import (
    arguments,
    load_arguments,
    loading,
    trajectory,
    vote_arguments,
)
from ensemble.sampling.arguments import Callback, Generators
from ensemble.sampling.schedulers import Scheduler
from ensemble.sampling.trajectory import Sampling
from splits.codes import CodeBook
from splits.errors import BadInput
from splits.naming import SourceNames


class EnsemblePipeline(DiffusionPipeline):
    """Generates with an encoded ensemble as if it were one model.

    Attributes:
        members: The members, one `EnsembleModel`.
        scheduler: Any diffusers scheduler.
        codes: Who saw what; needed for `ablate` and `allowed`. None if unknown.
        source_names: What the sources are called, in the order of their codes.
        owners: The sources that each owner has a part in, by name, if images can have
            several.
        membership: Whose weights these are, as it was when they were loaded from a run
            folder; results record this. None for members from elsewhere.
    """

    model_cpu_offload_seq = "members"
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        members: EnsembleModel,
        scheduler: Scheduler,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        codes: CodeBook | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(members=members, scheduler=scheduler)
        self.register_to_config(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        )
        self.codes = codes
        self.source_names: list[str] = []
        self.owners: dict[str, list[int]] = {}
        self.membership: Membership | None = None

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | Any = None,
        class_labels: Sequence[int] | int | Any = None,
        generator: Generators | Any = None,
        num_inference_steps: int | Any = None,
        guidance_scale: float | Any = None,
        eta: float | Any = 0.0,
        output_type: str | Any = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | Any = ("latents",),
        *,
        seeds: Sequence[int] | int | Any = None,
        votes: np.ndarray | Sequence | Any = None,
        ablate: Sequence[int | str] | Any = None,
        allowed: Sequence[int | str] | Any = None,
        latents: Tensor | Any = None,
    ) -> ImagePipelineOutput | tuple:
        """Generate images.

        Args:
            batch_size: Number of images, where seeds, generators and latents do not
                say it; None: one.
            class_labels: One label for all images or one each; conditional members
                need it.
            generator: One generator, or one per image; `seeds` is simpler.
            num_inference_steps: Denoising steps, at most as many as there are timesteps;
                None: as the run was configured.
            guidance_scale: Strength of classifier-free guidance, 1 is none; None: as
                the run was configured.
            eta: Share of fresh noise in DDIM, from 0 to 1.
            output_type: `pil`, `np` (images, height, width, channels) in [0, 1], `pt`
                (images, channels, height, width) in [0, 1], or `latent`: not clipped,
                around [-1, 1].
            return_dict: Return an `ImagePipelineOutput` rather than a tuple.
            callback_on_step_end: Called as callback(pipe, step, timestep, tensors); may
                return changed tensors, or nothing.
            callback_on_step_end_tensor_inputs: What it is given; only "latents".
            seeds: One noise seed per image, from 0 to 2**63 - 1; a single number is one
                image. The same seed gives the same noise, however the members vote.
            votes: How much each loaded member counts, (members,) or (images, members);
                non-negative, rows sum to one. By default all count the same.
            ablate: Numbers or names of sources to remove from all images, or a list of
                one collection of them per image; splits/naming.py says how they are
                read.
            allowed: Numbers or names of sources, or names of owners: only members that
                saw nothing else vote.
            latents: Initial noise instead of drawn noise, (images, channels, height,
                width).

        Returns:
            The images, in `.images`.

        Raises:
            BadInput: If an argument contradicts another one or is out of range, or a
                picture is not finite after a step.
        """
        latents = arguments.checked_latents(latents, self.members.image_shape)
        generator, n_images = self._noise_of(seeds, generator, latents, batch_size)
        weights = self._votes(votes, ablate, allowed, n_images)
        output_type = arguments.checked_output_type(output_type)
        tensor_inputs = arguments.checked_callback(
            callback_on_step_end, callback_on_step_end_tensor_inputs
        )
        if guidance_scale is not None:
            arguments.require_use_of_guidance(guidance_scale, self.members.no_label)
        sampling = self.sampling(num_inference_steps, guidance_scale, eta)
        condition = self.condition(class_labels, n_images)
        if latents is None:
            latents = trajectory.initial_noise(self.members, generator, n_images)
        walk = trajectory.denoise(
            self.members,
            sampling,
            latents.to(self._execution_device, self.members.dtype),
            weights,
            condition,
            generator,
        )
        images = latents
        with self.progress_bar(total=sampling.n_steps) as progress:  # type: ignore[call-arg]
            for step, timestep, images in walk:
                if callback_on_step_end is not None:
                    tensors = dict.fromkeys(tensor_inputs, images)
                    answer = callback_on_step_end(self, step, timestep, tensors)
                    images.copy_(arguments.changed_latents(answer, images))
                progress.update()
        self.maybe_free_model_hooks()
        finished = self._finish(images, output_type)
        return ImagePipelineOutput(images=finished) if return_dict else (finished,)

    def pictures(
        self, seeds: Sequence[int] | np.ndarray, labels: Sequence[int] | None = None
    ) -> Float[Tensor, "images channels height width"]:
        """Pictures by the full ensemble, around [-1, 1], not clipped."""
        output = self(seeds=seeds, class_labels=labels, output_type="latent")
        return output.images  # type: ignore[union-attr]

    def sampling(
        self,
        n_steps: int | Any = None,
        guidance_scale: float | Any = None,
        eta: float | Any = 0.0,
    ) -> Sampling:
        """How this pipeline samples, where a call does not say otherwise.

        Raises:
            BadInput: If the scheduler cannot be used, there are more steps than
                timesteps, or a number is out of range.
        """
        arguments.checked_scheduler(self.scheduler)
        configured: Any = self.config
        if n_steps is None:
            n_steps = configured["num_inference_steps"]
        if guidance_scale is None:
            guidance_scale = configured["guidance_scale"]
        return Sampling(
            self.scheduler,
            arguments.checked_steps(n_steps, self.scheduler),
            arguments.checked_guidance(guidance_scale),
            arguments.checked_eta(eta, self.scheduler),
        )

    def condition(
        self, class_labels: Sequence[int] | int | Any, n_images: int
    ) -> Condition:
        """Labels as the members are told them.

        Raises:
            BadInput: If labels are missing, too few, unknown or without use.
        """
        no_label = self.members.no_label
        labels = arguments.checked_labels(class_labels, no_label, n_images)
        return self.members.condition(labels).to(self._execution_device)

    def _noise_of(
        self, seeds: Any, generator: Any, latents: Tensor | None, batch_size: Any
    ) -> tuple[Generators, int]:
        """What draws the noise of how many images."""
        if seeds is not None and generator is not None:
            raise BadInput("Give seeds or generator, not both: each decides the noise.")
        generators = arguments.checked_generators(generator, self._execution_device)
        if seeds is not None:
            generators = trajectory.query_generators(arguments.checked_seeds(seeds))
        each = len(generators) if isinstance(generators, list) else None
        n_images = arguments.number_of_images(
            {
                "generators" if seeds is None else "seeds": each,
                "latents": None if latents is None else len(latents),
                "batch_size": arguments.checked_batch_size(batch_size),
            }
        )
        return generators, n_images

    def _votes(
        self, votes: Any, ablate: Any, allowed: Any, n_images: int
    ) -> Float[Tensor, "images members"]:
        vote_arguments.require_one(votes, ablate, allowed)
        n_members = self.members.n_members
        if ablate is not None:
            loaded, called = self._loaded_codes(), self.called
            rows = vote_arguments.votes_without(ablate, loaded, called, n_images)
        elif allowed is not None:
            loaded, sources = self._loaded_codes(), self.called.allowed(allowed)
            row = access.allowed_votes(loaded, sources, self.source_names)
            rows = np.tile(row, (n_images, 1))
        elif votes is not None:
            rows = vote_arguments.checked_votes(votes, n_images, n_members)
        else:
            rows = np.full((n_images, n_members), 1 / n_members)
        return torch.as_tensor(rows, dtype=self.members.dtype).to(
            self._execution_device
        )

    @property
    def called(self) -> SourceNames:
        """What the sources are called, and who owns them.

        Raises:
            BadInput: If there is no code book, or not one name for each source.
        """
        codes = self._loaded_codes()
        return SourceNames(codes.n_sources, self.source_names, self.owners)

    def _loaded_codes(self) -> CodeBook:
        return vote_arguments.loaded_codes(self.codes, self.members.member_ids)

    def _finish(self, images: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return images
        shown = (images / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return shown
        arrays = shown.cpu().permute(0, 2, 3, 1).float().numpy()
        return arrays if output_type == "np" else self.numpy_to_pil(arrays)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | Any = None,
        **kwargs: Any,
    ) -> None:
        """Write the pipeline with its code book.

        Args:
            save_directory: The folder; made if it is not there.
            safe_serialization: Only True: nothing is pickled.
            variant: A word that becomes part of the names of the weights' files.
            **kwargs: As diffusers takes them; `max_shard_size` is refused.

        Raises:
            BadInput: If weights were to be pickled, or cut into several files.
        """
        if not safe_serialization or kwargs.get("max_shard_size") is not None:
            raise BadInput(
                "Members are written as safetensors, one file each: neither "
                "safe_serialization=False nor max_shard_size can be had. Leave them out."
            )
        variant = load_arguments.checked_variant(variant)
        super().save_pretrained(str(save_directory), variant=variant, **kwargs)
        if self.codes is not None:
            write_array(Path(save_directory) / "codes.npy", self.codes.bits)
            named = {"names": self.source_names, "owners": self.owners}
            write_json(Path(save_directory) / "sources.json", named)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        members: Sequence[int] | int | Any = None,
        membership: Membership | None = None,
        *,
        dtype: torch.dtype | Any = None,
        torch_dtype: torch.dtype | Any = None,
        variant: str | Any = None,
        scheduler: Scheduler = None,
        num_inference_steps: int | Any = None,
        guidance_scale: float | Any = None,
        use_safetensors: bool | None = None,
        **kwargs: Any,
    ) -> "EnsemblePipeline":
        """Load a pipeline from a run folder, or from where it was saved.

        Nothing that the folder brings is imported or run, whatever its files say:
        safe_loading.py decides which classes may be loaded.

        Args:
            pretrained_model_name_or_path: The folder.
            members: Which members to load, by number; None loads all that may vote.
            membership: Who may vote, as the caller has read it from the run folder;
                None: as it is now.
            dtype: Type of the weights, or, as diffusers has it, a dictionary of one by
                part; None: float32.
            torch_dtype: The same, by its older name.
            variant: Load the weights from `*.VARIANT.safetensors`, as `save_pretrained`
                wrote them; the members of a run have none.
            scheduler: Takes the place of the folder's.
            num_inference_steps: Takes the place of the folder's.
            guidance_scale: Takes the place of the folder's.
            use_safetensors: Nothing else is read, so that False is refused.
            **kwargs: `local_files_only` and `low_cpu_mem_usage` change nothing; anything
                else is refused.

        Raises:
            BadInput: If there is no such pipeline, a file of it is damaged, it asks for
                a class that may not be loaded, an option is unknown, or a removal or a
                repair changed who may vote.
        """
        load_arguments.require_options(cls, kwargs, use_safetensors)
        kind = load_arguments.checked_dtype(dtype, torch_dtype)
        variant = load_arguments.checked_variant(variant)
        chosen = load_arguments.checked_members(members)
        folder = Path(pretrained_model_name_or_path)
        manifest = loading.manifest_of(folder)
        if not (folder / safe_loading.INDEX).exists():
            raise BadInput(
                f"{folder} holds no pipeline: {folder / safe_loading.INDEX} is missing. "
                "Give a run folder that train.py has finished, or one written by "
                "save_pretrained."
            )
        if manifest is not None:
            loading.check_pipeline(folder, manifest)
        index = safe_loading.read_index(
            folder, {EnsemblePipeline.__name__, cls.__name__}
        )
        if scheduler is None:
            scheduler = safe_loading.read_scheduler(folder, index)
        load = functools.partial(
            EnsembleModel.from_pretrained,
            folder / "members",
            dtype=kind,
            variant=variant,
        )
        if manifest is None:
            loaded, membership = load(members=chosen), None
        else:
            loaded, membership = loading.members_of_run(
                folder, chosen, membership, load
            )
        given = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
        }
        replaced = {key: value for key, value in given.items() if value is not None}
        pipe = cls(loaded, scheduler, **{**index.settings, **replaced})
        pipe.register_to_config(_name_or_path=str(folder))
        pipe.membership = membership
        pipe.codes = loading.codes_of_members(folder, membership)
        if manifest is not None or (folder / "sources.json").exists():
            named = read_json(folder / "sources.json")
            pipe.source_names = named["names"]
            pipe.owners = named.get("owners", {})
        return pipe
