"""Training speed: processes, overhead and precision, each compared in one run.

    python -m benchmarks.models.training

(b) members an hour with two processes against one; target 1.7 times; and beside it the
machine's ceiling: bare training steps a second by two processes that share nothing,
against one. (c) share of a
step that is not forward, backward or optimiser; target at most 10 %. (d) bfloat16
against float32: speed and final loss. Pairs are run in turn, so that a drifting clock
strikes both; medians and all pairs are reported.
"""

import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from benchmarks import record
from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.provenance import drawing
from ensemble.run import config_file
from ensemble.run.config import Config
from ensemble.run.folder import create
from ensemble.training.members import member_images
from ensemble.training.optimization import denoising_loss
from ensemble.training.trainer import MemberTrainer

TREE = {
    "data": {"n_images": 64},
    "splits": {"n_members": 8, "weight": 4},
    "training": {"steps": 200, "batch_size": 64, "warmup_steps": 20},
}


def config(folder: Path, **changes: object) -> Config:
    """The benchmark's config, with training options changed."""
    tree = {**TREE, "run": str(folder), "training": {**TREE["training"], **changes}}
    return config_file.from_dict(tree)


def wall_seconds(processes: int) -> float:
    """Seconds from outside in which train.py trains eight members."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(config_file.to_yaml(config(Path(folder) / "run")))
        options = [str(path), f"training.processes={processes}"]
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "train.py", *options],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - began


def bare_rate(seconds: float) -> float:
    """Bare training steps a second of one process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        one = trainer(Path(folder) / "run")
        clean, n_steps = one.batches.images[:64], 0
        bare_step(one, clean)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            bare_step(one, clean)
            n_steps += 1
        return n_steps / (time.perf_counter() - began)


def ceiling(n_pairs: int = 3, seconds: float = 10.0) -> dict:
    """What two processes could reach here if starting and sharing cost nothing."""
    ratios = []
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(bare_rate, [0.1, 0.1]))
        for _ in range(n_pairs):
            alone = pool.submit(bare_rate, seconds).result()
            ratios.append(sum(pool.map(bare_rate, [seconds, seconds])) / alone)
    return {
        "ratio_median": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def processes(n_pairs: int = 2) -> dict:
    """One process against two, each with one thread."""
    pairs = [(wall_seconds(1), wall_seconds(2)) for _ in range(n_pairs)]
    ratios = [one / two for one, two in pairs]
    return {
        "seconds_one_and_two": [
            [round(second, 1) for second in pair] for pair in pairs
        ],
        "ratio_median": round(statistics.median(ratios), 2),
        "target": 1.7,
    }


def trainer(folder: Path, precision: str = "no", seed: int = 0) -> MemberTrainer:
    """A member that is about to be trained."""
    settings = config(folder, mixed_precision=precision, seed=seed)
    run = create(settings)
    ready = drawing.prepare(run)
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    split = member_images(ready.codes, ready.source_of, 0)
    return MemberTrainer(run, 0, ready.data, split, accelerator)


def bare_step(one: MemberTrainer, clean: torch.Tensor) -> None:
    """Only forward, backward and optimiser, on inputs that lie ready."""
    timestep, noise = torch.full((len(clean),), 500), torch.ones_like(clean)
    loss = denoising_loss(
        one.network,
        one.objective,
        clean,
        timestep,
        noise,
        UNCONDITIONAL,
        one.accelerator,
    )
    one.accelerator.backward(loss)
    one.accelerator.clip_grad_norm_(one.network.parameters(), 1.0)
    one.scaled.step()
    one.scaled.zero_grad()


def overhead(n_pairs: int = 15, n_steps: int = 5) -> dict:
    """Whole steps against bare steps of the same member, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        one = trainer(Path(folder) / "run")
        clean = one.batches.images[:64]
        shares = []
        for _ in range(n_pairs):
            began = time.perf_counter()
            for _ in range(n_steps):
                one.step()
            between = time.perf_counter()
            for _ in range(n_steps):
                bare_step(one, clean)
            whole, bare = between - began, time.perf_counter() - between
            shares.append(1 - bare / whole)
    return {
        "share_median": round(statistics.median(shares), 3),
        "share_quartiles": [
            round(share, 3) for share in np.quantile(shares, [0.25, 0.75])
        ],
        "target": 0.1,
    }


def precision(seeds: tuple[int, ...] = (0, 1, 2)) -> dict:
    """bfloat16 against float32: seconds and final loss of one member, each seed."""
    seconds: dict[str, list[float]] = {"no": [], "bf16": []}
    losses: dict[str, list[float]] = {"no": [], "bf16": []}
    for seed in seeds:
        for kind in seconds:
            with tempfile.TemporaryDirectory() as folder:
                one = trainer(Path(folder) / "run", kind, seed)
                began = time.perf_counter()
                while one.state.step < one.settings.steps:
                    one.step()
                seconds[kind].append(time.perf_counter() - began)
                losses[kind].append(one.state.losses[-1])
    ratios = [
        full / half for full, half in zip(seconds["no"], seconds["bf16"], strict=True)
    ]
    return {
        "speed_ratio_median": round(statistics.median(ratios), 2),
        "speed_ratios": [round(ratio, 2) for ratio in ratios],
        "final_loss_float32": [round(loss, 4) for loss in losses["no"]],
        "final_loss_bfloat16": [round(loss, 4) for loss in losses["bf16"]],
    }


def main() -> None:
    torch.set_num_threads(1)
    record.write(
        "training",
        [0, 1, 2],
        {
            "processes": processes(),
            "ceiling_of_two_processes": ceiling(),
            "overhead": overhead(),
            "precision": precision(),
        },
    )


if __name__ == "__main__":
    main()
