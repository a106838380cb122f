"""Digests of small runs of every kind: does a change of the code change a number?

    python -m benchmarks.robustness.digests FOLDER            # compare with results/digests.json
    python -m benchmarks.robustness.digests FOLDER --record   # write results/digests.json anew

Trains a tiny ensemble of every kind of member and asks every command of it, in FOLDER,
then takes the digest of every array and of all weights. Arrays are known by the name of
their file, not by its folder, so that a run folder may be laid out in another way. JSON
records hold times and are left out. Other processors round differently: record before a
change and compare after it on the same machine.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from benchmarks import record
from ensemble.run import files

ROOT = Path(__file__).parents[2]
COMMON = {
    "splits.n_members": 6,
    "model.block_out_channels": "[8, 8]",
    "model.norm_num_groups": 4,
    "training.steps": 6,
    "training.batch_size": 4,
    "training.warmup_steps": 1,
    "training.processes": 1,
    "training.log_every_steps": 2,
    "training.checkpoint_every_steps": 4,
    "sampling.n_steps": 5,
}
DIGITS = {"data.n_images": 8}
# What each run changes in the common config.
RUNS: dict[str, dict[str, object]] = {
    "plain": DIGITS,
    "labels": {
        **DIGITS,
        "model.class_conditional": "true",
        "model.prediction_type": "v_prediction",
        "model.schedule": "cosine",
        "training.flip": "true",
        "training.ema_decay": 0.9,
        "training.label_dropout": 0.3,
        "training.shared_noise": "false",
        "sampling.scheduler": "ddpm",
        "sampling.guidance_scale": 2.0,
    },
    "slices": {**DIGITS, "training.slices": 2},
    "hashed": {**DIGITS, "splits.design": "named", "splits.salt": "pepper"},
    "dropout": {**DIGITS, "model.dropout": 0.2, "sampling.scheduler": "dpmsolver++"},
    "team": {**DIGITS, "training.processes_per_member": 2, "training.processes": 2},
    "folder": {
        "data.kind": "folder",
        "data.path": "{folder}/first",
        "data.source": "artist",
    },
    "longer": {
        "extends": "{folder}/folder",
        "data.kind": "folder",
        "data.path": "{folder}/second",
        "data.source": "artist",
    },
    "wider": {
        "extends": "{folder}/folder",
        "data.kind": "folder",
        "data.path": "{folder}/third",
        "data.source": "artist",
        "splits.n_members": 10,
    },
}
ONE_MODEL = (
    "random,constant,pixel_dot,pixel_cosine,component_cosine,feature_cosine,"
    "gradient_dot,gradient_cosine,tracin,gas,relative_influence,"
    "renormalised_influence,trak,journey_trak,dtrak,dtrak_mean,dtrak_l1,dtrak_l2,"
    "dtrak_linf,dtrak_weighted,das,das_vector,ekfac,ekfac_elbo,ekfac_norm,kfac,"
    "unlearning,unlearning_ekfac"
)
MEMBERS = (
    "trak,das,ekfac,empirical_influence,ridge_datamodel,lasso_datamodel,ekfac_all,"
    "unlearning_all,posterior_ensemble,posterior_displacement"
)
# What is asked of a run once it is trained.
COMMANDS: dict[str, list[str]] = {
    "plain": [
        "generate --n 3",
        "ablate",
        "ablate --method differential",
        "ablate --method adjoint --measurement brightness",
        "ablate --sources 1,2",
        f"score --method {ONE_MODEL} --model reference",
        "generate --name again --n 2 --seed 3",
        f"score --name again --method {MEMBERS}",
        "evaluate --what lds --method trak-reference,random-reference --subsets 8 --seeds 2 "
        "--steps 2 --draws 4",
        "evaluate --what far --method trak-reference",
        "verify",
        "report",
    ],
    "labels": [
        "generate --n 3 --labels 0,1,1",
        "ablate --groups label",
        "ablate --method differential",
    ],
    "slices": ["generate --n 2", "remove --sources 3 --reason asked"],
    "hashed": ["generate --n 2", "ablate", "remove --sources 2 --reason asked"],
    "dropout": ["generate --n 2", "ablate --method differential"],
    "team": ["generate --n 2"],
    "folder": ["generate --n 2", "ablate", "ablate --sources 0"],
    "longer": ["generate --n 2"],
    "wider": ["generate --n 2"],
}
REPAIRED = ("slices", "hashed")


def main(arguments: list[str]) -> int:
    """Make the runs, and compare or record their digests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    found = {}
    for name in RUNS:
        make(folder, name)
        found[name] = digests(folder / name)
    if options.record:
        record.write("digests", [0], found)
        return 0
    kept = json.loads((record.RESULTS / "digests.json").read_text("utf-8"))
    lines = differences(kept["results"], found)
    n_arrays = sum(len(ones) for run in found.values() for ones in run.values())
    print("\n".join(lines) or f"All {n_arrays} digests are as recorded.")
    return 1 if lines else 0


