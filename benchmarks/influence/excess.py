"""Do single images stand out above placebo, and does a planted duplicate?

    python -m benchmarks.influence.excess FOLDER

Trains, or continues, five ensembles of 16 members below FOLDER: on 64, 256 and 1,024
digits and on all 1,797, each image a source, and on 256 digits of which one has 15
more copies that belong to the same source. For each, over 16 generated queries,
differential ablation with its audit: mean displacement of real sources and of placebos,
the share of sources above the placebos' 99.9th percentile (0.1 % if nothing is there),
and the queries for which some source stands out with a corrected p-value of 0.05. For
the planted source: its p-value and rank for the query that looks most like it.
"""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from benchmarks import record
from ensemble.data.datasets import load as load_data
from ensemble.run import files
from ensemble.run.config import DataConfig
from ensemble.run.folder import Run, open_run
from ensemble.sampling.queries import distance
from splits import shards

N_QUERIES, N_COPIES, PLANTED = 16, 16, 3
TABLES = ("displacement", "placebo")
SETTINGS = {
    "splits": {"n_members": 16},
    "model": {"prediction_type": "v_prediction", "schedule": "cosine"},
    "training": {"steps": 500, "batch_size": 32},
    "sampling": {"n_steps": 25},
}


def trained(folder: Path, data: dict) -> Run:
    """A trained run whose queries are ablated; what is done already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    run, path = folder / "run", folder / "config.yaml"
    path.write_text(yaml.safe_dump({"run": str(run), "data": data, **SETTINGS}))
    for command in (
        ["train.py", str(path)],
        ["attribute.py", str(run), "generate", "--n", str(N_QUERIES)],
        ["attribute.py", str(run), "ablate", "--method", "differential"],
    ):
        subprocess.run([sys.executable, *command], check=True)
    return open_run(run)


def planted(folder: Path, n_images: int = 256) -> dict:
    """A data section: digits in a shard, one of them with copies in its own source."""
    images = load_data(DataConfig(n_images=n_images)).images
    order = [*range(n_images), *[PLANTED] * (N_COPIES - 1)]
    samples = []
    for key, image in enumerate(order):
        content = io.BytesIO()
        np.save(content, images[image], allow_pickle=False)
        column = json.dumps({"original": f"{image:04d}"}).encode()
        samples.append((f"{key:06d}", {"npy": content.getvalue(), "json": column}))
    if not (folder / shards.INDEX).exists():
        shards.write_index(folder, shards.write(folder, samples, len(samples)))
    path = str(folder / "images-000000.tar")
    return {"kind": "shards", "path": path, "source": "original"}


def findings(run: Run) -> dict:
    """Real sources against placebos, over all queries."""
    folder = run.influence("demo") / "differential"
    info = files.read_json(folder / "info.json")
    real, placebo = (np.load(folder / f"{name}.npy") for name in TABLES)
    levels = np.quantile(placebo, 0.999, axis=1)
    return {
        "n_sources": real.shape[1],
        "mean_displacement": round(float(real.mean()), 4),
        "mean_displacement_of_placebos": round(float(placebo.mean()), 4),
        "excess_percent": round(100 * float(real.mean() / placebo.mean() - 1), 2),
        "percent_above_placebo_99.9": round(
            100 * float((real > levels[:, None]).mean()), 3
        ),
        "queries_above_placebo": len(real) - len(info["unattributable"]),
        "smallest_p_possible": round(info["smallest_p"], 4),
        "road": info["road"],
        "audit_spearman": info["audit"]["spearman"],
    }


def planted_findings(run: Run) -> dict:
    """Where the planted source stands, for the queries most like it."""
    folder = run.influence("demo") / "differential"
    displacement = np.load(folder / "displacement.npy")
    p_values = np.load(folder / "p_values.npy")
    pictures = np.load(run.queries("demo") / "images.npy")
    image = load_data(DataConfig(n_images=PLANTED + 1)).images[PLANTED]
    gaps = distance(pictures, image)
    ranks = (displacement > displacement[:, [PLANTED]]).sum(axis=1)
    return {
        "copies": N_COPIES,
        "queries_by_distance_to_it": [
            {
                "distance": round(float(gaps[query]), 3),
                "rank_of_planted": int(ranks[query]),
                "p_of_planted": round(float(p_values[query, PLANTED]), 4),
            }
            for query in np.argsort(gaps)
        ],
        "queries_where_it_is_first": int((ranks == 0).sum()),
        "queries_where_it_stands_out": int((p_values[:, PLANTED] <= 0.05).sum()),
    }


def main(folder: str) -> None:
    root, results = Path(folder).resolve(), {}
    for n_images in (64, 256, 1024, 1797):
        run = trained(root / str(n_images), {"n_images": n_images})
        results[str(n_images)] = findings(run)
    run = trained(root / "planted", planted(root / "shards"))
    results["256 and 15 copies"] = findings(run) | planted_findings(run)
    record.write("excess", [0], {**results, "n_queries": N_QUERIES, **SETTINGS})


if __name__ == "__main__":
    main(sys.argv[1])
