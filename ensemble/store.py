"""The run folder: every path in it, what proves it whole, and how it is written.

Whatever is written appears whole or not at all: it is written under a temporary name,
flushed to the disk, then renamed. Every JSON file carries its own digest, its place in
the run, and the digests of the arrays and weights that it speaks for, so that damage is
found on load, and so are files that changed places. Nothing is pickled, in or out.

Before: config.py (what the run is made from). After: everything that reads or writes.
"""

import contextlib
import datetime
import glob
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ensemble import config as configs
from ensemble import locks, names
from ensemble.config import Config
from splits.codes import CodeBook
from splits.errors import BadInput
from splits.unreadable import too_large, unreadable

PACKAGES = ("torch", "diffusers", "accelerate", "webdataset", "numpy", "scikit-learn")
REFERENCE: Literal["reference"] = "reference"
# How far a member has come; hidden, so that it is no part of the finished member.
CHECKPOINT = ".checkpoint.safetensors"
# How far it had come when its training so far knew only some slices; part of it.
SLICE = "slice_{}.safetensors"
# A finished member's weights, as diffusers calls them.
WEIGHTS = "diffusion_pytorch_model.safetensors"
# Whoever is trained: a member by its number, or the reference.
Trainable = int | Literal["reference"]
# What makes a run folder a pipeline; the model card is written last.
CARD = "README.md"
PIPELINE = ("model_index.json", "scheduler/scheduler_config.json")
# What Python raises at bytes that are no JSON object, or at one without a digest, or
# nested deeper than it follows.
_NO_RECORD = (
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    RecursionError,
)
# What numpy raises at bytes that are no array. A header is Python source to it: a damaged
# one fails in any of Python's ways, or asks for more memory than there is.
NO_ARRAY = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)
# Which file a digest in the manifest is of.
FILE_OF = {
    "config_digest": "config.yaml",
    "code_book_digest": "codes.npy",
    "source_of_digest": "source_of.npy",
}


@dataclass(frozen=True)
class Run:
    """A run folder and the config that it was made from.

    Attributes:
        path: The folder.
        config: Every option of the run.
    """

    path: Path
    config: Config

    @property
    def codes(self) -> Path:
        """The code book, bool (sources, members)."""
        return self.path / "codes.npy"

    @property
    def source_of(self) -> Path:
        """The source of each training image, int64 (images,)."""
        return self.path / "source_of.npy"

    @property
    def manifest(self) -> Path:
        """Versions, seeds, digests and the stages done."""
        return self.path / "manifest.json"

    @property
    def members(self) -> Path:
        """One folder a trained member."""
        return self.path / "members"

    def member_records(self) -> list[dict[str, Any]]:
        """What is on record of every trained member, in order.

        Raises:
            BadInput: If a record is missing or damaged.
        """
        trained = sorted(path for path in self.members.glob("*") if path.name.isdigit())
        return [read_json(path / "member.json") for path in trained]

    def member(self, member: int) -> Path:
        """The folder of one member; it exists once the member is trained."""
        return self.members / f"{member:03d}"

    @property
    def reference(self) -> Path:
        """A model trained on everything, to be scored; no member, and never votes."""
        return self.path / REFERENCE

    def trained(self, which: Trainable) -> Path:
        """The folder of a member or of the reference; it exists once that is trained."""
        return self.reference if which == REFERENCE else self.member(which)

    def queries(self, name: str) -> Path:
        """Seeds, conditions and pictures of a set of queries."""
        return self.path / "queries" / names.checked(name)

    def influence(self, name: str) -> Path:
        """What ablation measured on a set of queries."""
        return self.path / "influence" / names.checked(name)

    def scores(self, name: str) -> Path:
        """What scorers predict for a set of queries."""
        return self.path / "scores" / names.checked(name)

    @property
    def features(self) -> Path:
        """What scorers keep for all queries; it may be deleted at any time."""
        return self.path / "scores" / ".features"

    @property
    def evaluation(self) -> Path:
        """What evaluation measured."""
        return self.path / "evaluation"


def create(config: Config) -> Run:
    """The run folder of a config, made if it is not there.

    Raises:
        BadInput: If the folder belongs to another config, holds something else, or
            cannot be written.
    """
    path = Path(config.run)
    kept = path / "config.yaml"
    if not stands(config):
        try:
            with locks.alone(kept):
                # Somebody else may have been first.
                if not kept.exists():
                    write_text(kept, configs.to_yaml(config))
        except OSError as error:
            raise BadInput(
                f"Cannot write the run folder {path}: {error.strerror or error}. Choose "
                "another folder, or make room."
            ) from None
        stands(config)
    return Run(path, config)


