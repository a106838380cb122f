"""EK-FAC influence: our seconds and memory beside kronfluence's, on the same network.

    python -m benchmarks.attribution.curvature
    python -m benchmarks.attribution.curvature smoke      # at toy size; writes nothing

As in the paper (arXiv 2410.13850), gradients are averaged over twice as many noise draws
as the curvature is fitted to. Both sides get the same UNet2DModel, the same noisy digits
and the same batch size: fit EK-FAC with the empirical Fisher matrix, damp each layer by
a tenth of its mean eigenvalue, score every training image for every query. To
kronfluence every draw is a data point of its own, so that its scores are averaged over
draws afterwards. Each side runs in a process of its own, on one thread, so that peak
memory is its own; seconds are the process's own, so that other work on the machine does
not count; the sides take turns, and the scores must agree. Target: three times as fast.
"""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import record
from ensemble.data import datasets
from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.models.denoisers import build_member, predict
from ensemble.models.objective import objective_of
from ensemble.run import config_file
from ensemble.scorers.curvature import layers
from ensemble.scorers.curvature.kfac import Curvature, Sample
from ensemble.system import environment, seeding

SEED = 0


def network_and_samples(
    n_train: int, n_queries: int, n_draws: int
) -> tuple[nn.Module, Sample, Sample]:
    """A network of the digits' size, and noisy digits to fit and to ask at."""
    settings = config_file.from_dict({"run": "none"})
    network = build_member(settings.model, (1, 8, 8), None, SEED).eval()
    keyed = seeding.generator(SEED, "benchmark")
    # Fresh networks end in zeros, and then nothing comes back to the other layers.
    for weights in network.conv_out.parameters():
        weights.data += 0.2 * torch.randn(weights.shape, generator=keyed)
    images = torch.from_numpy(datasets.load(settings.data).images.copy())
    states = []
    for chosen in (images[:n_train], images[-n_queries:]):
        clean = chosen.repeat_interleave(n_draws, dim=0)
        noise, chance = torch.randn(2, *clean.shape, generator=keyed)
        timestep = torch.randint(1000, (len(clean),), generator=keyed)
        noisy = objective_of(settings.model).perturb(clean, noise, timestep)
        states.append(Sample(noisy, timestep, UNCONDITIONAL, noise, chance))
    return network, *states


