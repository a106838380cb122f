"""What the shipped configs show, read off their finished runs.

    python train.py configs/NAME.yaml && python attribute.py runs/NAME     # for each
    python -m benchmarks.models.configs runs/digits runs/digits_all runs/digits_by_label

For every run: mean displacement of its sources and of placebos, the queries for which
some source stands out, and the percentile among placebos of the source that holds the
training image nearest to the query (50 would be nothing). Where the sources are labels,
also the share of pictures that a classifier takes for each label, with all members and
with that label ablated.
"""

import sys

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks import record
from ensemble.provenance import plans
from ensemble.provenance.plans import Plan
from ensemble.run import files
from ensemble.run.folder import Run, open_run
from ensemble.sampling.pipeline import EnsemblePipeline

N_PICTURES = 128


def nearest_percentiles(
    ready: Plan, images: np.ndarray, displacement: np.ndarray, placebo: np.ndarray
) -> list[float]:
    """Percentile among placebos of the source nearest to each query."""
    percentiles = []
    for query, image in enumerate(images):
        gaps = np.square(ready.data.images - image).sum(axis=(1, 2, 3))
        source = ready.source_of[gaps.argmin()]
        below = placebo[query] < displacement[query, source]
        percentiles.append(100 * float(below.mean()))
    return percentiles


def shares_of_labels(run: Run, ready: Plan) -> dict[str, list[float]]:
    """How often a classifier sees each label, before and after it is ablated."""
    classifier = LogisticRegression(max_iter=2000)
    data = ready.data
    classifier.fit(data.images.reshape(len(data.images), -1), data.labels)
    pipe = EnsemblePipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    pipe.members.side_by_side = 2

    def seen(ablate: list[int]) -> np.ndarray:
        call = {"seeds": range(N_PICTURES), "output_type": "latent"}
        images = pipe(ablate=ablate, **call).images.clamp(-1, 1).flatten(1).numpy()
        return np.bincount(classifier.predict(images), minlength=10) / N_PICTURES

    full = seen([])
    without = [seen([source])[source] for source in range(10)]
    return {
        "share_with": np.round(full, 3).tolist(),
        "share_without": np.round(without, 3).tolist(),
    }


def findings(path: str) -> dict:
    """The numbers of one run."""
    run = open_run(path)
    ready = plans.load(run)
    many = ready.codes.n_sources > 200
    folder = run.influence("demo") / ("differential" if many else "exact")
    info = files.read_json(folder / "info.json")
    displacement, placebo, p_values = (
        np.load(folder / f"{name}.npy")
        for name in ("displacement", "placebo", "p_values")
    )
    images = np.load(run.queries("demo") / "images.npy")
    percentiles = nearest_percentiles(ready, images, displacement, placebo)
    manifest = files.read_json(run.manifest)
    found = {
        "n_images": len(ready.data.images),
        "n_sources": ready.codes.n_sources,
        "n_members": ready.codes.n_members,
        "method": info["method"],
        "mean_displacement": round(float(displacement.mean()), 4),
        "mean_displacement_of_placebos": round(float(placebo.mean()), 4),
        "queries": len(images),
        "queries_above_placebo": len(images) - len(info["unattributable"]),
        "smallest_p_values": p_values.min(axis=1).round(4).tolist(),
        "percentile_of_nearest_mean": round(float(np.mean(percentiles)), 1),
        "percentiles_of_nearest": np.round(percentiles, 1).tolist(),
        "training_seconds_of_all_members": round(
            manifest["stages"]["train"]["seconds_of_members"]
        ),
        "attribution_seconds": round(info["seconds"], 1),
    }
    if "audit" in info:
        found["audit"] = info["audit"]["sentence"]
    if ready.codes.n_sources == len(set(ready.data.labels.tolist())):
        found |= shares_of_labels(run, ready)
    return found


def main(paths: list[str]) -> None:
    torch.set_num_threads(1)
    record.write(
        "configs", [0], {path.split("/")[-1]: findings(path) for path in paths}
    )


if __name__ == "__main__":
    main(sys.argv[1:])
