"""Extension: a run that takes over another one's data, codes and members, and adds data.

The earlier run stays as it is. The extended run keeps its sources in their order, with
every bit of their codes; new images come after the old ones. With as many members as
before, members go on training, each on its old and new sources. With more, old members
are taken over as they are, and the others are trained from nothing on what their codes
say. What had been removed from the earlier run is left out.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from ensemble.data import datasets
from ensemble.data.datasets import TrainingImages
from ensemble.data.inventory import FIRST_RULES, RULES
from ensemble.run import files, locations, records, removal_log, voters
from ensemble.run.config import Config, DataConfig
from ensemble.run.folder import REFERENCE, WEIGHTS, Run, Trainable, codes_of, open_run
from ensemble.run.lineage import Expected
from splits import guarantees
from splits.codes import CodeBook
from splits.errors import BadInput

# Codes are drawn as before where members go on training.
_SAME = ("design", "weight", "seed", "removable", "survivors", "salt")


def earlier(config: Config) -> Run | None:
    """The run that a config extends; None if it extends none.

    Raises:
        BadInput: If there is no such run.
    """
    return None if config.extends is None else open_run(config.extends)


def require_extensible(run: Run, config: Config) -> None:
    """Refuse to extend what is not finished, or with options that do not fit.

    Raises:
        BadInput: If a member is missing or silenced, or an option must be as it was.
    """
    n_members = codes_of(run.path).n_members
    absent = [m for m in range(n_members) if not run.member(m).exists()]
    silent = voters.silenced_members(run.path)
    if absent or silent:
        remedy = "" if absent else " --repair"
        raise BadInput(
            f"{run.path} cannot be extended: members {absent or silent} are not "
            f"{'trained' if absent else 'repaired'} yet. Finish it first: python "
            f"train.py {run.path / 'config.yaml'}{remedy}."
        )
    before, now = dataclasses.asdict(run.config), dataclasses.asdict(config)
    if before["training"]["slices"] is not None:
        raise BadInput(
            f"{run.path} has training.slices: it cannot be extended yet. Train a new "
            "run on all data."
        )
    wanted = [("data", "source"), ("data", "classes")]
    wanted += [*(("model", option) for option in before["model"])]
    if config.splits.n_members == n_members:
        wanted += [("splits", option) for option in _SAME]
    for section, option in wanted:
        if before[section][option] != now[section][option]:
            raise BadInput(
                f"{section}.{option} is {now[section][option]!r}, but {run.path}, which "
                f"is extended, has {before[section][option]!r}. Set it to that."
            )


def images(run: Run) -> TrainingImages:
    """All training images of a run: those of an earlier run, then those it names.

    They are read by the rules that the run was made with.

    Raises:
        BadInput: If they cannot be read, or do not go together.
    """
    rules = files.read_json(run.manifest).get("reading_rules", FIRST_RULES)
    config = locations.of_run(run)
    before = earlier(config)
    if before is None:
        return datasets.load(config.data, rules)
    return joined(config, images(before), left_out(run), rules)


def joined(
    config: Config, old: TrainingImages, without: Sequence[str], rules: int = RULES
) -> TrainingImages:
    """The images of an earlier run, then those that the config names.

    Args:
        config: Of the run that extends it.
        old: All images of the earlier run.
        without: Names of those that are left out.
        rules: By which reading rules the new ones are read.

    Raises:
        BadInput: If the new ones cannot be read, or do not go together with the old.
    """
    there = [name not in without for name in old.names]
    new = datasets.load(config.data, rules)
    together = _joined(_chosen(old, there), new, config.data)
    if config.model.class_conditional and together.label_names != old.label_names:
        raise BadInput(
            f"Conditional members keep the classes that they began with: those of "
            f"{config.extends} know {', '.join(old.label_names)}, and the images now are "
            f"of {', '.join(together.label_names)}. Train a new run."
        )
    return together


def _chosen(data: TrainingImages, there: Sequence[bool]) -> TrainingImages:
    def kept(entries: Sequence[str]) -> tuple[str, ...]:
        return tuple(one for one, stays in zip(entries, there, strict=True) if stays)

    return dataclasses.replace(
        data,
        images=np.asarray(data.images)[there],
        labels=None,
        columns={name: kept(texts) for name, texts in data.columns.items()},
        names=kept(data.names),
    )


def _joined(
    old: TrainingImages, new: TrainingImages, config: DataConfig
) -> TrainingImages:
    twice = sorted({*old.names} & {*new.names})
    if twice:
        raise BadInput(
            f"{len(twice)} new images are called like old ones, the first {twice[0]}. "
            "Name only what is new in `data`, and give every image a name of its own."
        )
    if old.images.shape[1:] != new.images.shape[1:]:
        raise BadInput(
            f"New images are {new.images.shape[1:]}, old ones {old.images.shape[1:]}. "
            "Set data.size and data.channels so that they agree."
        )
    if {*old.columns} != {*new.columns}:
        raise BadInput(
            f"New images have the columns {sorted(new.columns)}, old ones "
            f"{sorted(old.columns)}. Give them the same."
        )
    columns = {name: (*old.columns[name], *new.columns[name]) for name in old.columns}
    pixels = np.concatenate([old.images, new.images])
    names = (*old.names, *new.names)
    return datasets.with_labels(pixels, columns, names, config, new.inventory)


def left_out(run: Run) -> list[str]:
    """Names of images of the earlier run that a run was made without."""
    return [] if run.config.extends is None else list(_without(run).values())


def _without(run: Run) -> dict[str, str]:
    return files.read_json(run.path / "sources.json")["without"]


def described(before: Run, codes: CodeBook) -> str:
    """What an extension does to the promises of the earlier run, as text."""
    old = files.read_json(before.manifest)
    n_joined = codes.n_members - old["n_members"]
    everyone = f"The {old['n_members']} members of {before.path}"
    what = (
        f"{everyone} stay as they are, and {n_joined} join"
        if n_joined
        else f"{everyone} go on training"
    )
    promised = guarantees.compare(old["promises"], guarantees.count_guarantees(codes))
    return f"\n{what}. Its promises before, and now:\n{promised}"


def n_trained(config: Config, codes: CodeBook) -> int:
    """How many members are trained; all, unless others are taken over as they are."""
    before = earlier(config)
    if before is None:
        return codes.n_members
    n_joined = codes.n_members - codes_of(before.path).n_members
    return n_joined or codes.n_members


def facts(before: Run) -> dict[str, Any]:
    """What is noted of the earlier run.

    That is: what is left out, how many sources stay, and what its members were trained
    for.
    """
    n_sources = codes_of(before.path).n_sources
    n_before = n_sources - len(removal_log.removed(before.path))
    named = Expected.of(before.path).facts()
    return {"without": removed(before), "n_before": n_before, "extended": named}


def removed(run: Run) -> dict[str, str]:
    """Images of sources that were removed from a run: names, by number as text."""
    asked = removal_log.requests(run.path)
    return asked[-1].images if asked else {}


def codes_kept(run: Run, before: Run) -> Bool[np.ndarray, "sources members"]:
    """Codes of the earlier run that an extended run must still have."""
    gone = [int(image) for image in _without(run)]
    rows = np.unique(np.delete(files.read_array(before.source_of), gone))
    return codes_of(before.path).bits[rows.astype(np.int64)]


def numbered(
    old: Sequence[str],
    names: Sequence[str],
    source_of: Int64[np.ndarray, " images"],
) -> tuple[Int64[np.ndarray, " images"], list[str]]:
    """The source of each image and all names: old sources as they were, then new ones.

    Args:
        old: Names of the sources that were there before.
        names: Names of all sources, in any order.
        source_of: The source of every image, by that order.
    """
    known = {name: number for number, name in enumerate(old)}
    added = [name for name in names if name not in known]
    known |= {name: len(old) + number for number, name in enumerate(added)}
    return np.array([known[name] for name in names])[source_of], [*old, *added]


def require_new(
    source_of: Int64[np.ndarray, " new_images"], names: Sequence[str], n_old: int
) -> None:
    """Refuse new images of old sources, where old members do not go on training.

    Raises:
        BadInput: If there is one.
    """
    known = np.flatnonzero(source_of < n_old)
    if known.size:
        first = int(source_of[int(known[0])])
        raise BadInput(
            f"Source {names[first]!r} was there before, and has new "
            "images: members that are taken over as they are would not know them. Let "
            "members go on training (splits.n_members as before), or call the new "
            "source another name."
        )


@dataclass(frozen=True)
class Start:
    """Where a member of an extended run begins.

    Attributes:
        folder: The finished member of the earlier run.
        record: Its `member.json`.
        exposure: Times that it was shown each of the extended run's images.
        goes_on: Whether it is trained further, or taken over as it is.
    """

    folder: Path
    record: dict[str, Any]
    exposure: UInt32[np.ndarray, " images"]
    goes_on: bool

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.folder / WEIGHTS

    @property
    def weights_sha256(self) -> str:
        """The sha256 of its weights."""
        return self.record["weights_sha256"]


def start_of(run: Run, member: Trainable, n_images: int) -> Start | None:
    """Where a member begins; None: from nothing.

    Args:
        run: The run folder.
        member: Its number; the reference always begins from nothing.
        n_images: Training images of the run.

    Raises:
        BadInput: If the earlier run's member is missing, damaged, or another run's.
    """
    before = earlier(locations.of_run(run))
    if before is None or member == REFERENCE:
        return None
    n_before = codes_of(before.path).n_members
    if member >= n_before:
        return None
    folder = before.member(member)
    record = records.check_done_mark(folder, "member.json")
    Expected.of(before.path).require(member, record)
    shown = files.read_array(folder / "exposure.npy")
    stays = np.delete(shown, [int(image) for image in _without(run)])
    exposure = np.zeros(n_images, dtype=np.uint32)
    exposure[: len(stays)] = stays
    goes_on = run.config.splits.n_members == n_before
    return Start(folder, record, exposure, goes_on)


def take_over(start: Start, folder: Path, split_digest: str) -> None:
    """Copy a finished member; it is sealed again, for the training images there are now.

    Args:
        start: What is copied.
        folder: Where to; made if it is not there.
        split_digest: The member's split among all sources.
    """
    folder.mkdir(exist_ok=True)
    for file in start.record["files"]:
        if file != "exposure.npy":
            shutil.copyfile(start.folder / file, folder / file)
    files.write_array(folder / "exposure.npy", start.exposure)
    facts = {name: fact for name, fact in start.record.items() if name != "files"}
    facts |= {"split_digest": split_digest, "taken_over": str(start.folder)}
    records.write_done_mark(folder, "member.json", facts)


def depth(config: Config) -> int:
    """How many runs a config's run goes back to.

    Raises:
        BadInput: If one of them is missing.
    """
    before = earlier(config)
    return 0 if before is None else 1 + depth(locations.of_run(before))


def require_clean(run: Run, members: Sequence[Trainable]) -> None:
    """Refuse to begin from members of the earlier run that saw what was removed here.

    Raises:
        BadInput: If one of the members would begin so.
    """
    before = earlier(locations.of_run(run))
    if before is None:
        return
    gone = removal_log.removed(run.path)
    n_sources = files.read_json(run.path / "sources.json")["n_before"]
    n_members = codes_of(before.path).n_members
    old = [source for source in gone if source < n_sources]
    saw = np.flatnonzero(codes_of(run.path).bits[old].any(axis=0))
    begun = [m for m in members if m != REFERENCE and m < n_members and m in saw]
    if begun:
        raise BadInput(
            f"Members {begun} of {run.path} began as members of {before.path}, which "
            "saw what was removed; they stay silent here. Remove it from "
            f"{before.path} too, repair that, and extend it again into another folder."
        )
