"""Gradient features a second: ours beside traker's and dattri's, on the same network.

    python -m benchmarks.attribution.scorers compare      # gradient features a second, three sides
    python -m benchmarks.attribution.scorers growth       # how our seconds and memory grow
    python -m benchmarks.attribution.scorers methods RUN  # what every method costs on a run's queries

Each part writes results of its own; `smoke` after the name of the first two tries them
at toy size and writes nothing. Interrupted, `methods` goes on where it was.

A feature is the gradient of one digit's mean loss over noise draws, by all weights of a
UNet2DModel, projected to a few thousand numbers. All sides get the same network, the
same noisy digits and the same projection size; the packages take gradients by vmap and
project with their BasicProjector. Each side runs in a process of its own, on one
thread, so that peak memory is its own; seconds are the process's own, so that other
work on the machine does not count; the sides take turns, and inner products of features
must agree. Target: five times as fast.
"""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks import record
from ensemble.data import datasets
from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.models.denoisers import build_member
from ensemble.models.objective import objective_of
from ensemble.provenance import plans
from ensemble.run import config_file, files
from ensemble.run.folder import open_run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.scorers import SCORERS, runner
from ensemble.scorers.gradients.features import Feature, load_or_compute
from ensemble.scorers.gradients.per_example import Draws, draw_states
from ensemble.scorers.gradients.projection import Projection
from ensemble.scorers.interface import Examples, ScoringContext, all_of
from ensemble.system import environment

