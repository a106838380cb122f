"""Damage: whatever happens to a file of a run is found, or makes no difference.

    python -m benchmarks.robustness.damage [CASES]

A tiny run is trained and asked everything; some of it is left half done. Then, case by
case, a byte of one of its files is changed, or the file is cut short, changes places
with another of its type, or is deleted; or the file, or the whole folder in which it is,
is taken from another run, of the same design but another seed, learning rate or data.
The commands that might look at it, and one more, are run on what is left. Each must come
out exactly as it does on the whole run, or refuse with a message that names the file.
Chance takes the kind of file first, then one of that kind.
"""

import argparse
import contextlib
import hashlib
import io
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks import record
from ensemble.ablation import exact
from ensemble.cli import attribute, train
from ensemble.data import datasets
from ensemble.evaluation import EVALUATIONS, ground_truth, predictors, tables
from ensemble.evaluation.options import Options
from ensemble.provenance import plans
from ensemble.run import records
from ensemble.run.config import DataConfig
from ensemble.run.files import read_json, sha256
from ensemble.run.folder import REFERENCE, Run, open_run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.scorers import runner, score_files
from ensemble.training.members import train_members
from ensemble.training.process import Interrupted, Stopping
from splits.errors import BadInput

SETTINGS = {
    "data": {"n_images": 6},
    "splits": {"design": "partition", "n_members": 3},
    "model": {
        "class_conditional": True,
        "block_out_channels": [8],
        "norm_num_groups": 4,
        "add_attention": False,
    },
    "training": {
        "steps": 4,
        "batch_size": 3,
        "warmup_steps": 1,
        "log_every_steps": 2,
        "checkpoint_every_steps": 2,
        "slices": 2,
        "processes": 1,
    },
    "sampling": {"n_steps": 2},
}
LDS = Options(n_subsets=8, n_seeds=1, steps=1, n_draws=2)
FAR = Options(methods=("pixel_dot",), n_random=2)
HALF = ["ablate", "--name", "half", "--placebos", "3", "--measurement", "brightness"]
KINDS = ("flip", "truncate", "swap", "delete", "foreign file", "foreign folder")
# What the runs that files are taken from have otherwise.
FOREIGN: dict[str, dict[str, dict[str, Any]]] = {
    "seed": {"training": {"seed": 1}},
    "rate": {"training": {"learning_rate": 2.0e-4}},
    "data": {"data": {"kind": "folder", "path": "pictures", "label": "label"}},
}
# What a report says whose run was not checked as it is.
UNCHECKED = (
    "has not been checked, so",
    "has not been checked since",
    "The certificate does not hold",
)
# What no digest speaks for: text and pictures for people, made from what is checked.
FREE = re.compile(r"README\.md|report\.html|.*\.(csv|svg|png)|.*\.part/log\.jsonl")


@dataclass(frozen=True)
class Case:
    """One accident.

    Attributes:
        kind: One of KINDS.
        file: What it happens to, relative to the run folder.
        other: With what it changes places, or the run that it is taken from.
        place: Where in the file, as a share of its length.
        bit: Which bits of the byte there are flipped.
    """

    kind: str
    file: str
    other: str | None
    place: float
    bit: int


class Stop(Exception):
    """Ends a stage that is to be left half done."""


def prepared(folder: Path) -> Path:
    """A run with everything that there can be, and beside it those of other settings."""
    pictures_in(folder / "pictures")
    for name, changes in FOREIGN.items():
        made(folder / f"foreign-{name}", changes)
    return made(folder / "run", {})


def pictures_in(folder: Path) -> None:
    """Pictures of noise, as many as there are digits, with the digits' labels."""
    folder.mkdir()
    digits = datasets.load(DataConfig(**SETTINGS["data"]))
    rng = np.random.default_rng(0)
    rows = ["file_name,label"]
    for number, label in enumerate(digits.columns["label"]):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{label}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")


