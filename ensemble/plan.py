"""The plan of a run: training images, their sources and the code book.

All of it follows from the config alone. It is drawn once, written to the run folder,
and from then on read back and checked against what the manifest says.

Before: data.py, splits/designs.py. After: training.py, ablation.py.
"""

from dataclasses import dataclass

import filelock
import numpy as np
from jaxtyping import Int

from ensemble import data as datasets
from ensemble import store
from ensemble.config import Config, DataConfig
from ensemble.data import TrainingImages
from ensemble.store import Run
from splits import designs, guarantees, sources
from splits.codes import CodeBook


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run is made from.

    Attributes:
        data: The training images.
        source_of: The source of each training image.
        source_names: One per source, in the order of the code book's rows.
        codes: Who trains on what.
    """

    data: TrainingImages
    source_of: Int[np.ndarray, " images"]
    source_names: list[str]
    codes: CodeBook


def draw(config: Config) -> Plan:
    """The plan that a config asks for; nothing is written.

    Raises:
        BadInput: If data, sources or design contradict each other.
    """
    data = datasets.load(config.data)
    source_of, names = sources.assign(
        config.data.source, len(data.images), data.columns
    )
    splits = config.splits
    codes = designs.draw(
        splits.design,
        len(names),
        splits.n_members,
        splits.weight,
        splits.seed,
        splits.removable,
        splits.survivors,
        splits.salt,
        data.names if config.data.source == sources.IMAGE else names,
        _owner_of(config.data, data, source_of),
    )
    return Plan(data, source_of, names, codes)


def _owner_of(
    config: DataConfig, data: TrainingImages, source_of: Int[np.ndarray, " images"]
) -> Int[np.ndarray, " sources"] | None:
    if config.owner is None:
        return None
    return sources.owner_of(source_of, config.owner, data.columns)


def prepare(run: Run) -> Plan:
    """Draw the plan and write it to the run folder, or read back what is there.

    Raises:
        BadInput: If the folder holds another plan, or a damaged one.
    """
    with filelock.FileLock(run.path / ".plan.lock"):
        if run.manifest.exists():
            return load(run)
        plan = draw(run.config)
        store.write_array(run.codes, plan.codes.bits)
        store.write_array(run.source_of, plan.source_of)
        store.write_json(run.path / "sources.json", {"names": plan.source_names})
        store.start_manifest(
            run, {**facts(plan), "promises": guarantees.promises(plan.codes)}
        )
        return plan


def load(run: Run) -> Plan:
    """The plan in a run folder, checked against the manifest.

    Raises:
        BadInput: If the data or a file of the plan is not what the run was made with.
    """
    plan = read(run)
    store.check_manifest(run, facts(plan))
    return plan


def read(run: Run) -> Plan:
    """The plan in a run folder as it stands, unchecked.

    Raises:
        BadInput: If a file is missing or unreadable.
    """
    return Plan(
        data=datasets.load(run.config.data),
        source_of=store.read_array(run.source_of),
        source_names=store.read_json(run.path / "sources.json")["names"],
        codes=CodeBook(store.read_array(run.codes)),
    )


def facts(plan: Plan) -> dict[str, str | int]:
    """Digests and counts by which a plan is known."""
    return {
        "data_fingerprint": plan.data.fingerprint(),
        "source_of_digest": store.array_digest(plan.source_of),
        "code_book_digest": plan.codes.digest(),
        "n_images": len(plan.data.images),
        "n_sources": plan.codes.n_sources,
        "n_members": plan.codes.n_members,
    }