SEED = 0
# Images that the packages look at in one call; ours follows from the memory bound.
THEIR_BATCH = 32


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        n_images: Digits.
        n_draws: Noise draws of each.
        n_dimensions: Numbers that are left of a gradient.
        channels: Of the network's first resolution; the second has twice as many.
    """

    n_images: int = 64
    n_draws: int = 32
    n_dimensions: int = 4096
    channels: int = 16


SMOKE = Sizes(n_images=4, n_draws=2, n_dimensions=64, channels=8)


def network_and_context(sizes: Sizes, folder: Path) -> tuple[nn.Module, ScoringContext]:
    """A network for digits, and the digits."""
    tree = {"block_out_channels": [sizes.channels, 2 * sizes.channels]}
    settings = config_file.from_dict({"run": "none", "model": tree})
    network = build_member(settings.model, (1, 8, 8), None, SEED).eval()
    keyed = torch.Generator().manual_seed(SEED)
    # Fresh networks end in zeros, and then nothing comes back to the other layers.
    for weights in network.conv_out.parameters():
        weights.data += 0.2 * torch.randn(weights.shape, generator=keyed)
    images = torch.from_numpy(
        datasets.load(settings.data).images[: sizes.n_images].copy()
    )
    train = Examples(images, UNCONDITIONAL, torch.arange(len(images)))
    return network, ScoringContext(
        networks=[network],
        saw=np.ones((1, len(images)), dtype=bool),
        objective=objective_of(settings.model),
        train=train,
        queries=train[:1],
        source_of=np.arange(len(images)),
        n_sources=len(images),
        codes=None,
        max_memory_mb=1024,
        folder=folder,
    )


def ours(sizes: Sizes, folder: Path) -> tuple[np.ndarray, float]:
    """Features and seconds of this project, the file on disk included."""
    network, context = network_and_context(sizes, folder)
    feature = Feature(
        draws=Draws(n_timesteps=sizes.n_draws),
        projection=Projection(sizes.n_dimensions),
    )
    began = time.process_time()
    rows = load_or_compute(context, feature, network, all_of(context.train))
    return np.array(rows), time.process_time() - began


def their_input(
    sizes: Sizes, folder: Path
) -> tuple[nn.Module, list[list[Tensor]], Tensor]:
    """The same network, the same noisy digits in batches, and their timesteps."""
    network, context = network_and_context(sizes, folder)
    states = draw_states(
        context.objective, context.train, Draws(n_timesteps=sizes.n_draws)
    )
    pairs = zip(
        states.noisy.split(THEIR_BATCH), states.target.split(THEIR_BATCH), strict=True
    )
    return network, [list(pair) for pair in pairs], states.timesteps


def mean_loss(
    network: nn.Module, weights: Any, noisy: Tensor, wanted: Tensor, timesteps: Tensor
) -> Tensor:
    """Of one image, over its draws."""
    found = functional_call(network, weights, (noisy, timesteps))
    return (found.sample - wanted).square().mean()


def traker(sizes: Sizes, folder: Path) -> tuple[np.ndarray, float]:
    """Features and seconds of traker."""
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput

    network, batches, timesteps = their_input(sizes, folder)

    class MeanLoss(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(
            model: Any, weights: Any, buffers: Any, noisy: Tensor, wanted: Tensor
        ) -> Tensor:
            return mean_loss(model, (weights, buffers), noisy, wanted, timesteps)

        @staticmethod
        def get_out_to_loss_grad(
            model: Any, weights: Any, buffers: Any, batch: Any
        ) -> Tensor:
            return torch.ones(len(batch[0]), 1)

    package = TRAKer(
        model=network,
        task=MeanLoss(),
        train_set_size=sizes.n_images,
        save_dir=str(folder / "traker"),
        device="cpu",
        proj_dim=sizes.n_dimensions,
        use_half_precision=False,
        logging_level="ERROR",  # type: ignore[arg-type]
    )
    package.load_checkpoint(network.state_dict(), model_id=0)
    began = time.process_time()
    for batch in batches:
        package.featurize(batch=batch, num_samples=len(batch[0]))
    seconds = time.process_time() - began
    rows = np.array(package.saver.current_store["grads"])
    # Its features are divided by the root of the weights; its projection is not scaled.
    n_weights = sum(weights.numel() for weights in network.parameters())
    return rows * np.sqrt(n_weights / sizes.n_dimensions), seconds


def dattri(sizes: Sizes, folder: Path) -> tuple[np.ndarray, float]:
    """Features and seconds of dattri, as its TRAK attributor takes them."""
    from dattri.func.projection import random_project
    from dattri.task import AttributionTask

    network, batches, timesteps = their_input(sizes, folder)

    def loss(weights: Any, batch: Any) -> Tensor:
        return mean_loss(network, weights, *batch, timesteps)

    task = AttributionTask(
        loss_func=loss, model=network, checkpoints=network.state_dict()
    )
    gradients = task.get_grad_loss_func(in_dims=(None, 0))
    weights, _ = task.get_param(ckpt_idx=0)
    found = []
    began = time.process_time()
    for batch in batches:
        rows = gradients(weights, tuple(batch))
        project = random_project(
            rows, len(rows), sizes.n_dimensions, THEIR_BATCH, device="cpu"
        )
        found.append(project(rows).detach().clone())
    seconds = time.process_time() - began
    return torch.cat(found).numpy(), seconds


SIDES = {"ours": ours, "traker": traker, "dattri": dattri}


def run_side(side: str, folder: Path, sizes: Sizes) -> None:
    """One side in this process; features and facts go to the folder."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        rows, seconds = SIDES[side](sizes, Path(scratch))
    np.save(folder / f"{side}.npy", rows)
    facts = {
        "seconds": seconds,
        "peak_memory_mb": environment.peak_memory_bytes() / 2**20,
    }
    (folder / f"{side}.json").write_text(json.dumps(facts))


def in_own_process(side: str, folder: Path, sizes: Sizes) -> dict[str, float]:
    """One side in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.attribution.scorers",
        "--side",
        side,
        str(folder),
    ]
    numbers = (sizes.n_images, sizes.n_draws, sizes.n_dimensions, sizes.channels)
    subprocess.run(
        command + [str(number) for number in numbers],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    return json.loads((folder / f"{side}.json").read_text())


def disagreement(folder: Path, side: str) -> float:
    """How far a package's inner products of features are from ours, relative."""
    rows, theirs = (
        np.load(folder / f"{name}.npy").astype(np.float64) for name in ("ours", side)
    )
    products, reference = rows @ rows.T, theirs @ theirs.T
    return float(np.linalg.norm(products - reference) / np.linalg.norm(reference))