def withdraw(run: Run) -> None:
    """Take back the config of a run that `create` made, if nothing came of it.

    Otherwise the folder would belong to a run that cannot be, and refuse the config once
    it is mended. Whoever else is at work on its plan keeps it.
    """
    with locks.alone_now(run.path / "plan") as free:
        there = [one.name for one in run.path.iterdir() if one.name[0] != "."]
        if free and there == ["config.yaml"]:
            (run.path / "config.yaml").unlink()


def stands(config: Config) -> bool:
    """Whether the run of a config stands in its folder already; nothing is written.

    Raises:
        BadInput: If the folder belongs to another config, or holds something else.
    """
    path = Path(config.run)
    if not (path / "config.yaml").exists():
        _require_no_others(path)
        # Somebody may just have made it.
        if not (path / "config.yaml").exists():
            return False
    old = configs.to_dict(open_run(path).config)
    new = configs.to_dict(config)
    # How many processes share the work decides nothing about the result; where the
    # folder stands and what is held in memory do not either.
    for tree in (old, new):
        tree["run"] = None
        tree["training"]["processes"] = None
        tree["data"]["stream"] = None
    different = configs.differences(old, new)
    if different:
        raise BadInput(
            f"{path} belongs to a run with another config:\n  "
            + "\n  ".join(different)
            + "\nUse another `run` folder, or delete this one."
        )
    return True


def _require_no_others(path: Path) -> None:
    """Refuse a folder of photos, or of anything else, as a run folder to be made.

    Hidden files do not count: locks are such, and what systems leave in every folder.

    Raises:
        BadInput: If something else is there, and no config has come in the meantime.
    """
    try:
        there = sorted(one.name for one in path.iterdir() if one.name[0] != ".")
    except OSError:
        # It is not there, or whoever writes to it will say what is wrong.
        return
    if there and not (path / "config.yaml").exists():
        others = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
        raise BadInput(
            f"{path} is no run folder, and not empty: it holds {others}, and no "
            "config.yaml. Name a new folder as `run`; if this was a run, restore its "
            "config.yaml."
        )


def open_run(path: str | Path) -> Run:
    """An existing run folder.

    Raises:
        BadInput: If there is no run, or its config was changed by hand.
    """
    path = Path(path)
    kept = path / "config.yaml"
    if not kept.exists():
        raise BadInput(
            f"{path} is not a run folder: {kept} is missing. Make one with `python "
            "train.py CONFIG`, or restore the file."
        )
    if (path / "manifest.json").exists():
        # Before it is read: what damage did to it may look like a wrong option.
        _compare(path, {"config_digest": sha256(kept)})
    return Run(path, configs.load(kept))


def start_manifest(run: Run, facts: dict[str, Any]) -> None:
    """Write what the run is made from, once; a later call checks it instead.

    Args:
        run: The run folder.
        facts: Digests and counts that may never change, by name.

    Raises:
        BadInput: If the run was made from something else.
    """
    if run.manifest.exists():
        check_manifest(run, facts)
        return
    settings = run.config
    write_json(
        run.manifest,
        {
            "created": now(),
            "versions": versions(),
            "commit": commit(),
            "machine": {
                "python": platform.python_version(),
                "processor": processor(),
                "cores": os.cpu_count(),
                "system": platform.platform(),
            },
            "seeds": {
                "splits": settings.splits.seed,
                "training": settings.training.seed,
            },
            # Where relative paths in the config start from.
            "working_directory": str(Path.cwd()),
            "config_digest": sha256(run.path / "config.yaml"),
            **facts,
            "stages": {},
        },
    )


def check_manifest(run: Run, facts: dict[str, Any]) -> None:
    """Compare facts with the manifest.

    Raises:
        BadInput: If one differs, with its name, what was expected and what was found.
    """
    _compare(run.path, facts)


def _compare(folder: Path, facts: dict[str, Any]) -> None:
    manifest = read_json(folder / "manifest.json")
    for name, found in facts.items():
        if manifest.get(name) != found:
            raise changed(folder, name, manifest.get(name), found)