def made(path: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """A run with everything that there can be, some of it half done."""
    settings = {name: {**SETTINGS[name], **changes.get(name, {})} for name in SETTINGS}
    if "data" in changes:
        settings["data"] = {**changes["data"], "path": str(path.parent / "pictures")}
    config = path.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"run": str(path), **settings}))
    commands = [
        ["generate", "--n", "2"],
        ["generate", "--n", "2", "--name", "half"],
        ["ablate", "--placebos", "3"],
        ["ablate", "--sources", "1", "--placebos", "3"],
        ["score", "--method", "trak", "--dampings", "0.1,1"],
        ["score", "--method", "das,pixel_dot"],
        ["evaluate", "--what", "far", "--method", "pixel_dot", "--random", "2"],
    ]
    with quiet():
        assert not train.main([str(config)])
        attribute.main([str(path), "remove", "--sources", "5", "--reason", "asked to"])
        assert not train.main([str(path / "config.yaml"), "--repair"])
        for command in commands:
            assert not attribute.main([str(path), *command])
        table(path, "lds", LDS)
        attribute.main([str(path), "verify"])
        attribute.main([str(path), "report"])
        interrupt_ablation(path)
        interrupt_training(path)
    return path


def table(path: Path, what: str, options: Options) -> str:
    """The table of an evaluation; what it trains is kept."""
    run, pipe, ready = opened(path)
    file = EVALUATIONS[what].evaluate(run, pipe, ready, options)
    return tables.as_text(read_json(file)["rows"])


def losses(path: Path) -> np.ndarray:
    """The losses of the models of subsets."""
    run, pipe, ready = opened(path)
    return ground_truth.find(run, pipe, ready, LDS).losses


def measured_losses(path: Path) -> np.ndarray:
    """The same, measured again at the models that are kept."""
    shutil.rmtree(path / "evaluation" / "truth")
    return losses(path)


def interrupt_ablation(path: Path) -> None:
    """Leave the ablation of the queries `half` half done."""
    keep = exact._Blocks.keep

    def once(blocks: exact._Blocks, values: np.ndarray, work: int) -> None:
        keep(blocks, values[:, :5], work)
        raise Stop

    exact._Blocks.keep = once
    try:
        attribute.main([str(path), *HALF])
    except Stop:
        return
    finally:
        exact._Blocks.keep = keep


def interrupt_training(path: Path) -> None:
    """Leave the reference half trained."""
    run, stopping = open_run(path), Stopping()
    stopping.asked = True
    with contextlib.suppress(Interrupted):
        train_members(run, [REFERENCE], plans.load(run), stopping)


def opened(path: Path) -> tuple[Run, EnsemblePipeline, plans.Plan]:
    """A run, its pipeline and its plan."""
    run = open_run(path)
    pipe = EnsemblePipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    return run, pipe, plans.load(run)