def compare(sizes: Sizes, n_turns: int = 3) -> dict[str, Any]:
    """All sides in turn; times are medians, the speed-up is the median of turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        turns = [
            {side: in_own_process(side, folder, sizes) for side in SIDES}
            for _ in range(n_turns)
        ]
        apart = {side: disagreement(folder, side) for side in SIDES if side != "ours"}
    results: dict[str, Any] = {"sizes": vars(sizes), "target": 5}
    for side in SIDES:
        seconds = [turn[side]["seconds"] for turn in turns]
        results[side] = {
            "features_a_second": round(sizes.n_images / statistics.median(seconds), 2),
            "cpu_seconds": [round(second, 2) for second in seconds],
            "peak_memory_mb": round(
                max(turn[side]["peak_memory_mb"] for turn in turns)
            ),
        }
    for side in apart:
        ratios = [turn[side]["seconds"] / turn["ours"]["seconds"] for turn in turns]
        results[side] |= {
            "version": importlib.metadata.version(side),
            "ours_is_faster_by": round(statistics.median(ratios), 2),
            "relative_difference_of_inner_products": round(apart[side], 4),
        }
    return results


def growth(sizes: Sizes) -> list[dict[str, Any]]:
    """Our seconds and memory as images, weights and projection grow fourfold."""
    variants = {
        "as compared": sizes,
        "4 times the images": Sizes(
            4 * sizes.n_images, sizes.n_draws, sizes.n_dimensions, sizes.channels
        ),
        "about 4 times the weights": Sizes(
            sizes.n_images, sizes.n_draws, sizes.n_dimensions, 2 * sizes.channels
        ),
        "4 times the dimensions": Sizes(
            sizes.n_images, sizes.n_draws, 4 * sizes.n_dimensions, sizes.channels
        ),
    }
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for label, changed in variants.items():
            facts = in_own_process("ours", Path(name), changed)
            rows.append(
                {
                    "what": label,
                    **vars(changed),
                    "cpu_seconds": round(facts["seconds"], 2),
                    "peak_memory_mb": round(facts["peak_memory_mb"]),
                }
            )
    return rows


def methods(folder: Path, name: str = "demo") -> list[dict[str, Any]]:
    """What every method costs on a run's queries; gradients that are shared count."""
    torch.set_num_threads(1)
    run = open_run(folder)
    ready = plans.load(run)
    pipe = EnsemblePipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    n_queries = len(queries.load(run, name).seeds)
    rows = []
    for method in SCORERS:
        path = runner.score(run, pipe, ready, name, method)
        facts = files.read_json(path.with_suffix(".json"))
        wanted = ("seconds", "gradient_evaluations", "forwards", "peak_memory_bytes")
        rows.append(
            {
                "method": method,
                "n_queries": n_queries,
                **{fact: facts[fact] for fact in wanted},
            }
        )
    return rows


def main() -> None:
    part, *rest = sys.argv[1:]
    if part == "--side":
        run_side(rest[0], Path(rest[1]), Sizes(*map(int, rest[2:])))
    elif rest == ["smoke"]:
        print(json.dumps(compare(SMOKE, 1) if part == "compare" else growth(SMOKE)))
    elif part == "compare":
        compared = [compare(Sizes(n_draws=n_draws)) for n_draws in (10, 32)]
        record.write("scorers", [SEED], {"compared": compared}, part)
    elif part == "growth":
        record.write("scorers", [SEED], {"growth": growth(Sizes())}, part)
    else:
        found = methods(Path(rest[0]))
        record.write("scorers", [SEED], {"methods": found}, part)


if __name__ == "__main__":
    main()
