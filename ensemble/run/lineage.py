"""The lineage of a model: its record is compared with the run whenever it is loaded.

Every `member.json` records what determined the weights: the options of `model` and
`training`, the code book, all training images of the run, and the images that the model
itself was shown. A model that was copied from another run has another record, and is
refused.

Masking the images of removed sources changes the digest of all training images, so
every digest that the run has had so far is accepted. The digest of a model's own images
only changes if it saw a removed source.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from ensemble.run import config_file, files, removal_log, voters
from ensemble.run.config import Config
from ensemble.run.folder import REFERENCE, Trainable, codes_of, open_run
from splits.codes import CodeBook
from splits.errors import BadInput

# Options of `training` that do not change a model's weights.
_WITHOUT_EFFECT = (
    "processes",
    "checkpoint_every_steps",
    "log_every_steps",
    "tensorboard",
)
# How the line about another split begins.
SPLIT = "its split"
# How messages name the facts of a record.
_CALLED = {
    "member": "its number",
    "code_book_digest": "the code book",
    "data_fingerprint": "the digest of all training images",
    "images_digest": "the digest of the images that it is shown",
    "went_on_from": "the weights that it began from",
}


def options(config: Config) -> dict[str, Any]:
    """The options that determine a model's weights, given its data and its split."""
    tree = config_file.to_dict(config)
    training = {
        name: value
        for name, value in tree["training"].items()
        if name not in _WITHOUT_EFFECT
    }
    return {"model": tree["model"], "training": training}


