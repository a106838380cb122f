"""What a kill leaves behind: nothing half-written, and work that goes on to the same bits.

    python -m benchmarks.robustness.faults FOLDER [N_KILLS] [--smoke]

Every kind of command runs once undisturbed. Then it is killed (SIGKILL), so that all
kinds together see N_KILLS kills (210): half of them all its processes at an instant
drawn from the undisturbed run's duration, half of them one process just before a file
operation drawn from those of the undisturbed run, which hits the short moments between
two renames. After each kill every file that stands under its final name must be
whole: digests agree, arrays and weights load, seals speak for all they should. The same
command then goes on to its end, and everything that it leaves is compared with what the
undisturbed run left, byte by byte. Of JSON files and logs all is compared but seconds,
dates, peaks of memory and digests of files that hold these; what single gradients took
(`.features/*.seconds.npy` and `.costs.npy`) is not compared. Nothing may be left over.

Processes are forked from one that has loaded everything, so that a kill costs a second
and not ten. FOLDER keeps what is done: the same command goes on. --smoke writes no
result.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
import types
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import safe_open

from benchmarks import record
from ensemble.cli import attribute, train, write_shards
from ensemble.run import files, manifest
from ensemble.run.files import check_file
from ensemble.run.folder import open_run
from ensemble.system import exits, launching, text
from splits import shards
from splits.errors import BadInput

SEED = 0
MOST_RESTARTS = 20
# What differs from run to run by nature: times, and what they cost.
TIMES = {"seconds", "seconds_before", "seconds_of_members", "done", "created"}
TIMES |= {"finished", "peak_memory_bytes", "own_peak_memory_bytes", "digest"}
TIMES |= {"time", "previous", "line_sha256"}  # of the log of removals
# Where the command ran, which has a folder of its own each time; what a road took.
TIMES |= {"working_directory", "road_seconds"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CONFIG = {
    "run": "run",
    "data": {"n_images": 12},
    "splits": {"n_members": 6, "weight": 3},
    "model": {
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "add_attention": False,
    },
    "training": {
        "steps": 6,
        "batch_size": 4,
        "warmup_steps": 2,
        "log_every_steps": 2,
        "checkpoint_every_steps": 2,
    },
    "sampling": {"n_steps": 4},
}
# Loaded before anything is forked; the scripts load them when they need them.
LOADED = (
    "training.members",
    "sampling.pipeline",
    "sampling.queries",
    "ablation.influence",
    "scorers.runner",
    "system.launching",
)
SCRIPTS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train.main,
    "attribute": attribute.main,
    "shards": write_shards.main,
}


@dataclass(frozen=True)
class Kind:
    """A command that is killed.

    Attributes:
        script: A name in SCRIPTS.
        arguments: Of its command line.
        before: Commands that it needs done, script first.
    """

    script: str
    arguments: list[str]
    before: list[list[str]] = dataclasses.field(default_factory=list)


TRAIN = ["train", "config.yaml", "training.processes=1"]
GENERATE = ["attribute", "run", "generate", "--n", "32"]
FEW = ["attribute", "run", "generate", "--n", "4"]
ABLATE = ["run", "ablate", "--max-memory", "2", "--placebos"]
SCORE = ["run", "score", "--method", "trak,ekfac", "--per-image"]
REMOVE = ["attribute", "run", "remove", "--sources", "3", "--reason", "asked"]
KINDS = {
    "train, 1 process": Kind("train", TRAIN[1:]),
    "train, 2 processes": Kind("train", ["config.yaml", "training.processes=2"]),
    "generate": Kind("attribute", GENERATE[1:], [TRAIN]),
    "ablate exactly": Kind("attribute", [*ABLATE, "40"], [TRAIN, GENERATE]),
    "ablate differentially": Kind(
        "attribute",
        [*ABLATE, "400", "--method", "differential"],
        [TRAIN, FEW],
    ),
    "score": Kind("attribute", SCORE, [TRAIN, FEW]),
    "remove": Kind("attribute", REMOVE[1:], [TRAIN]),
    "repair": Kind("train", [*TRAIN[1:], "--repair"], [TRAIN, REMOVE]),
    "write shards": Kind("shards", ["digits.yaml", "out", "--per-shard", "100"]),
}


# One command, in processes of its own.


class Forked:
    """What `subprocess.Popen` is to `launching`, without loading everything again."""

    def __init__(
        self, command: Sequence[str], env: dict[str, str], start_new_session: bool
    ) -> None:
        # It stays in its parent's group, which is killed as one.
        del start_new_session
        self.returncode: int | None = None
        self.process = os.fork()
        if self.process == 0:
            os.environ.update(env)
            # What stands before is `python -m ensemble.cli train`.
            finish("train", command[4:])

    def poll(self) -> int | None:
        """Its exit code, negative if a signal ended it; None while it runs."""
        if self.returncode is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Pass a signal on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)


def finish(script: str, arguments: Sequence[str]) -> None:
    """Run a script, and end the process as it does."""
    code = 1
    try:
        code = exits.run_guarded(SCRIPTS[script], arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(kind: Kind, folder: Path, watch: Callable[[str, tuple], None]) -> int:
    """Start a command in a folder, in a process group of its own; returns its number.

    Args:
        kind: The command.
        folder: Where it runs; what it says goes to `folder.log`.
        watch: Is told of every event that Python audits.
    """
    process = os.fork()
    if process:
        return process
    os.setsid()
    os.chdir(folder)
    said = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    launching.subprocess = types.SimpleNamespace(Popen=Forked)  # type: ignore
    sys.addaudithook(watch)
    finish(kind.script, kind.arguments)
    raise AssertionError


def unwatched(event: str, arguments: tuple) -> None:
    """Let everything pass."""


def changes_files(event: str, arguments: tuple) -> bool:
    """Whether an audited event changes what is on the disk."""
    if event == "open":
        return bool((arguments[2] or 0) & WRITING)
    return event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def ended(process: int) -> int:
    """Wait for a process; its exit code, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def to_its_end(kind: Kind, folder: Path) -> int:
    """Give the command until it says that it is done; how often it was given.

    Raises:
        RuntimeError: If it never is.
    """
    for number in range(1, MOST_RESTARTS):
        code = ended(start(kind, folder, unwatched))
        if is_done(kind, folder, code):
            return number
        # Whoever outlived a killed parent may still have to notice.
        time.sleep(0.2)
    raise RuntimeError(f"{kind.arguments} does not end; see {folder}.log.")