def told(path: Path, *command: str) -> str:
    """What a command of attribute.py prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        attribute.main([str(path), *command])
    return out.getvalue()


def pictures(path: Path) -> np.ndarray:
    """New pictures, whole and without a source."""
    _, pipe, _ = opened(path)
    both = [
        pipe(seeds=[7], class_labels=1, ablate=sources, output_type="latent").images
        for sources in ([], [1])
    ]
    return torch.stack(both).numpy()


def resumed_ablation(path: Path) -> np.ndarray:
    """What the ablation that was interrupted comes to."""
    told(path, *HALF)
    folder = path / "influence" / "half" / "exact"
    displacement = records.checked_array(folder, "info.json", "displacement.npy")
    # The last bits depend on how many pictures are sampled at once.
    return displacement.round(4)


def resumed_training(path: Path) -> str:
    """What the training that was interrupted comes to."""
    train.main([str(path / "config.yaml"), f"run={path}", "--reference"])
    return sha256(path / REFERENCE / "diffusion_pytorch_model.safetensors")


def scores(path: Path) -> np.ndarray:
    """Scores of a method by all its dampings, as evaluation reads them."""
    (found,) = predictors.find(open_run(path), "demo", ["trak"])
    return np.stack([*found.path.values()])


def scored_again(path: Path) -> np.ndarray:
    """A score by a method that finds the gradients of another on the disk."""
    run, pipe, ready = opened(path)
    runner.score(run, pipe, ready, "demo", "again", scorer=runner.scorer_called("trak"))
    return score_files.load(run, "demo", "again")


def reported(path: Path) -> str:
    """The report, but for when the certificate was checked.

    One that says that something is not as it was checked sends its reader to `verify`,
    which names the file.
    """
    told(path, "report")
    if any(one in page(path) for one in UNCHECKED):
        told(path, "verify")
        told(path, "report")
    return re.sub(r"checked at [0-9T:+-]+", "checked", page(path))


def page(path: Path) -> str:
    """The report as it stands."""
    return (path / "report.html").read_text(encoding="utf-8")


def generated(path: Path) -> np.ndarray:
    """The queries that are there."""
    told(path, "generate", "--n", "2")
    return queries.load(open_run(path), "demo").images


# In the order in which they are run; those that write tables come last.
COMMANDS: dict[str, Callable[[Path], str | np.ndarray]] = {
    "verify": lambda path: told(path, "verify"),
    "generate": generated,
    "pictures": pictures,
    "ablate": lambda path: told(path, "ablate", "--placebos", "3"),
    "ablate a set": lambda path: told(path, "ablate", "--sources", "1"),
    "scores": scores,
    "losses": losses,
    "report": reported,
    "far": lambda path: table(path, "far", FAR),
    "lds": lambda path: table(path, "lds", LDS),
    "score": lambda path: told(path, "score", "--method", "trak,das,pixel_dot"),
    "score again": scored_again,
    "measure again": measured_losses,
    "ablate on": resumed_ablation,
    "train on": resumed_training,
}
# What might look at the files of a folder; at others, everything might.
READERS = {
    "evaluation/subsets": {"measure again"},
    "evaluation/truth": {"lds", "losses"},
    "evaluation/": {"report", "far", "lds"},
    "influence/half": {"ablate on"},
    "influence/": {"ablate", "ablate a set", "report", "far", "lds"},
    "queries/half": {"ablate on"},
    "queries/": {"generate", "report", "far", "lds", "score", "score again"},
    "reference.part": {"train on"},
    "report.html": {"report"},
    "scores/.features": {"score again"},
    "scores/": {"scores", "report", "far", "lds", "score"},
}


@contextlib.contextmanager
def quiet():
    """Without what commands print."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield


def outcome(command: str, path: Path) -> str:
    """The digest of what comes out, or the message of a refusal."""
    try:
        with quiet():
            found = COMMANDS[command](path)
    except BadInput as error:
        return f"refused: {error}"
    content = found.encode() if isinstance(found, str) else found.tobytes()
    return hashlib.sha256(content).hexdigest()


def artefacts(path: Path) -> dict[str, list[str]]:
    """The files of a run by kind: their place, whatever their numbers and names are."""
    kinds: dict[str, list[str]] = {}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.is_file() and not file.name.startswith(".") and file.suffix != ".lock":
            kind = re.sub(r"[0-9a-f]{24}|(?<=demo-)[0-9a-f]{8}|\d{3}(?=/)", "*", name)
            kinds.setdefault(kind, []).append(name)
    return kinds


def drawn(kinds: dict[str, list[str]], rng: np.random.Generator) -> Case:
    """A case by chance: kind of file, file, accident."""
    files = kinds[str(rng.choice(sorted(kinds)))]
    kind, file = str(rng.choice(KINDS)), str(rng.choice(files))
    return case(kinds, kind, file, rng)


def case(
    kinds: dict[str, list[str]], kind: str, file: str, rng: np.random.Generator
) -> Case:
    """An accident of this kind to this file."""
    everything = [name for names in kinds.values() for name in names]
    alike = [
        name
        for name in everything
        if Path(name).suffix == Path(file).suffix and name != file
    ]
    if kind == "swap" and not alike:
        kind = "flip"
    other = None
    if kind == "swap":
        other = str(rng.choice(alike))
    elif kind.startswith("foreign"):
        other = str(rng.choice(sorted(FOREIGN)))
    return Case(
        kind,
        file,
        other,
        float(rng.random()),
        int(rng.integers(1, 256)),
    )


def happen(case: Case, path: Path) -> None:
    """Let the accident happen."""
    file = path / case.file
    if case.kind.startswith("foreign"):
        taken_from_another_run(case, path)
        return
    content = bytearray(file.read_bytes())
    place = int(case.place * len(content))
    if case.kind == "delete":
        file.unlink()
    elif case.kind == "truncate":
        file.write_bytes(content[:place])
    elif case.kind == "swap":
        other = path / str(case.other)
        file.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif content:
        content[place] ^= case.bit
        file.write_bytes(content)


