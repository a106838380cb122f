"""Quality of the ensemble as a model, on all digits, three seeds.

    python -m benchmarks.models.quality

Fréchet distance between generated and real digits in the hidden layer of a small
classifier trained on the digits (not FID: no Inception network): the ensemble, one
model trained on everything with as many steps, and one member alone; and an ensemble
whose members draw noise of their own (`training.shared_noise=false`). Also the
distance between two halves of the real digits, which is what perfect would give.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import record
from ensemble.data import encoders
from ensemble.data.datasets import load as load_data
from ensemble.evaluation.metrics.distribution import frechet
from ensemble.run import config_file
from ensemble.run.config import DataConfig
from ensemble.sampling.pipeline import EnsemblePipeline

SEEDS = [0, 1, 2]
N_IMAGES = 512
MODEL = {"prediction_type": "v_prediction", "schedule": "cosine"}
TRAINING = {"steps": 500, "batch_size": 64}


def trained(folder: Path, splits: dict, **options: object) -> EnsemblePipeline:
    """A pipeline with these splits of all digits."""
    tree = {
        "run": str(folder / "run"),
        "splits": splits,
        "model": MODEL,
        "training": {**TRAINING, **options},
    }
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_text(config_file.to_yaml(config_file.from_dict(tree)))
    subprocess.run([sys.executable, "train.py", str(path)], check=True)
    pipe = EnsemblePipeline.from_pretrained(folder / "run")
    pipe.set_progress_bar_config(disable=True)
    pipe.members.side_by_side = 2
    return pipe


def generated(pipe: EnsemblePipeline, votes: np.ndarray | None = None) -> np.ndarray:
    """Pictures in [-1, 1] from the same noise for everyone."""
    call = {"seeds": range(N_IMAGES), "votes": votes, "output_type": "latent"}
    images = pipe(**call, num_inference_steps=25).images
    return images.clamp(-1, 1).numpy()


def pictures(root: Path, seed: int) -> dict[str, np.ndarray]:
    """Pictures of everyone who is compared, all trained with this seed."""
    halves = {"design": "random_subsets", "n_members": 8, "seed": seed}
    everything = {"design": "partition", "n_members": 1}
    ensemble = trained(root / "ensemble", halves, seed=seed)
    own_noise = trained(root / "own_noise", halves, seed=seed, shared_noise=False)
    single = trained(root / "single", everything, seed=seed)
    return {
        "ensemble": generated(ensemble),
        "ensemble_own_noise": generated(own_noise),
        "single": generated(single),
        "member": generated(ensemble, np.eye(8)[0]),
    }


def main() -> None:
    torch.set_num_threads(1)
    data = load_data(DataConfig())
    encoder = encoders.train(data.images, data.labels)
    real = encoder(data.images)
    distances: dict[str, list[float]] = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            for name, images in pictures(Path(folder), seed).items():
                distance = frechet(encoder(images), real)
                distances.setdefault(name, []).append(round(distance, 3))
        print(distances, flush=True)
    order = np.random.default_rng(0).permutation(len(real))
    floor = frechet(real[order[: len(real) // 2]], real[order[len(real) // 2 :]])
    summary = {
        f"{name}_mean": round(float(np.mean(values)), 3)
        for name, values in distances.items()
    }
    results = {"frechet": distances, **summary, "two_halves_of_the_data": floor}
    record.write("quality", SEEDS, {**results, "n_images": N_IMAGES, **TRAINING})


if __name__ == "__main__":
    main()