def is_done(kind: Kind, folder: Path, code: int) -> bool:
    """Whether a command has come to its end, judged by its exit code and what is there."""
    match kind.script:
        case "train":
            return code == 0 and manifest.is_complete(open_run(folder / "run"))
        case "shards":
            # Killed after its folder got its name, it is refused a second time.
            return code == 0 or (code == 2 and (folder / "out" / shards.INDEX).exists())
        case _:
            return code == 0


# Undisturbed.


def prepared(kind: Kind, folder: Path) -> Path:
    """A folder in which all is done that the command needs."""
    before = folder / f"before-{zlib.crc32(str(kind.before).encode())}"
    if before.exists():
        return before
    with files.atomic_folder(before) as to:
        (to / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        (to / "digits.yaml").write_text(
            yaml.safe_dump({"run": "run", "data": {"n_images": 600}})
        )
        for script, *arguments in kind.before:
            to_its_end(Kind(script, arguments), to)
    return before


def undisturbed(kind: Kind, before: Path, whole: Path) -> dict[str, Any]:
    """Run the command; its seconds, and the file operations of each process."""
    kept = whole.with_suffix(".json")
    if kept.exists():
        return files.read_json(kept)
    shutil.rmtree(whole, ignore_errors=True)
    shutil.copytree(before, whole)
    tally = Path(f"{whole}.tally")
    tally.write_bytes(b"")
    counting = os.open(tally, os.O_WRONLY | os.O_APPEND)

    def count(event: str, arguments: tuple) -> None:
        if changes_files(event, arguments):
            os.write(counting, b".")

    began = time.perf_counter()
    code = ended(start(kind, whole, count))
    seconds = time.perf_counter() - began
    os.close(counting)
    if code:
        raise RuntimeError(f"{kind.arguments} failed undisturbed; see {whole}.log.")
    facts = {"seconds": round(seconds, 3), "operations": tally.stat().st_size}
    files.write_json(kept, facts)
    return facts


# Killed.


def killed_at(kind: Kind, folder: Path, seconds: float) -> bool:
    """Kill all processes of a command after so long; False if it had ended by then."""
    process = start(kind, folder, unwatched)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(min(0.002, max(0.0, until - time.monotonic())))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    return ended(process) != 0


def killed_before(kind: Kind, folder: Path, operation: int) -> bool:
    """Kill a process of a command before one of its file operations.

    The operations are counted over all processes of the command, as they come.

    Returns:
        Whether it came so far.
    """
    tally = Path(f"{folder}.tally")
    tally.write_bytes(b"")
    counting = os.open(tally, os.O_RDWR | os.O_APPEND)

    def count(event: str, arguments: tuple) -> None:
        if not changes_files(event, arguments):
            return
        fcntl.lockf(counting, fcntl.LOCK_EX)
        os.write(counting, b".")
        reached = os.fstat(counting).st_size == operation
        fcntl.lockf(counting, fcntl.LOCK_UN)
        if reached:
            os.kill(os.getpid(), signal.SIGKILL)

    ended(start(kind, folder, count))
    os.close(counting)
    return tally.stat().st_size >= operation


# What is there.


def broken(folder: Path) -> list[str]:
    """Files that stand under their final names, and are not whole."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not in_the_making(path.relative_to(folder)):
            try:
                require_whole(path)
            except (BadInput, OSError, ValueError, KeyError) as error:
                found.append(f"{path}: {error}")
    return found + [
        f"{path} has no seal"
        for pattern in ("run/members/*", "run/queries/*", "run/influence/*/*")
        for path in folder.glob(pattern)
        if path.is_dir()
        and not in_the_making(path.relative_to(folder))
        and not any((path / seal).exists() for seal in ("member.json", "info.json"))
    ]


def in_the_making(path: Path) -> bool:
    """Whether a name says that what has it is not done: hidden, or a known ending."""
    return any(
        part.startswith(".") or part.endswith((".part", ".work", ".old"))
        for part in path.parts
    )


def require_whole(path: Path) -> None:
    """Read a file, and check all files that it speaks for.

    Raises:
        BadInput, OSError, ValueError, KeyError: If it is not whole.
    """
    if path.suffix == ".npy":
        np.load(path, mmap_mode="r", allow_pickle=False)
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            file.keys()
    elif path.name == shards.INDEX:
        for name, shard in shards.read_index(path.parent).items():
            shards.verify(path.parent / name, shard)
    elif path.name in ("config.json", "scheduler_config.json", "model_index.json"):
        json.loads(path.read_text())
    elif path.suffix == ".json":
        content = files.read_json(path)
        for name, digest in content.get("files", {}).items():
            check_file(path.parent / name, digest)
        if "images_sha256" in content:
            check_file(path.with_suffix(".npy"), content["sha256"])
    elif path.suffix == ".yaml":
        yaml.safe_load(path.read_text())


def artefacts(folder: Path) -> dict[str, str]:
    """What a command left, by path; without what times say."""
    return {
        str(path.relative_to(folder)): content
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
        for content in [without_times(path)]
    }


def without_times(path: Path) -> str:
    """A file's digest, or its content as far as it holds no times."""
    if path.name.endswith((".seconds.npy", ".costs.npy")):
        return "times"
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        return json.dumps([timeless(json.loads(line)) for line in lines])
    if path.suffix == ".json":
        return json.dumps(timeless(json.loads(path.read_text())))
    return files.sha256(path)


def timeless(content: Any) -> Any:
    """JSON without times, and without digests of files that hold times."""
    if isinstance(content, list):
        return [timeless(one) for one in content]
    if not isinstance(content, dict):
        return content
    return {
        name: timeless(value)
        for name, value in content.items()
        if name not in TIMES and name != "log.jsonl"
    }


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Paths that differ, are missing, or are left over."""
    return sorted(
        path for path in found | wanted if found.get(path) != wanted.get(path)
    )


# All of it.


def is_by_time(number: int) -> bool:
    """Whether a kill comes at an instant; for every kind the other way in every turn."""
    turn, kind = divmod(number, len(KINDS))
    return (turn + kind) % 2 == 0


def cycle(kind: Kind, folder: Path, number: int, name: str) -> dict[str, Any]:
    """Kill a command, look, let it go on, compare; what came out."""
    before, whole = prepared(kind, folder), folder / text.file_name(name)
    facts = undisturbed(kind, before, whole)
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), number])
    by_time = is_by_time(number)
    killed, disturbed = False, folder / f"{whole.name}-{number:03d}"
    while not killed:
        shutil.rmtree(disturbed, ignore_errors=True)
        shutil.copytree(before, disturbed)
        if by_time:
            killed = killed_at(kind, disturbed, rng.uniform(0, facts["seconds"]))
        else:
            operation = int(rng.integers(1, facts["operations"] + 1))
            killed = killed_before(kind, disturbed, operation)
    outcome = {
        "at": "instant" if by_time else "file operation",
        "broken": broken(disturbed),
        "commands": to_its_end(kind, disturbed),
    }
    outcome["broken"] += broken(disturbed)
    outcome["different"] = differences(artefacts(disturbed), artefacts(whole))
    if not outcome["broken"] and not outcome["different"]:
        shutil.rmtree(disturbed)
    return outcome


def outcomes(folder: Path, n_kills: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every kill, kinds in turn; those that are on record are not done again."""
    names = [*KINDS]
    for number in range(n_kills):
        name = names[number % len(names)]
        kept = folder / "kills" / f"{number:04d}.json"
        if not kept.exists():
            outcome = cycle(KINDS[name], folder, number, name)
            files.write_json(kept, outcome)
        yield name, files.read_json(kept)


def summary(folder: Path, n_kills: int) -> dict[str, Any]:
    """Counts for every kind."""
    counted: dict[str, dict[str, Any]] = {}
    for name, outcome in outcomes(folder, n_kills):
        whole = folder / text.file_name(name)
        row = counted.setdefault(
            name,
            {
                "undisturbed": files.read_json(whole.with_suffix(".json"))["seconds"],
                "files_compared": len(artefacts(whole)),
                **dict.fromkeys(("instant", "file operation", "commands"), 0),
                **dict.fromkeys(("broken", "different"), 0),
            },
        )
        row[outcome["at"]] += 1
        row["commands"] += outcome["commands"]
        for fact in ("broken", "different"):
            row[fact] += len(outcome[fact])
            for line in outcome[fact]:
                print(f"{name}: {fact}: {line}", file=sys.stderr)
    return counted


def main(arguments: Sequence[str]) -> int:
    """Kill, count and record; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness.faults")
    parser.add_argument("folder", type=Path)
    parser.add_argument("n_kills", type=int, nargs="?", default=216)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in LOADED:
        importlib.import_module(f"ensemble.{name}")
    kinds = summary(options.folder.resolve(), options.n_kills)
    total = {
        fact: sum(row[fact] for row in kinds.values())
        for fact in ("broken", "different")
    }
    results = {"n_kills": options.n_kills, **total, "kinds": kinds}
    if options.smoke:
        print(json.dumps(results, indent=1))
    else:
        record.write("faults", [SEED], results)
    return 1 if any(total.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
