"""The curvature of a scored network at the images that it saw, kept on disk."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from ensemble.run import files
from ensemble.run.cache import digest_of
from ensemble.scorers.curvature.kfac import Curvature, DampedCurvature, Sample, Spectrum
from ensemble.scorers.curvature.layers import Layers
from ensemble.scorers.gradients import cache
from ensemble.scorers.gradients.network import ScoredNetwork
from ensemble.scorers.interface import Examples, ScoringContext
from ensemble.system import seeding

SPECTRA = "spectra.safetensors"


def fitted(model: ScoredNetwork, curvature: Curvature) -> DampedCurvature:
    """The damped curvature, measured or read back; its facts are noted.

    Raises:
        BadInput: If what is on disk is damaged, or nothing damps a flat direction.
    """
    return path(model, curvature, [curvature.damping])[0]


def path(
    model: ScoredNetwork, curvature: Curvature, dampings: Sequence[float]
) -> list[DampedCurvature]:
    """The curvature with each damping, measured once or read back; facts are noted.

    Raises:
        BadInput: If what is on disk is damaged, or nothing damps a flat direction.
    """
    # Damping comes after measuring: another one needs no other measurement.
    options = {**dataclasses.asdict(curvature), "damping": None}
    name = digest_of(
        {
            "curvature": options,
            "layers": list(model.layers.modules),
            "network": cache.of_network(model.context, model.network),
            "train": cache.of_examples(model.context.train),
            "seen": files.array_digest(model.seen),
        }
    )
    folder, before = model.context.cache.files(
        f"curvature-{name}", lambda partial: _measure(model, curvature, partial)
    )
    model.context.work.seconds_before += before.get("seconds", 0)
    model.context.work.gradients += before.get("gradients", 0)
    spectra = _as_spectra(load_file(folder / SPECTRA), model.layers)
    like = next(model.network.parameters())
    found = curvature.path(spectra, model.layers, like, dampings)
    facts = found[0].facts()
    if facts not in model.context.notes:
        model.context.notes.append(facts)
    return found


def _measure(
    model: ScoredNetwork, curvature: Curvature, folder: Path
) -> dict[str, int]:
    """Measure the curvature and write it down; returns what that cost."""
    before = model.context.work.gradients
    spectra = curvature.measure(
        model.network,
        model.layers,
        lambda number: samples(model, curvature, number),
    )
    save_file(_as_tensors(spectra), folder / SPECTRA)
    return {"gradients": model.context.work.gradients - before}


def samples(
    model: ScoredNetwork, curvature: Curvature, number: int
) -> Iterator[Sample]:
    """What the curvature is measured at in one pass, so much at once as fits."""
    # Every draw counts as an image of its own here.
    at_once = model.batch(1, 0).n_images
    images_at_once = max(1, at_once // curvature.n_draws)
    parts = range(0, len(model.train), images_at_once)
    for first in tqdm(parts, desc=f"curvature, pass {number}", disable=None):
        images = model.train[first : first + images_at_once]
        sample = draw_sample(model.context, images, curvature, number)
        n_cotangents = sample.noisy[0].numel() if curvature.targets == "exact" else 1
        model.context.work.gradients += len(sample.noisy) * n_cotangents
        for start in range(0, len(sample.noisy), at_once):
            yield sample.at(slice(start, start + at_once))


def draw_sample(
    context: ScoringContext, examples: Examples, curvature: Curvature, number: int
) -> Sample:
    """Images at draws of their own, for one pass of the curvature.

    Each image's timesteps are spread evenly and shifted by chance, so that all images
    together stand at all timesteps alike.
    """
    shape = (curvature.n_draws, *examples.images.shape[1:])
    timesteps, noises, pseudo_target_noises = [], [], []
    for key in examples.keys.tolist():
        keyed = seeding.generator(curvature.seed, "curvature", key, number)
        shift = torch.rand((), generator=keyed)
        timesteps.append(context.objective.shifted_times(curvature.n_draws, shift))
        noises.append(torch.randn(shape, generator=keyed))
        pseudo_target_noises.append(torch.randn(shape, generator=keyed))
    clean = examples.images.repeat_interleave(curvature.n_draws, dim=0)
    timestep = torch.cat(timesteps).to(clean.device)
    noise = torch.cat(noises).to(clean)
    return Sample(
        noisy=context.objective.perturb(clean, noise, timestep),
        timestep=timestep,
        condition=examples.condition.repeat(curvature.n_draws),
        target=context.objective.target(clean, noise, timestep),
        pseudo_target_noise=torch.cat(pseudo_target_noises).to(clean),
    )


def _as_tensors(spectra: dict[str, Spectrum]) -> dict[str, Tensor]:
    tensors = {}
    for name, spectrum in spectra.items():
        tensors[f"{name} eigenvalues"] = spectrum.eigenvalues.contiguous()
        if spectrum.bases is not None:
            inputs, outputs = spectrum.bases
            tensors[f"{name} inputs"] = inputs.contiguous()
            tensors[f"{name} outputs"] = outputs.contiguous()
    return tensors


def _as_spectra(tensors: dict[str, Tensor], layers: Layers) -> dict[str, Spectrum]:
    spectra = {}
    for name in layers.modules:
        bases = None
        if f"{name} inputs" in tensors:
            bases = tensors[f"{name} inputs"], tensors[f"{name} outputs"]
        spectra[name] = Spectrum(bases, tensors[f"{name} eigenvalues"])
    return spectra