def make(folder: Path, name: str) -> None:
    """Train a run and ask everything of it, unless that is done already."""
    run, done = folder / name, folder / f"{name}.done"
    if done.exists():
        return
    pictures(folder)
    config = folder / f"{name}.yaml"
    config.write_text(f"run: {run}\n", "utf-8")
    options = {key: str(value) for key, value in {**COMMON, **RUNS[name]}.items()}
    overrides = [f"{k}={v.format(folder=folder)}" for k, v in options.items()]
    reference = ["--reference"] if name == "plain" else []
    called("train.py", str(config), *overrides, *reference)
    for command in COMMANDS[name]:
        called("attribute.py", str(run), *command.split())
    if name in REPAIRED:
        called("train.py", str(run / "config.yaml"), "--repair")
        called("attribute.py", str(run), *["generate", "--name", "after", "--n", "2"])
    done.touch()


def pictures(folder: Path) -> None:
    """Three folders of small pictures by named artists, the same each time."""
    rng = np.random.default_rng(0)
    artists = {"first": "aabbccdd", "second": "ef", "third": "gh"}
    for name, owners in artists.items():
        to = folder / name
        to.mkdir(parents=True, exist_ok=True)
        rows = ["file_name,artist,style"]
        for number, artist in enumerate(owners):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            file = f"{name}{number}.png"
            if not (to / file).exists():
                Image.fromarray(pixels).save(to / file)
            rows.append(f"{file},{artist},{'xy'[number % 2]}")
        (to / "metadata.csv").write_text("\n".join(rows) + "\n", "utf-8")


def called(script: str, *arguments: str) -> None:
    """Run a command of this checkout; its output is shown if it fails."""
    command = [sys.executable, str(ROOT / script), *arguments]
    print("+", script, *arguments, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}\nexit code {done.returncode}")


def digests(run: Path) -> dict[str, list[str]]:
    """Digests of the arrays and weights of a run folder, by the name of their file."""
    found: dict[str, list[str]] = {}
    for path in sorted(run.rglob("*.npy")):
        # Caches hold times, and have other names whenever what decides them is told anew.
        if any(part.startswith(".") for part in path.relative_to(run).parts):
            continue
        digest = files.array_digest(np.load(path))
        found.setdefault(path.name, []).append(digest[:16])
    for path in sorted(run.rglob("*.safetensors")):
        tensors = load_file(path)
        parts = [f"{name} {files.array_digest(tensors[name])}" for name in tensors]
        digest = files.array_digest(np.array(sorted(parts)).view(np.uint32))
        found.setdefault(path.name, []).append(digest[:16])
    return {name: sorted(ones) for name, ones in sorted(found.items())}


def differences(kept: dict, found: dict) -> list[str]:
    """One line for every file whose digests are not those on record."""
    lines = []
    for run in {**kept, **found}:
        old, new = kept.get(run, {}), found.get(run, {})
        for name in sorted({*old, *new}):
            before, after = old.get(name, []), new.get(name, [])
            if before != after:
                gone = sum(one not in after for one in before)
                lines.append(
                    f"{run}: {name}: {gone} of {len(before)} digests on record are "
                    f"gone; now there are {len(after)}"
                )
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
