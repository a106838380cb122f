"""Fuzzing that coverage guides: inputs that reach new code are kept, and mutated on.

    python -m benchmarks.robustness.guided_fuzz [INPUTS] [--seed S]

Needs the package atheris. The readers, the inputs that they take and what they may do
with others are those of fuzz.py, as are the words of each format and the checksums that
are put right half of the time. What is watched for new coverage is the Python code of
this project, Pillow, PyYAML, tarfile and NumPy's reader of arrays; each reader has a
process of its own.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FunctionType
from typing import Any

# Nothing of the project is imported here: what has been imported cannot be watched.
WATCHED = ["ensemble", "splits", "PIL", "yaml", "tarfile"]
# What libFuzzer says of its progress: edges covered, and inputs that it keeps.
PROGRESS = re.compile(r"cov: (\d+) ft: \d+ corp: (\d+)")
MOST_BYTES = 8192
MOST_MEGABYTES = 2048


def guided(name: str, n_inputs: int, seed: int, folder: Path) -> None:
    """Fuzz one reader, write what came of it to FOLDER/tally.json, and end.

    The process ends here, as libFuzzer never returns.
    """
    import atheris  # type: ignore[import-not-found]
    from numpy.lib import _format_impl

    with atheris.instrument_imports(include=WATCHED, enable_loader_override=False):
        from benchmarks.robustness import fuzz
        from ensemble.system import environment
    for function in vars(_format_impl).values():
        if isinstance(function, FunctionType):
            atheris.instrument_func(function)

    reader = fuzz.READERS[name]
    tally: dict[str, Any] = {"inputs": 0, "read": 0, "refused": 0, "wrong": []}
    longest = 0.0

    def once(content: bytes) -> None:
        nonlocal longest
        verdict, seconds = fuzz.judged(name, content)
        tally["inputs"] += 1
        if verdict in tally:
            tally[verdict] += 1
        else:
            tally["wrong"].append({"why": verdict, "input": content.hex()})
        longest = max(longest, seconds)
        if tally["inputs"] == n_inputs:
            facts = {**tally, "longest_seconds": round(longest, 3)}
            facts["peak_memory_mb"] = environment.peak_memory_bytes() // 2**20
            (folder / "tally.json").write_text(json.dumps(facts))
            fuzz.written(b"").unlink()
            os._exit(0)

    def mutated(content: bytes, most: int, luck: int) -> bytes:
        found = atheris.Mutate(content, most)
        return reader.mend(found)[:most] if luck % 2 else found

    # The first of all inputs also waits for what the reader imports.
    reader.read(reader.valid()[0])
    options = {
        "seed": seed + 1,
        "dict": dictionary(folder / "words", fuzz.WORDS[name].split(b" ")),
        "max_len": MOST_BYTES,
        "timeout": 10,
        "rss_limit_mb": MOST_MEGABYTES,
        "artifact_prefix": f"{folder}/",
    }
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(reader.valid()):
        (corpus / str(number)).write_bytes(content)
    given = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([name, *given, str(corpus)], once, custom_mutator=mutated)
    atheris.Fuzz()


def dictionary(path: Path, words: list[bytes]) -> Path:
    """Words as libFuzzer reads them."""
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in words if word)
    path.write_text("".join(f'"{word}"\n' for word in escaped))
    return path


def in_a_process(name: str, n_inputs: int, seed: int) -> dict[str, Any]:
    """What coverage-guided fuzzing of one reader found.

    Raises:
        RuntimeError: If its process ended early: a crash, a hang, too much memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "benchmarks.robustness.guided_fuzz",
            str(n_inputs),
        ]
        command += ["--seed", str(seed), "--reader", name, "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        tally = Path(folder, "tally.json")
        if not tally.exists():
            raise RuntimeError(f"{name} ended early: {done.stderr[-2000:]}")
        progress = PROGRESS.findall(done.stderr)
        first, last = progress[0], progress[-1]
        return {
            **json.loads(tally.read_text()),
            "edges_covered_at_first": int(first[0]),
            "edges_covered": int(last[0]),
            "inputs_kept": int(last[1]),
        }


def main(n_inputs: int, seed: int) -> None:
    from benchmarks import record
    from benchmarks.robustness import fuzz

    readers = {}
    for number, (name, reader) in enumerate(fuzz.READERS.items()):
        share = round(n_inputs * reader.share)
        readers[name] = in_a_process(name, share, seed + number)
        print(name, readers[name], flush=True)
    record.write("guided_fuzz", [seed], {"inputs": n_inputs, "readers": readers})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness.guided_fuzz")
    parser.add_argument("inputs", nargs="?", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.reader:
        guided(asked.reader, asked.inputs, asked.seed, asked.folder)
    else:
        main(asked.inputs, asked.seed)