@contextlib.contextmanager
def stage(run: Run, name: str) -> Iterator[dict[str, Any]]:
    """Record a stage in the manifest once it is done, with seconds and peak memory.

    Yields:
        A dictionary for further facts about the stage.
    """
    began = time.perf_counter()
    begin_peak_memory()
    facts: dict[str, Any] = {}
    yield facts
    with _stages(run) as stages:
        stages[name] = {
            "done": now(),
            "seconds": round(time.perf_counter() - began, 3),
            "peak_memory_bytes": recent_peak_memory_bytes(),
            "commit": commit(),
            **facts,
        }


def note_stage(run: Run, name: str, **known: Any) -> None:
    """Put on record a stage whose process was killed between its work and its record.

    Args:
        run: The run folder.
        name: The stage; what is on record already is left as it is.
        known: Further facts about it.
    """
    if name in read_json(run.manifest)["stages"]:
        return
    with _stages(run) as stages:
        stages.setdefault(name, {"done": now(), "commit": commit(), **known})


@contextlib.contextmanager
def _stages(run: Run) -> Iterator[dict[str, Any]]:
    """What the manifest says of stages, to be changed by one process at a time."""
    with locks.alone(run.manifest):
        manifest = read_json(run.manifest)
        yield manifest["stages"]
        write_json(run.manifest, manifest)


def is_complete(run: Run) -> bool:
    """Whether a run folder is a pipeline with its card, and on record as one."""
    there = all((run.path / file).exists() for file in (*PIPELINE, CARD))
    return there and "train" in read_json(run.manifest)["stages"]


