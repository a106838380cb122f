"""A removal in the middle of a command: what stands on record is what drew it.

    python -m benchmarks.robustness.races FOLDER [N_RACES] [--smoke]

Every kind of command is stopped just before a file operation that chance draws; a source
is removed by another process, which may have to wait for a lock; and the command goes on.
The same command is then given again. It may refuse (exit code 2), or accept what stands
there; what it accepts must be what the members that may vote now make, from nothing, in
another folder. FOLDER keeps what is done: the same command goes on. --smoke writes no
result.
"""

import argparse
import dataclasses
import fcntl
import importlib
import json
import os
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.robustness import faults
from benchmarks.robustness.faults import FEW, KINDS, REMOVE, TRAIN, Kind
from ensemble.run import files
from ensemble.system import text

SEED = 0
# How long the command stands still; a removal that waits for a lock goes on after it.
PATIENCE_SECONDS = 5.0
# How much pictures may differ that were sampled in other company.
ROUNDING = 1e-4
RACED = {
    "generate": Kind("attribute", FEW[1:], [TRAIN]),
    **{name: KINDS[name] for name in ("ablate differentially", "score", "repair")},
    "ablate exactly": dataclasses.replace(
        KINDS["ablate exactly"],
        arguments=["run", "ablate", "--placebos", "40"],
        before=[TRAIN, FEW],
    ),
    "report": Kind(
        "attribute",
        ["run", "report"],
        [TRAIN, FEW, ["attribute", "run", "ablate", "--placebos", "40"]],
    ),
}
ANOTHER = ["attribute", "run", "remove", "--sources", "7", "--reason", "asked again"]
# The folders of what members made.
MADE = ("queries", "influence", "scores")


def raced(kind: Kind, folder: Path, operation: int) -> str:
    """Stop a command before a file operation, remove a source, and let it go on.

    Returns:
        What became of the race: `too late` if the command had ended by then, `before`
        if the removal was recorded while the command stood still, else `after`.
    """
    tally = Path(f"{folder}.tally")
    tally.write_bytes(b"")
    counting = os.open(tally, os.O_RDWR | os.O_APPEND)

    def stop(event: str, arguments: tuple) -> None:
        if not faults.changes_files(event, arguments):
            return
        fcntl.lockf(counting, fcntl.LOCK_EX)
        os.write(counting, b".")
        reached = os.fstat(counting).st_size == operation
        fcntl.lockf(counting, fcntl.LOCK_UN)
        if reached:
            os.kill(os.getpid(), signal.SIGSTOP)

    process = faults.start(kind, folder, stop)
    _, status = os.waitpid(process, os.WUNTRACED)
    os.close(counting)
    if not os.WIFSTOPPED(status):
        return "too late"
    script, *arguments = REMOVE if kind is not RACED["repair"] else ANOTHER
    removal = faults.start(Kind(script, arguments), folder, faults.unwatched)
    until = time.monotonic() + PATIENCE_SECONDS
    done = 0
    while not done and time.monotonic() < until:
        done, _ = os.waitpid(removal, os.WNOHANG)
        time.sleep(0.02)
    os.kill(process, signal.SIGCONT)
    faults.ended(process)
    if not done:
        faults.ended(removal)
    return "before" if done else "after"


def judged(kind: Kind, folder: Path) -> str:
    """What the command says now: `refused`, `right`, or what is wrong."""
    code = faults.ended(faults.start(kind, folder, faults.unwatched))
    if code == 2:
        return "refused"
    if code:
        return f"wrong: exit code {code}; see {folder}.log"
    again = folder.with_name(f"{folder.name}-again")
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(folder, again)
    for name in MADE:
        shutil.rmtree(again / "run" / name, ignore_errors=True)
    remade = [one for one in kind.before if one not in (TRAIN, REMOVE)]
    for script, *arguments in [*remade, [kind.script, *kind.arguments]]:
        code = faults.ended(
            faults.start(Kind(script, arguments), again, faults.unwatched)
        )
        if code:
            return f"wrong: made anew it ends with {code}; see {again}.log"
    different = differences(folder / "run", again / "run")
    if not different:
        shutil.rmtree(again)
    return (
        f"wrong: {different} are not what voting members make" if different else "right"
    )


def differences(found: Path, wanted: Path) -> list[str]:
    """Arrays of pictures, tables and scores that are not what they should be."""
    names = sorted(
        str(path.relative_to(found))
        for folder in MADE
        for path in (found / folder).rglob("*.npy")
        if not any(part.startswith(".") for part in path.relative_to(found).parts)
    )
    return [name for name in names if not _same(found / name, wanted / name)]


def _same(one: Path, other: Path) -> bool:
    if not other.exists():
        return False
    first, second = np.load(one), np.load(other)
    if first.shape != second.shape:
        return False
    return bool(np.allclose(first, second, atol=ROUNDING, equal_nan=True))


def race(folder: Path, name: str, number: int) -> dict[str, str]:
    """One race of a kind, at an operation that chance draws."""
    kind = RACED[name]
    before = faults.prepared(kind, folder)
    facts = faults.undisturbed(kind, before, folder / f"whole-{text.file_name(name)}")
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), number])
    here, when = folder / f"{text.file_name(name)}-{number:03d}", "too late"
    while when == "too late":
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(before, here)
        when = raced(kind, here, int(rng.integers(1, facts["operations"] + 1)))
    verdict = judged(kind, here)
    if not verdict.startswith("wrong"):
        shutil.rmtree(here)
    return {"removed": when, "verdict": verdict}


def outcomes(folder: Path, n_races: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Every race, kinds in turn; those that are on record are not run again."""
    names = [*RACED]
    for number in range(n_races):
        name, kept = names[number % len(names)], folder / "races" / f"{number:04d}.json"
        if not kept.exists():
            files.write_json(kept, race(folder, name, number))
        yield name, files.read_json(kept)


def main(arguments: Sequence[str]) -> int:
    """Race, count and record; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness.races")
    parser.add_argument("folder", type=Path)
    parser.add_argument("n_races", type=int, nargs="?", default=120)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in faults.LOADED:
        importlib.import_module(f"ensemble.{name}")
    counted: dict[str, dict[str, Any]] = {}
    wrong = []
    for name, outcome in outcomes(folder, options.n_races):
        row = counted.setdefault(name, {})
        verdict = outcome["verdict"]
        key = f"removed {outcome['removed']}: {verdict.partition(':')[0]}"
        row[key] = row.get(key, 0) + 1
        if verdict.startswith("wrong"):
            wrong.append(f"{name}: {verdict}")
            print(wrong[-1], file=sys.stderr)
    results = {"n_races": options.n_races, "wrong": wrong, "kinds": counted}
    if options.smoke:
        print(json.dumps(results, indent=1))
    else:
        record.write("races", [SEED], results)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
