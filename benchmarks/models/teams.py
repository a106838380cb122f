"""One member of 2.6 million weights, trained by one process and by two together.

    python -m benchmarks.models.teams FOLDER [--smoke]

How far the loss of every step and the weights at the end are apart, and how many steps
a second two processes make for each one of one. One process and two are run in turn, so
that a drifting clock strikes both. What is finished in FOLDER is not run again; --smoke
takes a small member and few steps, and prints instead of recording.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks import record
from ensemble.run import config_file, files
from ensemble.run.folder import Run, open_run


@dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        channels: The member's `block_out_channels`.
        steps: Optimiser steps.
        n_pairs: Times that one process and two are run.
    """

    channels: tuple[int, ...] = (64, 128)
    steps: int = 48
    n_pairs: int = 3


SMOKE = Size(channels=(16, 32), steps=6, n_pairs=1)


def trained(folder: Path, size: Size, processes: int) -> Run:
    """A run in which train.py has trained one member."""
    tree = {
        "run": str(folder),
        "data": {"n_images": 256},
        "model": {"block_out_channels": list(size.channels)},
        "training": {
            "steps": size.steps,
            "batch_size": 64,
            "warmup_steps": size.steps // 4,
            "log_every_steps": 1,
            "processes_per_member": processes,
        },
    }
    path = folder.with_suffix(".yaml")
    path.write_text(config_file.to_yaml(config_file.from_dict(tree)))
    subprocess.run(
        [sys.executable, "train.py", str(path), "--members", "0"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return open_run(folder)


def facts(run: Run) -> dict[str, Any]:
    """What is on record of the member."""
    return files.read_json(run.member(0) / "member.json")


def weights(run: Run) -> dict[str, np.ndarray]:
    """The member's weights, by name."""
    return load_file(run.member(0) / "diffusion_pytorch_model.safetensors")


def apart(one: Run, two: Run) -> dict[str, float]:
    """The largest differences: of a loss, relative; of a weight, by its tensor's size.

    The size of a tensor is the root of its mean square. Where a normalisation takes a
    weight's effect away (a bias before groups of one channel), its gradient is nothing
    but rounding, of which AdamW makes whole steps: such sizes of members compare badly.
    """
    alone, shared = (np.array(facts(run)["loss_curve"]["loss"]) for run in (one, two))
    whole, parts = weights(one), weights(two)
    return {
        "loss": float(np.max(np.abs(shared / alone - 1))),
        "weight": max(
            float(np.abs(parts[name] - value).max() / np.sqrt(np.mean(value**2)))
            for name, value in whole.items()
        ),
    }


def compared(folder: Path, size: Size) -> dict[str, Any]:
    """One process against two, in turn."""
    pairs = [
        [
            trained(folder / f"{number}_{processes}", size, processes)
            for processes in (1, 2)
        ]
        for number in range(size.n_pairs)
    ]
    rates = [[size.steps / facts(run)["seconds"] for run in pair] for pair in pairs]
    ratios = [two / one for one, two in rates]
    differences = [apart(*pair) for pair in pairs]
    return {
        "weights": sum(value.size for value in weights(pairs[0][0]).values()),
        "steps": size.steps,
        "largest_difference_of_a_loss": max(row["loss"] for row in differences),
        "largest_difference_of_a_weight": max(row["weight"] for row in differences),
        "final_loss": facts(pairs[0][0])["loss_curve"]["loss"][-1],
        "same_bits_every_time": all(
            facts(run)["weights_sha256"] == facts(first)["weights_sha256"]
            for pair in pairs
            for run, first in zip(pair, pairs[0], strict=True)
        ),
        "steps_a_second_one_and_two": [
            [round(rate, 3) for rate in pair] for pair in rates
        ],
        "ratio_median": round(statistics.median(ratios), 2),
    }


def main(arguments: Sequence[str]) -> None:
    """Compare and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.teams")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder.resolve()
    found = compared(folder, SMOKE if options.smoke else Size())
    if options.smoke:
        print(json.dumps(found, indent=1))
    else:
        record.write("teams", [0], found)


if __name__ == "__main__":
    main(sys.argv[1:])