def write_text(path: Path, text: str) -> None:
    """Write a text file whole.

    Names of files need not be valid Unicode; what is not becomes an escape, which JSON
    reads back as it was.
    """
    _write(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole; its digest is the sha256 of its text without it."""
    placed = {**content, "place": _place(path)}
    digest = _digest_of(_as_json(placed, ""))
    _write(path, _as_json(placed, digest).encode("utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that `write_json` wrote.

    Raises:
        BadInput: If it is missing or damaged, or was written elsewhere.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
        expected = content.pop("digest")
        found = _digest_of(text.replace(expected, ""))
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except MemoryError:
        raise too_large(path) from None
    except _NO_RECORD as error:
        raise BadInput(
            f"{path} cannot be read as JSON with a digest ({error}). It is damaged: "
            "delete it, and run the stage that wrote it again."
        ) from None
    if found != expected:
        raise damaged(path, expected, found)
    # Runs of before files knew their place have none.
    place = content.pop("place", path.name)
    if not f"/{_joined(path.absolute())}".endswith(f"/{place}"):
        raise BadInput(
            f"{path} was written as {place}: files have changed places. Put each back, "
            "or delete it and run the stage that wrote it again."
        )
    return content


def write_array(path: Path, array: np.ndarray) -> str:
    """Write a .npy file whole; returns its sha256."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return sha256(path)


def make_array(
    path: Path, shape: tuple[int, ...], dtype: np.typing.DTypeLike, value: float = 0.0
) -> None:
    """Write a .npy file with one value everywhere, to be filled as a memory map.

    Its room on the disk is taken now: a memory map that finds none kills the process.
    """
    head = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": shape,
    }
    n_all, block = math.prod(shape), np.full(2**15, value, dtype)
    with replacing(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        for first in range(0, n_all, len(block)):
            file.write(block[: n_all - first].data)
        file.flush()
        os.fsync(file.fileno())


def read_array(path: Path, expected: str | None = None) -> np.ndarray:
    """The array in a .npy file, checked against its sha256 if that is given.

    Raises:
        BadInput: If it is missing or damaged.
    """
    if not path.exists():
        raise missing(path)
    if expected is not None:
        check(path, expected)
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except NO_ARRAY as error:
        # What numpy finds wrong with the bytes has no number of the system.
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from None
        if isinstance(error, MemoryError) and _is_as_long_as_it_says(path):
            raise too_large(path) from None
        raise BadInput(
            f"{path} is not a readable array ({error}). Delete it, and run the stage "
            "that wrote it again."
        ) from None


def _is_as_long_as_it_says(path: Path) -> bool:
    """Whether a .npy file holds all the numbers that its header announces."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except NO_ARRAY:
        return False
    return True


def read_codes(path: Path) -> CodeBook:
    """The code book in a .npy file.

    Raises:
        BadInput: If it is missing, damaged, or no code book.
    """
    bits = read_array(path)
    if bits.dtype != bool or bits.ndim != 2:
        raise BadInput(
            f"{path} is an array {bits.shape} of {bits.dtype}; bits (sources, members) "
            "are wanted. It is another file, or damaged: restore it from a copy."
        )
    return CodeBook(bits)


def codes_of(folder: Path) -> CodeBook:
    """The code book of a run folder, checked against its manifest.

    Raises:
        BadInput: If it is missing, damaged, or another.
    """
    path = folder / "codes.npy"
    codes = read_codes(path)
    expected = read_json(folder / "manifest.json")["code_book_digest"]
    if codes.digest() != expected:
        raise damaged(path, expected, codes.digest(), folder / "manifest.json")
    return codes


def check(path: Path, expected: str, record: Path | None = None) -> None:
    """Compare a file with the sha256 on record.

    Args:
        path: The file.
        expected: The sha256.
        record: Where that was read, for the message.

    Raises:
        BadInput: If it is missing, or its bytes are not those that were written.
    """
    if not path.exists():
        raise missing(path)
    found = sha256(path)
    if found != expected:
        raise damaged(path, expected, found, record)


def seal(folder: Path, name: str, facts: dict[str, Any]) -> None:
    """Write the done mark of a folder: facts, and the sha256 of every file in it."""
    files = {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != name and not path.name.startswith(".")
    }
    write_json(folder / name, {**facts, "files": files})


def check_sealed(folder: Path, name: str) -> dict[str, Any]:
    """The done mark of a folder, once every file that it lists has been checked.

    Raises:
        BadInput: If a file or the done mark is missing or damaged.
    """
    record = read_json(folder / name)
    for file, expected in record["files"].items():
        check(folder / file, expected, folder / name)
    return record


def sealed_array(folder: Path, name: str, file: str) -> np.ndarray:
    """An array of a sealed folder, checked against the folder's done mark.

    Raises:
        BadInput: If the array or the done mark is missing or damaged.
    """
    files = read_json(folder / name)["files"]
    if file not in files:
        raise missing(folder / file)
    check(folder / file, files[file], folder / name)
    return read_array(folder / file)


def records(folder: Path, kind: str) -> list[Path]:
    """The JSON files of a folder; every file of that kind has one of its own.

    Args:
        folder: Where `METHOD.json` stands beside `METHOD.npy` and `METHOD.path.npy`.
        kind: What the names of the others end with, such as `.npy`.

    Raises:
        BadInput: If a JSON file is missing.
    """
    found = sorted(folder.glob("*.json"))
    for path in sorted(folder.glob(f"*{kind}")):
        record = path.with_name(path.name.partition(".")[0] + ".json")
        if record not in found:
            raise missing(record)
    return found


@contextlib.contextmanager
def folder_in_the_making(final: Path) -> Iterator[Path]:
    """A folder that gets its final name when the block ends without an error."""
    partial = final.with_name(final.name + ".part")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    publish(partial, final)


def publish(partial: Path, final: Path) -> None:
    """Give a finished folder its name; what had that name is gone afterwards."""
    for path in sorted(partial.rglob("*")):
        if path.is_file():
            flush(path)
    flush(partial)
    outdated = final.with_name(final.name + ".old")
    if final.exists():
        shutil.rmtree(outdated, ignore_errors=True)
        final.rename(outdated)
    partial.rename(final)
    flush(final.parent)
    # Also what a process left that ended between the two names.
    shutil.rmtree(outdated, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Take away what whoever wrote a finished folder left: hidden files, checkpoints."""
    for path in folder.glob(".*"):
        path.unlink()


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        BadInput: If it is missing, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise unreadable(path, error) from None


def array_digest(array: np.ndarray) -> str:
    """The sha256 of an array's type, shape and content, in hexadecimal."""
    return digest_in_parts(array.dtype, array.shape, [array])


def digest_in_parts(
    dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[np.ndarray]
) -> str:
    """The `array_digest` of an array that comes in parts, one after the other."""
    little = dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{little.str} {shape} ".encode())
    for part in parts:
        content = part.astype(little, order="C", copy=False)
        # Read where it is: a copy of all training images would be large.
        digest.update(content.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def changed(folder: Path, name: str, wanted: Any, found: Any) -> BadInput:
    """The error for a fact that is not what the manifest of a run folder says."""
    return BadInput(
        f"{name} of {folder / FILE_OF.get(name, '')} has changed: the run was made with "
        f"{wanted}, now there is {found}; so says {folder / 'manifest.json'}. Restore "
        "what was there, or start another run."
    )


def missing(path: Path) -> BadInput:
    """The error for a file that is not there."""
    return BadInput(
        f"{path} is missing. Run the stage that writes it again, or restore it."
    )


def damaged(
    path: Path, expected: str, found: str, record: Path | None = None
) -> BadInput:
    """The error for a file whose bytes are not those that were written."""
    source = f" by {record}" if record else ""
    return BadInput(
        f"{path} is damaged: expected sha256 {expected}{source}, found {found}. "
        f"{_remedy(record)}"
    )


def _remedy(record: Path | None) -> str:
    """A folder with a done mark is made again as a whole, or not at all."""
    if record is None or record.name not in ("info.json", "member.json"):
        return (
            "Delete it and run the stage that wrote it again, or restore it from a "
            "copy."
        )
    return (
        f"Delete the folder {record.parent} and run the stage that wrote it again, or "
        "restore the file from a copy."
    )


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def commit() -> str | None:
    """The git commit of this project's checkout; None outside of one."""
    # Named outright: an installed copy may lie inside somebody else's checkout.
    checkout = Path(__file__).parents[1] / ".git"
    command = ["git", "--git-dir", str(checkout), "rev-parse", "HEAD"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return finished.stdout.strip() or None


def processor() -> str:
    """The processor's name, as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# What this process had held at most whenever a peak was begun anew.
_peaks: list[int] = []


def begin_peak_memory() -> None:
    """From now on `recent_peak_memory_bytes` forgets what was, where Linux lets it."""
    _peaks[:] = [peak_memory_bytes()]
    with contextlib.suppress(OSError):
        # See proc(5), clear_refs: 5 sets the peak back to what is held now.
        Path("/proc/self/clear_refs").write_text("5", "utf-8")


def peak_memory_bytes() -> int:
    """The most memory that this process has ever held at once."""
    return max([recent_peak_memory_bytes(), *_peaks])


def recent_peak_memory_bytes() -> int:
    """The most memory held at once since a peak was begun, what was held then included.

    Where it cannot be begun anew: since the process started.
    """
    # What getrusage says on Linux counts what the parent held when it forked, too.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def visible(text: str) -> str:
    """Text with control characters spelled out.

    Otherwise a name could hide or reorder other text, or steer a terminal.
    """
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def file_name(name: str) -> str:
    """A name under which a thing can be kept anywhere; different ones stay different.

    Letters, digits, `_`, `-` and `.` stay; where others had to go, eight digits of the
    name's digest follow.
    """
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:100]
    return name if kept == name else f"{kept}-{_digest_of(name)[:8]}"


def _place(path: Path) -> str:
    """Where a file stands in its run folder, known by its config; else its name."""
    for parent in path.parents:
        if (parent / "config.yaml").exists():
            return _joined(path.relative_to(parent))
    return path.name


def _joined(path: Path) -> str:
    """A path as text, by the names that folders in the making will have."""
    return "/".join(part.removesuffix(".part") for part in path.parts)


def _as_json(content: dict[str, Any], digest: str) -> str:
    return json.dumps({**content, "digest": digest}, indent=1) + "\n"


def _digest_of(text: str) -> str:
    # Names of files need not be valid Unicode.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in _abandoned(path):
        abandoned.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    flush(path.parent)


def sweep_abandoned(folder: Path) -> None:
    """Take away temporary files below a folder whose writers were killed.

    What is written again sweeps its own; this is for what nobody writes again. A folder
    that cannot be written to keeps them, and so do other machines' files.
    """
    for partial in folder.rglob(f".*.{glob.escape(platform.node())}.*.part"):
        with contextlib.suppress(OSError):
            if _is_abandoned(partial):
                partial.unlink()


def _abandoned(path: Path) -> Iterator[Path]:
    """Temporary files for a path whose writers, on this machine, were killed."""
    begin = f".{path.name}.{platform.node()}."
    found = path.parent.glob(f"{glob.escape(begin)}*.part")
    return (partial for partial in found if _is_abandoned(partial))


def _is_abandoned(partial: Path) -> bool:
    process = partial.name.removesuffix(".part").rpartition(".")[2]
    return process.isdecimal() and not _runs(int(process))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Somebody else's.
        return True
    return True


def flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
