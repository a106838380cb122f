"""The run folder: every path in it, how it is made and opened, and its code book."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ensemble.run import config_file, files, query_names, records
from ensemble.run.config import Config
from ensemble.system import locks
from splits.codes import CodeBook
from splits.errors import BadInput

REFERENCE: Literal["reference"] = "reference"
# The checkpoint of a member in training; hidden, so it is no part of the result.
CHECKPOINT = ".checkpoint.safetensors"
# A checkpoint after training on some slices; it stays in the finished member's folder.
SLICE = "slice_{}.safetensors"
# A finished member's weights, as diffusers calls them.
WEIGHTS = "diffusion_pytorch_model.safetensors"
# A model that is trained: a member, given by its number, or the reference.
Trainable = int | Literal["reference"]
# The files that make a run folder a diffusers pipeline. The model card is written last.
CARD = "README.md"
PIPELINE = ("model_index.json", "scheduler/scheduler_config.json")


def called(member: Trainable) -> str:
    """What a member, or the reference, is called in messages."""
    return "the reference" if member == REFERENCE else f"member {member:03d}"


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
        """The manifest: versions, seeds, digests and finished stages."""
        return self.path / "manifest.json"

    @property
    def members(self) -> Path:
        """The folder that holds one folder for each trained member."""
        return self.path / "members"

    def member_records(self) -> list[dict[str, Any]]:
        """The records of all trained members, in order of their numbers.

        Raises:
            BadInput: If a record is missing or damaged.
        """
        trained = sorted(path for path in self.members.glob("*") if path.name.isdigit())
        return [files.read_json(path / "member.json") for path in trained]

    def member(self, member: int) -> Path:
        """The folder of one member; it exists once the member is trained."""
        return self.members / f"{member:03d}"

    @property
    def reference(self) -> Path:
        """The reference model, trained on all sources to be scored; it never votes."""
        return self.path / REFERENCE

    def trained(self, which: Trainable) -> Path:
        """The folder of a member or of the reference; it exists once that is trained."""
        return self.reference if which == REFERENCE else self.member(which)

    def queries(self, name: str) -> Path:
        """The folder with seeds, conditions and pictures of a set of queries."""
        return self.path / "queries" / query_names.checked(name)

    def influence(self, name: str) -> Path:
        """The folder with the tables that ablation measured on a set of queries."""
        return self.path / "influence" / query_names.checked(name)

    def scores(self, name: str) -> Path:
        """The folder with the scores of a set of queries."""
        return self.path / "scores" / query_names.checked(name)

    @property
    def features(self) -> Path:
        """The scorers' cache for all queries; it may be deleted at any time."""
        return self.path / "scores" / ".features"

    @property
    def evaluation(self) -> Path:
        """The folder with the results of evaluations."""
        return self.path / "evaluation"


def create(config: Config) -> Run:
    """Create the run folder of a config, or open it if it exists.

    Raises:
        BadInput: If the folder belongs to another config, holds something else, or
            cannot be written.
    """
    path = Path(config.run)
    kept = path / "config.yaml"
    if not run_exists(config):
        try:
            with locks.exclusive(kept):
                # Another process may have been first.
                if not kept.exists():
                    files.write_text(kept, config_file.to_yaml(config))
        except OSError as error:
            raise BadInput(
                f"Cannot write the run folder {path}: {error.strerror or error}. Choose "
                "another folder, or make room."
            ) from None
        run_exists(config)
    return Run(path, config)


def remove_if_unused(run: Run) -> None:
    """Delete the config of a run that `create` made, if the folder holds nothing else.

    This is for a config that turned out to be impossible: the folder would refuse the
    corrected config. The config stays if another process is making the plan.
    """
    with locks.try_exclusive(run.path / "plan") as free:
        there = [one.name for one in run.path.iterdir() if one.name[0] != "."]
        if free and there == ["config.yaml"]:
            (run.path / "config.yaml").unlink()


def run_exists(config: Config) -> bool:
    """Whether the run of a config exists already; nothing is written.

    Raises:
        BadInput: If the folder belongs to another config, or holds something else.
    """
    path = Path(config.run)
    if not (path / "config.yaml").exists():
        _require_empty(path)
        # Another process may just have created the run.
        if not (path / "config.yaml").exists():
            return False
    old = config_file.to_dict(open_run(path).config)
    new = config_file.to_dict(config)
    # These options do not change the result: the folder's place, the number of
    # processes, and whether images are kept in memory.
    for tree in (old, new):
        tree["run"] = None
        tree["training"]["processes"] = None
        tree["data"]["stream"] = None
    different = config_file.differences(old, new)
    if different:
        raise BadInput(
            f"{path} belongs to a run with another config:\n  "
            + "\n  ".join(different)
            + "\nUse another `run` folder, or delete this one."
        )
    return True


def _require_empty(path: Path) -> None:
    """Refuse to create a run in a folder that holds other files.

    Hidden files do not count: locks, and files that systems leave in every folder.

    Raises:
        BadInput: If there are other files, and no other process has created the run.
    """
    try:
        there = sorted(one.name for one in path.iterdir() if one.name[0] != ".")
    except OSError:
        # The folder is missing, or writing to it will give a clear error.
        return
    if there and not (path / "config.yaml").exists():
        others = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
        raise BadInput(
            f"{path} is no run folder, and not empty: it holds {others}, but "
            f"{path / 'config.yaml'} is missing. Name a new folder as `run`; if this "
            "was a run, restore its config.yaml."
        )


def open_run(path: str | Path) -> Run:
    """Open an existing run folder.

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
        # The digest is checked first: a damaged config may look like a wrong option.
        records.require_recorded(path, {"config_digest": files.sha256(kept)})
    return Run(path, config_file.load(kept))


def read_codes(path: Path) -> CodeBook:
    """The code book in a .npy file.

    Raises:
        BadInput: If it is missing, damaged, or no code book.
    """
    bits = files.read_array(path)
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
    expected = files.read_json(folder / "manifest.json")["code_book_digest"]
    if codes.digest() != expected:
        raise files.damaged_error(
            path, expected, codes.digest(), folder / "manifest.json"
        )
    return codes
