"""The smallest honest ensemble: 8 sources, 4 members, real classes, seconds of work."""

from pathlib import Path

import numpy as np
import torch

from ensemble.models.denoisers import build_member
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.provenance import drawing
from ensemble.provenance.plans import Plan
from ensemble.run import config_file, files
from ensemble.run.config import Config
from ensemble.run.folder import Run, create
from ensemble.sampling import completion
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.schedulers import sampler
from ensemble.training.members import train_members
from ensemble.training.process import Stopping
from splits.codes import CodeBook

SETTINGS = {
    "data": {"n_images": 8},
    "splits": {"n_members": 4, "weight": 2, "design": "partition"},
    "model": {
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "add_attention": False,
    },
    "training": {
        "steps": 6,
        "batch_size": 3,
        "warmup_steps": 2,
        "log_every_steps": 2,
        "checkpoint_every_steps": 4,
        "processes": 1,
    },
    "sampling": {"n_steps": 4},
}


def config(folder: Path, **changes: dict) -> Config:
    """A config that trains in a second; `section={key: value}` changes it."""
    tree = {
        section: {**SETTINGS.get(section, {}), **changes.get(section, {})}
        for section in ("data", "splits", "model", "training", "sampling")
    }
    if tree["splits"]["design"] == "partition":
        tree["splits"].pop("weight", None)
    return config_file.from_dict({"run": str(folder), **tree})


class StopsAfter(Stopping):
    """Asks to stop once so many steps have been asked about."""

    def __init__(self, n_steps: int) -> None:
        self.left = n_steps
        self.waiting = False

    @property
    def asked(self) -> bool:
        self.left -= 1
        return self.left < 0


def trained(folder: Path, **changes: dict) -> tuple[Run, Plan]:
    """A run folder with all members trained."""
    run = create(config(folder, **changes))
    ready = drawing.prepare(run)
    members = range(ready.codes.n_members)
    assert not train_members(run, members, ready, Stopping())
    completion.complete(run)
    return run, ready


def pipeline_of(run: Run) -> EnsemblePipeline:
    """The ensemble of a run, which draws no progress bars."""
    pipe = EnsemblePipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def forget_stage(run: Run, name: str) -> None:
    """Leave the manifest as a kill does between a stage's work and its record."""
    manifest = files.read_json(run.manifest)
    del manifest["stages"][name]
    files.write_json(run.manifest, manifest)


def ensemble(
    n_members: int = 4,
    n_classes: int | None = None,
    scheduler: str = "ddim",
    codes: CodeBook | None = None,
    **model: object,
) -> EnsemblePipeline:
    """An untrained ensemble of 8x8 grey pictures, different members, in float64."""
    settings = config_file.from_dict(
        {
            "run": "none",
            "model": {**SETTINGS["model"], **model},
            "sampling": {"scheduler": scheduler, "n_steps": 4},
        }
    )
    networks = [
        build_member(settings.model, (1, 8, 8), n_classes, seed)
        for seed in range(n_members)
    ]
    for network in networks:
        # Fresh networks end in zeros: without this all members predict nothing.
        generator = torch.Generator().manual_seed(7)
        for parameter in network.conv_out.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    config = {
        key: value
        for key, value in networks[0].config.items()
        if not key.startswith("_")
    }
    model_of_members = EnsembleModel(list(range(n_members)), config)
    for position, network in enumerate(networks):
        model_of_members.networks[position] = network
    pipe = EnsemblePipeline(
        members=model_of_members.double().eval(),
        scheduler=sampler(settings.model, settings.sampling),
        num_inference_steps=4,
        codes=codes,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def codes(n_sources: int = 6, n_members: int = 4) -> CodeBook:
    """All codes of half weight: the first six with four members."""
    from splits.designs import registry

    return registry.draw("balanced", n_sources, n_members, None, 0)


def different(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays are clearly not the same."""
    return bool(np.abs(np.asarray(first) - np.asarray(second)).max() > 1e-3)
