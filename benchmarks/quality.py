"""Quality of the ensemble as a model, on all digits, three seeds.

    python -m benchmarks.quality

Fréchet distance between generated and real digits in the hidden layer of a small
classifier trained on the digits (not FID: no Inception network): the ensemble, one
model trained on everything with as many steps, and one member alone. Also the
distance between two halves of the real digits, which is what perfect would give.
"""

import tempfile
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from sklearn.neural_network import MLPClassifier

from benchmarks import record
from ensemble import config as configs
from ensemble import pipeline, plan, store, training
from ensemble.data import TrainingImages
from ensemble.pipeline import EnsemblePipeline

SEEDS = [0, 1, 2]
N_IMAGES = 512
MODEL = {"prediction_type": "v_prediction", "schedule": "cosine"}
TRAINING = {"steps": 500, "batch_size": 64, "processes": 1}


def encoder(data: TrainingImages) -> MLPClassifier:
    """A classifier whose hidden layer is the feature space."""
    classifier = MLPClassifier((64,), random_state=0, max_iter=300)
    return classifier.fit(data.images.reshape(len(data.images), -1), data.labels)


def features(classifier: MLPClassifier, images: np.ndarray) -> np.ndarray:
    """Hidden activations, (images, 64)."""
    flat = images.reshape(len(images), -1)
    return np.maximum(flat @ classifier.coefs_[0] + classifier.intercepts_[0], 0)


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)  (Heusel et al. 2017)."""
    means = one.mean(axis=0), other.mean(axis=0)
    covariances = np.cov(one.T), np.cov(other.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    gap = np.square(means[0] - means[1]).sum()
    return float(gap + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def trained(folder: Path, splits: dict, seed: int) -> EnsemblePipeline:
    """A pipeline with these splits of all digits."""
    tree = {
        "run": str(folder),
        "splits": splits,
        "model": MODEL,
        "training": {**TRAINING, "seed": seed},
    }
    run = store.create(configs.from_dict(tree))
    ready = plan.prepare(run)
    members = range(ready.codes.n_members)
    training.train_members(run, members, ready, training.Stopping())
    pipeline.complete(run)
    pipe = EnsemblePipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    pipe.members.side_by_side = 2
    return pipe


def generated(pipe: EnsemblePipeline, votes: np.ndarray | None = None) -> np.ndarray:
    """Pictures in [-1, 1] from the same noise for everyone."""
    call = {"seeds": range(N_IMAGES), "votes": votes, "output_type": "latent"}
    images = pipe(**call, num_inference_steps=25).images
    return images.clamp(-1, 1).numpy()


def main() -> None:
    torch.set_num_threads(1)
    distances: dict[str, list[float]] = {"ensemble": [], "single": [], "member": []}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            halves = {"design": "random_subsets", "n_members": 8, "seed": seed}
            ensemble = trained(root / "ensemble", halves, seed)
            everything = {"design": "partition", "n_members": 1}
            single = trained(root / "single", everything, seed)
            data = plan.load(store.open_run(root / "single")).data
            classifier = encoder(data)
            real = features(classifier, data.images)
            first = np.eye(8)[0]
            for name, images in (
                ("ensemble", generated(ensemble)),
                ("single", generated(single)),
                ("member", generated(ensemble, first)),
            ):
                distance = frechet(features(classifier, images), real)
                distances[name].append(round(distance, 3))
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