def differences(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One line for each difference between a model's record and the expected facts.

    Args:
        recorded: What the record says about the training. Options that did not exist
            then have their defaults.
        wanted: The expected facts. If a value is a set, any of its elements is right.
    """
    lines = []
    for name, called in _CALLED.items():
        if name not in wanted:
            continue
        found, allowed = recorded.get(name), wanted[name]
        if found not in (allowed if isinstance(allowed, set) else {allowed}):
            named = sorted(allowed) if isinstance(allowed, set) else [allowed]
            lines.append(
                f"{called}: {found} there, {' or '.join(map(str, named))} here"
            )
    if "options" in wanted:
        before = _with_defaults(recorded.get("options", {}))
        lines += [
            f"{option}: {found!r} there, {value!r} here"
            for option, found, value in config_file.changes(before, wanted["options"])
        ]
    return lines


def _with_defaults(recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Recorded options, with defaults for options that were added later."""
    defaults = options(Config(run="none"))
    return {name: {**defaults[name], **recorded.get(name, {})} for name in defaults}


@dataclass(frozen=True, eq=False)
class Expected:
    """What the models of a run folder must have been trained for.

    Attributes:
        folder: The run folder.
        config: Its options.
        bits: Its code book, as it was drawn.
        code_book_digest: Of that.
        fingerprints: Of all training images: as they were at first, then after each
            removal.
        removed: The sources that were removed by then: at first none.
        extended: What is known of the run that this one extends, as that run's `facts`;
            None: it extends none, or this was not recorded.
    """

    folder: Path
    config: Config
    bits: Bool[np.ndarray, "sources members"]
    code_book_digest: str
    fingerprints: list[str]
    removed: list[list[int]]
    extended: dict[str, Any] | None

    @classmethod
    def of(cls, folder: Path) -> "Expected":
        """Read it from a run folder.

        Raises:
            BadInput: If a file of it is missing or damaged.
        """
        manifest = files.read_json(folder / "manifest.json")
        requests = removal_log.requests(folder)
        gone: list[list[int]] = [[]]
        for request in requests:
            gone.append(sorted({*gone[-1], *request.sources}))
        named = files.read_json(folder / "sources.json")
        return cls(
            folder,
            open_run(folder).config,
            codes_of(folder).bits,
            manifest["code_book_digest"],
            [manifest["data_fingerprint"], *(one.data_fingerprint for one in requests)],
            gone,
            named.get("extended"),
        )

    def facts(self) -> dict[str, Any]:
        """The facts that a run which extends this one records about it."""
        return {
            "options": options(self.config),
            "code_book_digest": self.code_book_digest,
            "data_fingerprints": self.fingerprints,
            "n_members": self.bits.shape[1],
            "extends": self.config.extends is not None,
            "extended": self.extended,
        }

    @functools.cache  # noqa: B019 - lives as long as what it is asked about
    def splits(self, which: Trainable) -> list[str]:
        """Digests of a model's split: at first, and after each removal."""
        found = []
        for gone in self.removed:
            if which == REFERENCE:
                column = np.ones((len(self.bits), 1), dtype=bool)
                column[gone] = False
            else:
                column = voters.remaining_bits(self.bits, gone)[:, [which]]
            found.append(CodeBook(column).split_digest(0))
        return found

    def contradictions(self, which: Trainable, record: Mapping[str, Any]) -> list[str]:
        """One line for each difference between a model's record and this run.

        Args:
            which: The model whose folder the record lies in.
            record: The content of `member.json`.
        """
        if record.get("member", which) != which:
            return [f"it is {record['member']!r}, and has the place of {which!r}"]
        if which != REFERENCE and which >= self.bits.shape[1]:
            return [f"this run has members 0 to {self.bits.shape[1] - 1} only"]
        lines = []
        split = record.get("split_digest")
        if split is not None and split not in self.splits(which):
            lines.append(f"{SPLIT}: {split} there, {self.splits(which)[-1]} here")
        return [*lines, *self._of_training(which, record)]

    def _of_training(self, which: Trainable, record: Mapping[str, Any]) -> list[str]:
        own = self.facts()
        run = _training_run(own, which)
        taken_over = "taken_over" in record
        if taken_over and run["extends"] and not run["extended"]:
            # Version 0.1 did not note what it extended.
            return []
        if taken_over != (run is not own):
            return [
                f"taken over from an earlier run: {taken_over} there, "
                f"{run is not own} here"
            ]
        if "trained_for" in record:
            wanted = {**run, "data_fingerprint": set(run["data_fingerprints"])}
            return differences(record["trained_for"], wanted)
        seed = self.config.training.seed
        if own["extends"] or record.get("seed", seed) == seed:
            return []
        return [f"training.seed: {record['seed']} there, {seed} here"]

    def require(self, which: Trainable, record: Mapping[str, Any]) -> None:
        """Refuse a model that was trained for another run.

        Raises:
            BadInput: If the record differs from this run; it names both values.
        """
        found = self.contradictions(which, record)
        if found:
            raise BadInput(foreign_text(self.folder, which, found))


def _training_run(run: dict[str, Any], which: Trainable) -> dict[str, Any]:
    """The facts of the run that trained a model: an earlier run if it was taken over."""
    while which != REFERENCE and (before := run["extended"]):
        if not which < before["n_members"] < run["n_members"]:
            break
        run = before
    return run


def foreign_text(folder: Path, which: Trainable, found: list[str]) -> str:
    """The message about a model that was trained for another run.

    Args:
        folder: The run folder.
        which: The model.
        found: The differences.
    """
    place = (
        folder / REFERENCE if which == REFERENCE else folder / f"members/{which:03d}"
    )
    again = " --reference" if which == REFERENCE else ""
    return (
        f"{place} was not trained for this run: {'; '.join(found)}. It was copied from "
        "another run, or a file of this one was replaced. Put back what was there, or "
        f"delete the folder and train it again: python train.py {folder / 'config.yaml'}"
        f"{again}."
    )


def require_all(folder: Path) -> None:
    """Refuse a run folder that holds finished models of other runs.

    Raises:
        BadInput: If a finished model was trained for another run.
    """
    expected = Expected.of(folder)
    for which, record in records(folder):
        expected.require(which, record)


def records(folder: Path) -> list[tuple[Trainable, dict[str, Any]]]:
    """The records of all finished models of a run folder, the reference last.

    Raises:
        BadInput: If a record is damaged.
    """
    places = sorted(
        path for path in (folder / "members").glob("*") if _is_trained_member(path)
    )
    found: list[tuple[Trainable, dict[str, Any]]] = [
        (int(path.name), files.read_json(path / "member.json")) for path in places
    ]
    if (folder / REFERENCE / "member.json").exists():
        record = files.read_json(folder / REFERENCE / "member.json")
        found.append((REFERENCE, record))
    return found


def unrecorded(folder: Path) -> list[Trainable]:
    """Models whose record does not describe all of their training.

    These are models that version 0.1 trained, or began to train.
    """
    return [which for which, record in records(folder) if is_unrecorded(record)]


def is_unrecorded(record: Mapping[str, Any]) -> bool:
    """Whether a record does not describe all of the training."""
    return "trained_for" not in record or bool(record.get("unrecorded_steps"))


def _is_trained_member(path: Path) -> bool:
    return path.name.isdigit() and (path / "member.json").exists()