def taken_from_another_run(case: Case, path: Path) -> None:
    """Put the file, or the folder in which it is, of another run in its place."""
    what = Path(case.file)
    if case.kind == "foreign folder" and len(what.parts) > 1:
        what = what.parent
    foreign, here = path.with_name(f"foreign-{case.other}") / what, path / what
    # The other run may have given the file another name; then it has none to give.
    if foreign.is_dir():
        shutil.rmtree(here)
        shutil.copytree(foreign, here)
    elif foreign.exists():
        shutil.copyfile(foreign, here)


def names(message: str, case: Case, path: Path) -> bool:
    """Whether a refusal names the file, its folder, or what it changed places with."""
    files = [case.file, case.other] if case.kind == "swap" else [case.file]
    if case.kind.startswith("foreign") and "/" in case.file:
        files.append(str(Path(case.file).parent))
    return any(str(path / file) in message for file in files if file)


def copied(whole: Path) -> Path:
    """A copy, always in the same place, which reports and messages name."""
    path = whole.with_name("copy")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    return path


def undisturbed(whole: Path) -> dict[str, str]:
    """What every command makes of the whole run."""
    path = copied(whole)
    expected = {command: outcome(command, path) for command in COMMANDS}
    for command, came in expected.items():
        assert not came.startswith("refused"), f"{command}: {came}"
    return expected


def readers(case: Case, rng: np.random.Generator) -> set[str]:
    """Commands that might look at the files of a case, and one more."""
    chosen = {str(rng.choice(list(COMMANDS)))}
    for file in (case.file, case.other if case.kind == "swap" else None):
        found = [READERS[part] for part in READERS if str(file).startswith(part)]
        if file:
            chosen |= found[0] if found else set(COMMANDS)
    return chosen


def judged(
    case: Case, whole: Path, expected: dict[str, str], commands: set[str]
) -> dict[str, str]:
    """What commands make of an accident: `same`, `found`, or what is wrong."""
    path = copied(whole)
    happen(case, path)
    found = {}
    for command in filter(commands.__contains__, COMMANDS):
        came = outcome(command, path)
        if came == expected[command]:
            found[command] = "same"
        elif not came.startswith("refused: "):
            found[command] = "wrong: another outcome"
        else:
            if "`attribute.py RUN verify` says" in came:
                came += outcome("verify", path)
            named = names(came, case, path)
            found[command] = (
                "found" if named else f"wrong: the file is not named: {came}"
            )
    return found


def tried(
    whole: Path,
    expected: dict[str, str],
    cases: Iterable[Case],
    rng: np.random.Generator,
) -> tuple[Counter[str], list[str]]:
    """Counts of cases by accident and by what became of them, and all that went wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    for one in cases:
        verdicts = judged(one, whole, expected, readers(one, rng))
        found = any(verdict == "found" for verdict in verdicts.values())
        counts[f"{one.kind}: {'found' if found else 'no difference'}"] += 1
        counts["commands run"] += len(verdicts)
        if not found and not FREE.fullmatch(one.file):
            counts[f"no difference: {one.kind} {one.file}"] += 1
        for command, verdict in verdicts.items():
            if verdict.startswith("wrong"):
                wrong.append(f"{one}, {command}: {verdict}")
                print(wrong[-1], file=sys.stderr, flush=True)
    return counts, wrong


def main(n_cases: int = 1000, seed: int = 0) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        whole = prepared(Path(folder))
        kinds = artefacts(whole)
        cases = [drawn(kinds, rng) for _ in range(n_cases)]
        counts, wrong = tried(whole, undisturbed(whole), cases, rng)
    facts = {
        "n_cases": n_cases,
        "kinds_of_files": len(kinds),
        "wrong": wrong,
        "counts": dict(sorted(counts.items())),
        "processor_seconds": round(time.process_time() - began),
    }
    record.write("damage", [seed], facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="?", type=int, default=1000)
    main(parser.parse_args().cases)
