"""Run folders at sizes that nobody trains here: do they open, and in how much memory?

    python -m benchmarks.robustness.drills FOLDER [N_MEMBERS] [N_SOURCES] [--smoke]

Two run folders are made without training, the first time: one of N_MEMBERS (1,000)
members for all digits, one of N_SOURCES (1,000,000) sources, each a drawn image of 8x8
pixels, for 64 members. Their members are fresh networks, each with weights, exposure
and seal of its own, so that all checks that a trained run passes are made. Every stage
then runs in a process of its own: seconds without start-up, and peak memory.

Opening is reading config, manifest, sources and code book, and checking the code
book's digest; the images are loaded and checked by the stages that look at them, and
loading a pipeline is a stage of its own. --smoke writes no result.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks import record
from ensemble.data import datasets
from ensemble.data.datasets import Loaded
from ensemble.provenance import drawing
from ensemble.provenance.plans import Plan
from ensemble.run import config_file, files, folder, manifest, records
from ensemble.run.config import Config, DataConfig
from ensemble.run.folder import Run
from ensemble.system import environment
from splits.codes import CodeBook

SEED = 0
N_QUERIES = 4
DIGITS = datasets.DATA_SETS["digits"]
TINY = {"block_out_channels": [4, 4], "norm_num_groups": 4, "add_attention": False}


def drawn(config: DataConfig) -> Loaded:
    """So many images as the config asks for, of independent uniform pixels."""
    rng = np.random.default_rng(SEED)
    n_images = config.n_images or 0
    images = rng.random((n_images, 1, 8, 8), dtype=np.float32) * 2 - 1
    return images, {}, tuple(f"image {index:07d}" for index in range(n_images))


def config_of(path: Path, n_members: int, n_sources: int | None) -> Config:
    """The config of one of the folders."""
    return config_file.from_dict(
        {
            "run": str(path),
            "data": {"n_images": n_sources},
            "splits": {"n_members": n_members},
            "model": TINY,
            "training": {"steps": 1, "warmup_steps": 0},
            "sampling": {"n_steps": 4},
        }
    )


def made(config: Config) -> Run:
    """A run folder with members that were never trained."""
    from ensemble.models.denoisers import build_member
    from ensemble.sampling import completion

    run = folder.create(config)
    plan = drawing.prepare(run)
    pattern = run.path / "pattern"
    if not pattern.exists():
        with files.atomic_folder(pattern) as to:
            shape = plan.data.images.shape[1:]
            build_member(config.model, shape, None, SEED).save_pretrained(to)
    weights = load_file(pattern / folder.WEIGHTS)
    for member in range(plan.codes.n_members):
        if not run.member(member).exists():
            _make_member(run, plan, member, pattern, weights)
    completion.complete(run)
    return run


def _make_member(
    run: Run, plan: Plan, member: int, pattern: Path, weights: dict[str, np.ndarray]
) -> None:
    """A member with weights of its own that saw each image of its split once."""
    rng = np.random.default_rng([SEED, member])
    moved = {
        name: value + rng.normal(0, 0.05, value.shape).astype(value.dtype)
        for name, value in weights.items()
    }
    exposure = plan.codes.bits[plan.source_of, member].astype(np.uint32)
    with files.atomic_folder(run.member(member)) as to:
        save_file(moved, to / folder.WEIGHTS)
        (to / "config.json").write_bytes((pattern / "config.json").read_bytes())
        files.write_array(to / "exposure.npy", exposure)
        facts = {
            "member": member,
            "n_sources": int(plan.codes.bits[:, member].sum()),
            "n_images": int(exposure.sum()),
            "images_seen": int(exposure.sum()),
            "split_digest": plan.codes.split_digest(member),
            "weights_sha256": files.sha256(to / folder.WEIGHTS),
            "seed": SEED,
            "loss_curve": {"steps": [1], "loss": [1.0]},
            "seconds": 0.0,
        }
        records.write_done_mark(to, "member.json", facts)


# Stages: each is timed without what it imports.


def opening(path: Path) -> None:
    """Config, manifest, sources and code book, with digests."""
    run = folder.open_run(path)
    codes = CodeBook(files.read_array(run.codes))
    manifest.check_manifest(run, {"code_book_digest": codes.digest()})
    files.read_array(run.source_of)
    files.read_json(run.path / "sources.json")


def planning(path: Path) -> None:
    """What `train.py --plan` prints."""
    from ensemble.training.description import describe

    config = folder.open_run(path).config
    print(describe(config, drawing.draw(config)), file=sys.stderr)


def loading(path: Path) -> None:
    """The pipeline with all members."""
    from ensemble import EnsemblePipeline

    EnsemblePipeline.from_pretrained(path)


def verifying(path: Path) -> None:
    """The certificate."""
    from ensemble.certificate import certificate

    found = certificate.violations(folder.open_run(path))
    if found:
        raise RuntimeError(found[0])


def attributing(path: Path, command: str, *arguments: str) -> None:
    """A command of attribute.py."""
    from ensemble.cli import attribute

    attribute.main([str(path), command, *arguments])


def generating(path: Path) -> None:
    """A few pictures by all members."""
    attributing(path, "generate", "--n", str(N_QUERIES))


def ablating(path: Path) -> None:
    """All sources and 100,000 placebos, differentially."""
    attributing(path, "ablate", "--method", "differential")


def scoring(path: Path) -> None:
    """All sources, by a method without gradients."""
    attributing(path, "score", "--method", "pixel_dot", "--per-image")


def reporting(path: Path) -> None:
    """The page."""
    attributing(path, "report")


STAGES: dict[str, Callable[[Path], None]] = {
    "open": opening,
    "plan": planning,
    "load the pipeline": loading,
    "verify": verifying,
    "generate": generating,
    "ablate": ablating,
    "score": scoring,
    "report": reporting,
}


def of_stage(name: str, path: Path) -> dict[str, Any]:
    """Seconds and peak memory of a stage, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.robustness.drills",
        str(path),
        "--stage",
        name,
    ]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def timed(name: str, path: Path) -> None:
    """Run a stage here, and print what it took."""
    from ensemble.cli import attribute  # noqa: F401
    from ensemble.training import description, members  # noqa: F401

    began, used = time.perf_counter(), time.process_time()
    idle = environment.peak_memory_bytes()
    STAGES[name](path)
    took = {
        "seconds": round(time.perf_counter() - began, 2),
        "processor_seconds": round(time.process_time() - used, 2),
        "peak_mb": round(environment.peak_memory_bytes() / 2**20),
        "of_it_imports_mb": round(idle / 2**20),
    }
    print(json.dumps(took))


def main(arguments: Sequence[str]) -> None:
    """Make the folders, run the stages, record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness.drills")
    parser.add_argument("folder", type=Path)
    parser.add_argument("n_members", type=int, nargs="?", default=1000)
    parser.add_argument("n_sources", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder.name == "sources":
        datasets.DATA_SETS["digits"] = drawn
    if options.stage:
        timed(options.stage, options.folder)
        return
    results: dict[str, Any] = {
        "n_members": options.n_members,
        "n_sources": options.n_sources,
        "n_queries": N_QUERIES,
    }
    for name, sizes in {
        "members": (options.n_members, None),
        "sources": (64, options.n_sources),
    }.items():
        path = options.folder / name
        datasets.DATA_SETS["digits"] = DIGITS if name == "members" else drawn
        made(config_of(path, *sizes))
        results[name] = {stage: of_stage(stage, path) for stage in STAGES}
    if options.smoke:
        print(json.dumps(results, indent=1))
    else:
        record.write("drills", [SEED], results)


if __name__ == "__main__":
    main(sys.argv[1:])
