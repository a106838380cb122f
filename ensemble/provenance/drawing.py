"""Drawing the plan of a run that has none, from its config alone, and writing it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ensemble.data import datasets, near_duplicates
from ensemble.data.datasets import TrainingImages
from ensemble.provenance import extension, plans
from ensemble.provenance.plans import Plan
from ensemble.provenance.source_groups import Grouping, grouped
from ensemble.run import files, locations, manifest, removal_log
from ensemble.run.config import Config, DataConfig
from ensemble.run.folder import Run
from ensemble.system import locks
from splits import growth, guarantees, owners, sources, spelling
from splits.codes import CodeBook
from splits.designs import registry


def draw(config: Config) -> Plan:
    """The plan that a config asks for; nothing is written.

    Raises:
        BadInput: If data, sources or design contradict each other.
    """
    before = extension.earlier(config)
    if before is not None:
        return _extended(config, before)
    return drawn_for(config, datasets.load(config.data))


def drawn_for(config: Config, data: TrainingImages) -> Plan:
    """The plan that a config asks for with these training images.

    Raises:
        BadInput: If data, sources or design contradict each other.
    """
    return _drawn(config, data, grouped(config.data, data))


def _drawn(config: Config, data: TrainingImages, grouping: Grouping) -> Plan:
    if config.model.class_conditional:
        spelling.require_one(data.label_names, config.data.label or "label")
    sets = grouping.sets
    names = sets.owner_names if sets else grouping.names
    codes = _codes(
        config,
        names,
        config.splits.n_members,
        _owner_of(config.data, data, grouping.source_of),
    )
    if sets is None:
        return Plan(data, grouping.source_of, grouping.names, codes)
    codes = owners.intersect(codes, sets.owned)
    return Plan(data, grouping.source_of, grouping.names, codes, sets.sources_of())


def codes_again(config: Config, plan: Plan) -> CodeBook | None:
    """The code book that a config's design draws for the sources of a plan.

    Args:
        config: Of a run that extends no other.
        plan: Its plan; images of removed sources may be blank.

    Returns:
        The code book; None if it takes to know whose each source is, which is not known
        any more of removed ones.

    Raises:
        BadInput: If the design cannot be drawn for so many sources.
    """
    if config.data.owner is not None and plan.removed:
        return None
    names = list(plan.owners) or plan.source_names
    codes = _codes(
        config,
        plan.data.names if config.data.source == sources.IMAGE else names,
        config.splits.n_members,
        _owner_of(config.data, plan.data, plan.source_of),
    )
    if not plan.owners:
        return codes
    owned = np.zeros((len(plan.source_names), len(names)), dtype=bool)
    for owner, theirs in enumerate(plan.owners.values()):
        owned[theirs, owner] = True
    return owners.intersect(codes, owned)


def _codes(
    config: Config,
    names: Sequence[str],
    n_members: int,
    owner_of: Int[np.ndarray, " sources"] | None = None,
) -> CodeBook:
    """A code for each name, by the config's design."""
    splits = config.splits
    return registry.draw(
        splits.design,
        len(names),
        n_members,
        splits.weight,
        splits.seed,
        splits.removable,
        splits.survivors,
        splits.salt,
        names,
        owner_of,
    )


def _extended(config: Config, run: Run) -> Plan:
    """The earlier run's sources, then new ones; codes as they were, then fresh ones."""
    extension.require_extensible(run, config)
    before, gone = plans.checked(run), removal_log.removed(run.path)
    blank = list(extension.removed(run).values())
    data = extension.joined(config, before.data, blank)
    kept = np.delete(np.arange(len(before.source_names)), gone)
    old = [before.source_names[source] for source in kept]
    stays = ~np.isin(before.source_of, gone)
    grouping = grouped(config.data, data)
    source_of, names = extension.numbered(old, grouping.names, grouping.source_of)
    if config.splits.n_members > before.codes.n_members:
        extension.require_new(source_of[stays.sum() :], names, len(old))
    codes = growth.extend(
        before.codes.bits[kept],
        names[: len(old)],
        names[len(old) :],
        config.splits.n_members,
        lambda some, n_members: _codes(config, some, n_members),
    )
    return Plan(data, source_of, names, codes)


def _owner_of(
    config: DataConfig, data: TrainingImages, source_of: Int[np.ndarray, " images"]
) -> Int[np.ndarray, " sources"] | None:
    if config.owner is None:
        return None
    owner_of = sources.owner_of(source_of, config.owner, data.columns)
    spelling.require_one(data.columns[config.owner], config.owner)
    return owner_of


def prepare(run: Run) -> Plan:
    """Draw the plan and write it to the run folder, or read back what is there.

    Returns:
        The plan for training: all members, without the sources that were removed.

    Raises:
        BadInput: If the folder holds another plan, or a damaged one.
    """
    if not run.manifest.exists():
        with locks.exclusive(run.path / "plan"):
            # Somebody else may have been first.
            if not run.manifest.exists():
                if run.members.exists():
                    # What it said of removals cannot be guessed.
                    raise files.missing_error(run.manifest)
                return _written(run)
    plan = plans.checked(run)
    return plans.without(plan, plan.removed)


def _written(run: Run) -> Plan:
    """Draw the plan and write it to the run folder; the manifest comes last."""
    named: dict[str, Any] = {}
    config = locations.of_run(run)
    before = extension.earlier(config)
    if before is None:
        data = datasets.load(config.data)
        grouping = grouped(config.data, data)
        plan = _drawn(config, data, grouping)
        _picture_borderline(run, data, grouping)
    else:
        plan, named = _extended(config, before), extension.facts(before)
    named |= {"names": plan.source_names, "owners": plan.owners}
    files.write_array(run.codes, plan.codes.bits)
    files.write_array(run.source_of, plan.source_of)
    files.write_json(run.path / "sources.json", named)
    manifest.start_manifest(
        run,
        {
            **plans.facts(plan),
            **reading(plan.data),
            "promises": guarantees.count_guarantees(plan.codes),
        },
    )
    return plan


def reading(data: TrainingImages) -> dict[str, Any]:
    """How training images were read, and what lay beside them, for the manifest."""
    return {
        "reading_rules": data.inventory.rules,
        "found": datasets.describe(data),
    }


def _picture_borderline(run: Run, data: TrainingImages, grouping: Grouping) -> None:
    if grouping.pairs is None or grouping.distances is None:
        return
    picture = near_duplicates.draw_threshold_plot(
        data.images, grouping.pairs, grouping.distances, run.config.data.near
    )
    with files.atomic_file(run.path / "near_duplicates.png") as partial:
        partial.write_bytes(picture)
