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
from ensemble.scorers.curvature.kfac import (
    Curvature,
    Fitted,
    Sample,
    Spectrum,
)
from ensemble.scorers.curvature.layers import Layers
from ensemble.scorers.gradients import cache
from ensemble.scorers.gradients.network import Scored
from ensemble.scorers.interface import (
    Examples,
    Setting,
)
from ensemble.system import seeding

SPECTRA = "spectra.safetensors"


def fitted(scored: Scored, curvature: Curvature) -> Fitted:
    """The damped curvature, measured or read back; its facts are noted.

    Raises:
        BadInput: If what is on disk is damaged, or nothing damps a flat direction.
    """
    return path(scored, curvature, [curvature.damping])[0]


def path(
    scored: Scored, curvature: Curvature, dampings: Sequence[float]
) -> list[Fitted]:
    """The curvature with each damping, measured once or read back; facts are noted.

    Raises:
        BadInput: If what is on disk is damaged, or nothing damps a flat direction.
    """
    # Damping comes after measuring: another one needs no other measurement.
    options = {**dataclasses.asdict(curvature), "damping": None}
    name = digest_of(
        {
            "curvature": options,
            "layers": list(scored.layers.modules),
            "network": cache.of_network(scored.setting, scored.network),
            "train": cache.of_examples(scored.setting.train),
            "seen": files.array_digest(scored.seen),
        }
    )
    folder, before = scored.setting.cache.files(
        f"curvature-{name}", lambda partial: _measure(scored, curvature, partial)
    )
    scored.setting.work.seconds_before += before.get("seconds", 0)
    scored.setting.work.gradients += before.get("gradients", 0)
    spectra = _as_spectra(load_file(folder / SPECTRA), scored.layers)
    like = next(scored.network.parameters())
    found = curvature.path(spectra, scored.layers, like, dampings)
    facts = found[0].facts()
    if facts not in scored.setting.notes:
        scored.setting.notes.append(facts)
    return found


def _measure(scored: Scored, curvature: Curvature, folder: Path) -> dict[str, int]:
    """Measure the curvature and write it down; returns what that cost."""
    before = scored.setting.work.gradients
    spectra = curvature.measure(
        scored.network,
        scored.layers,
        lambda number: samples(scored, curvature, number),
    )
    save_file(_as_tensors(spectra), folder / SPECTRA)
    return {"gradients": scored.setting.work.gradients - before}


def samples(scored: Scored, curvature: Curvature, number: int) -> Iterator[Sample]:
    """What the curvature is measured at in one pass, so much at once as fits."""
    # Every draw counts as an image of its own here.
    at_once = scored.batch(1, 0).n_images
    images_at_once = max(1, at_once // curvature.n_draws)
    parts = range(0, len(scored.train), images_at_once)
    for first in tqdm(parts, desc=f"curvature, pass {number}", disable=None):
        images = scored.train[first : first + images_at_once]
        sample = drawn(scored.setting, images, curvature, number)
        n_pulls = sample.noisy[0].numel() if curvature.targets == "exact" else 1
        scored.setting.work.gradients += len(sample.noisy) * n_pulls
        for start in range(0, len(sample.noisy), at_once):
            yield sample.at(slice(start, start + at_once))


def drawn(
    setting: Setting, examples: Examples, curvature: Curvature, number: int
) -> Sample:
    """Images at draws of their own, for one pass of the curvature.

    Each image's timesteps are spread evenly and shifted by chance, so that all images
    together stand at all timesteps alike.
    """
    shape = (curvature.n_draws, *examples.images.shape[1:])
    timesteps, noises, chances = [], [], []
    for key in examples.keys.tolist():
        keyed = seeding.generator(curvature.seed, "curvature", key, number)
        shift = torch.rand((), generator=keyed)
        timesteps.append(setting.objective.shifted_times(curvature.n_draws, shift))
        noises.append(torch.randn(shape, generator=keyed))
        chances.append(torch.randn(shape, generator=keyed))
    clean = examples.images.repeat_interleave(curvature.n_draws, dim=0)
    timestep = torch.cat(timesteps).to(clean.device)
    noise = torch.cat(noises).to(clean)
    return Sample(
        noisy=setting.objective.perturb(clean, noise, timestep),
        timestep=timestep,
        condition=examples.condition.repeat(curvature.n_draws),
        target=setting.objective.target(clean, noise, timestep),
        chance=torch.cat(chances).to(clean),
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