def fitted_to(train: Sample, n_draws: int) -> Sample:
    """The first half of each image's draws."""
    half = torch.arange(len(train.noisy)) % n_draws < max(1, n_draws // 2)
    return Sample(
        train.noisy[half],
        train.timestep[half],
        UNCONDITIONAL,
        train.target[half],
        train.pseudo_target_noise[half],
    )


def parts(n_all: int, at_once: int) -> list[slice]:
    return [slice(first, first + at_once) for first in range(0, n_all, at_once)]


def ours(
    network: nn.Module, train: Sample, queries: Sample, n_draws: int, batch_size: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Scores and seconds of this project."""
    found = layers.find(network)
    curvature = Curvature(targets="observed")
    fit_to = fitted_to(train, n_draws)
    began = time.process_time()
    spectra = curvature.measure(
        network,
        found,
        lambda _: (fit_to.at(part) for part in parts(len(fit_to.noisy), batch_size)),
    )
    fitted = curvature.damp(spectra, found, next(network.parameters()))
    fit_seconds = time.process_time() - began

    def gradients(sample: Sample) -> layers.Gradients:
        recorded = layers.forward(network, found, sample.noisy, sample.timestep)
        error = recorded.prediction.detach() - sample.target
        pull = 2 / error[0].numel() / n_draws * error
        return layers.per_image(recorded, pull, len(error) // n_draws)

    began = time.process_time()
    directions = fitted.solve(gradients(queries))
    scores = [
        layers.products(directions, gradients(train.at(part)))
        for part in parts(len(train.noisy), batch_size)
    ]
    score_seconds = time.process_time() - began
    return torch.cat(scores, dim=1).numpy(), {
        "fit_seconds": fit_seconds,
        "score_seconds": score_seconds,
    }


def kronfluence(
    network: nn.Module, train: Sample, queries: Sample, n_draws: int, batch_size: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Scores and seconds of the package."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from torch.utils.data import TensorDataset

    class Denoising(Task):
        def compute_train_loss(
            self, batch: Any, model: nn.Module, sample: bool = False
        ) -> torch.Tensor:
            noisy, timestep, wanted = batch
            error = predict(model, noisy, timestep) - wanted
            return error.square().mean(dim=(1, 2, 3)).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> torch.Tensor:
            return self.compute_train_loss(batch, model)

    fit_to, trained_on, asked = (
        TensorDataset(sample.noisy, sample.timestep, sample.target)
        for sample in (fitted_to(train, n_draws), train, queries)
    )
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "benchmark",
            prepare_model(network, Denoising()),
            Denoising(),
            cpu=True,
            output_dir=folder,
            disable_tqdm=True,
        )
        began = time.process_time()
        analyzer.fit_all_factors(
            "factors",
            fit_to,
            per_device_batch_size=batch_size,
            factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True),
        )
        fit_seconds = time.process_time() - began
        began = time.process_time()
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            query_dataset=asked,
            train_dataset=trained_on,
            per_device_query_batch_size=len(queries.noisy),
            per_device_train_batch_size=batch_size,
            score_args=ScoreArguments(damping_factor=None),
        )
        of_draws = analyzer.load_pairwise_scores("scores")
        assert of_draws is not None
        shape = (len(queries.noisy) // n_draws, n_draws, -1, n_draws)
        scores = of_draws["all_modules"].reshape(shape).mean(dim=(1, 3))
        score_seconds = time.process_time() - began
    return scores.numpy(), {
        "fit_seconds": fit_seconds,
        "score_seconds": score_seconds,
    }


SIDES = {"ours": ours, "kronfluence": kronfluence}


def run_side(
    side: str, folder: str, n_train: int, n_queries: int, n_draws: int, batch_size: int
) -> None:
    """One side in this process; scores and facts go to the folder."""
    torch.set_num_threads(1)
    prepared = network_and_samples(n_train, n_queries, n_draws)
    scores, seconds = SIDES[side](*prepared, n_draws, batch_size)
    np.save(Path(folder) / f"{side}.npy", scores)
    facts = {**seconds, "peak_memory_mb": environment.peak_memory_bytes() / 2**20}
    (Path(folder) / f"{side}.json").write_text(json.dumps(facts))


def one_turn(folder: Path, *sizes: int) -> dict[str, dict[str, float]]:
    """Both sides, one after the other, each in a process of its own."""
    facts = {}
    for side in SIDES:
        command = [
            sys.executable,
            "-m",
            "benchmarks.attribution.curvature",
            side,
            str(folder),
        ]
        subprocess.run(
            command + [str(size) for size in sizes],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )
        facts[side] = json.loads((folder / f"{side}.json").read_text())
    return facts


def compare(
    n_train: int = 96,
    n_queries: int = 32,
    n_draws: int = 32,
    batch_size: int = 64,
    n_turns: int = 3,
) -> dict[str, Any]:
    """Both sides in turn; times are medians, the speed-up is the median of turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (n_train, n_queries, n_draws, batch_size)
        turns = [one_turn(folder, *sizes) for _ in range(n_turns)]
        ours, theirs = (np.load(folder / f"{side}.npy") for side in SIDES)
    medians = {
        side: {
            fact: round(statistics.median(turn[side][fact] for turn in turns), 2)
            for fact in turns[0][side]
        }
        for side in SIDES
    }
    speedups = [
        (turn["kronfluence"]["fit_seconds"] + turn["kronfluence"]["score_seconds"])
        / (turn["ours"]["fit_seconds"] + turn["ours"]["score_seconds"])
        for turn in turns
    ]
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    return {
        **medians,
        "times_faster": round(statistics.median(speedups), 2),
        "times_faster_by_turn": [round(speedup, 2) for speedup in speedups],
        "largest_relative_difference_of_scores": float(difference),
        "n_train": n_train,
        "n_queries": n_queries,
        "n_draws": n_draws,
        "n_draws_of_curvature": n_draws // 2,
        "batch_size": batch_size,
        "kronfluence": {
            "version": importlib.metadata.version("kronfluence"),
            **medians["kronfluence"],
        },
    }


def main() -> None:
    if sys.argv[1:] == ["smoke"]:
        print(json.dumps(compare(8, 2, 2, 16, 1)))
        return
    if len(sys.argv) > 1:
        side, folder, *sizes = sys.argv[1:]
        run_side(side, folder, *map(int, sizes))
        return
    record.write("curvature", [SEED], compare())


if __name__ == "__main__":
    main()
