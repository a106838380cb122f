"""The plan of a run: training images, their sources and the code book.

All of it follows from the config alone. It is drawn once, written to the run folder,
and from then on read back and checked against what the manifest says.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from ensemble.data import (
    datasets,
    masking,
    near_duplicates,
)
from ensemble.data.datasets import TrainingImages
from ensemble.provenance import extension
from ensemble.run import (
    files,
    folder,
    locations,
    manifest,
    removal_log,
    voters,
)
from ensemble.run.config import (
    Config,
    DataConfig,
)
from ensemble.run.folder import Run
from ensemble.run.voters import Membership
from ensemble.system import locks
from splits import (
    duplicates,
    growth,
    guarantees,
    owners,
    sources,
    spelling,
)
from splits.codes import CodeBook
from splits.designs import registry
from splits.errors import BadInput
from splits.naming import SourceNames
from splits.owners import OwnerSets


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run is made from.

    Attributes:
        data: The training images.
        source_of: The source of each training image.
        source_names: One per source, in the order of the code book's rows.
        codes: Who trains on what.
        owners: The sources that each owner has a part in, by name; empty unless images
            can have several owners.
        removed: Sources that were removed after the run began. Their images are blank,
            and nobody trains on them.
        members: The member of each column of the code book, where not all may vote;
            empty: all of them, in order.
    """

    data: TrainingImages
    source_of: Int[np.ndarray, " images"]
    source_names: list[str]
    codes: CodeBook
    owners: dict[str, list[int]] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)
    members: list[int] = field(default_factory=list)

    @property
    def called(self) -> SourceNames:
        """What the sources are called, and who owns them."""
        return SourceNames(self.codes.n_sources, self.source_names, self.owners)

    def seen_by(self, members: Sequence[int]) -> Bool[np.ndarray, "sources chosen"]:
        """Which sources each of these members trains on."""
        numbers = self.members or list(range(self.codes.n_members))
        return self.codes.bits[:, [numbers.index(member) for member in members]]


@dataclass(frozen=True, eq=False)
class Grouping:
    """Which images are one source, before anybody has a code.

    Attributes:
        source_of: The source of each training image.
        names: One per source.
        sets: Who has a part in which source, if images can have several owners.
        pairs: Images that are nearly the same, if those are one source: up to twice the
            threshold apart, the closest first.
        distances: How far apart they are.
    """

    source_of: Int[np.ndarray, " images"]
    names: list[str]
    sets: OwnerSets | None = None
    pairs: Int64[np.ndarray, "pairs two"] | None = None
    distances: Float32[np.ndarray, " pairs"] | None = None

    @property
    def n_coded(self) -> int:
        """How many codes are drawn: one for each owner, or for each source."""
        return len(self.sets.owner_names if self.sets else self.names)


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


def grouped(config: DataConfig, data: TrainingImages) -> Grouping:
    """Which images are one source.

    Raises:
        BadInput: If the data do not have what the config groups them by.
    """
    if config.source == sources.NEAR_DUPLICATES:
        return _clustered(config, data)
    if config.separator:
        values = sources.values_of(config.source, len(data.images), data.columns)
        sets = owners.owner_sets(values, config.separator, config.source)
        spelling.require_one(sets.owner_names, config.source)
        return Grouping(sets.source_of, sets.source_names, sets)
    source_of, names = sources.assign(config.source, data.names, data.columns)
    if config.source != sources.IMAGE:
        spelling.require_one(names, config.source)
    return Grouping(source_of, names)


def _clustered(config: DataConfig, data: TrainingImages) -> Grouping:
    """A cluster is called after the first of its images."""
    pairs, distances = duplicates.near_pairs(data.pictures(), 2 * config.near)
    near = pairs[distances <= config.near]
    first = duplicates.clusters(len(data.images), near)
    names = [data.names[image] for image in first]
    source_of, names = sources.by_column(names, config.source)
    return Grouping(source_of, names, None, pairs, distances)


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
    codes = owners.intersected(codes, sets.owned)
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
    return owners.intersected(codes, owned)


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
    before, gone = checked(run), removal_log.removed(run.path)
    without = list(extension.removed(run).values())
    data = extension.joined(config, before.data, without)
    kept = np.delete(np.arange(len(before.source_names)), gone)
    old = [before.source_names[source] for source in kept]
    stays = ~np.isin(before.source_of, gone)
    grouping = grouped(config.data, data)
    source_of, names = extension.numbered(old, grouping.names, grouping.source_of)
    if config.splits.n_members > before.codes.n_members:
        extension.require_new(source_of[stays.sum() :], names, len(old))
    codes = growth.extended(
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
        with locks.alone(run.path / "plan"):
            # Somebody else may have been first.
            if not run.manifest.exists():
                if run.members.exists():
                    # What it said of removals cannot be guessed.
                    raise files.missing(run.manifest)
                return _written(run)
    plan = checked(run)
    return without(plan, plan.removed)


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
            **facts(plan),
            **reading(plan.data),
            "promises": guarantees.promises(plan.codes),
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
    with files.replacing(run.path / "near_duplicates.png") as partial:
        partial.write_bytes(picture)


def load(run: Run, membership: Membership | None = None) -> Plan:
    """The plan of those who may vote, checked against the manifest.

    Members that saw removed sources have no column in its code book, as long as they
    have not been trained again without.

    Args:
        run: The run folder.
        membership: Who may vote, as the caller has read it; None: as it is now.

    Raises:
        BadInput: If the data or a file of the plan is not what the run was made with,
            nobody may vote, or sources were removed since the membership was read.
    """
    plan = checked(run)
    known = membership or Membership.read(run.path)
    if tuple(plan.removed) != known.removed:
        # Images were left blank that this membership still knows.
        if membership is not None:
            raise voters.changed(run.path)
        return load(run)
    if not known.removed:
        return plan
    return dataclasses.replace(
        plan,
        codes=known.codes,
        removed=list(known.removed),
        members=list(known.members),
    )


def require_codes_of(run: Run, plan: Plan, membership: Membership) -> None:
    """Refuse a plan and members that belong to different moments.

    Raises:
        BadInput: If a removal or a repair came between reading the one and the other.
    """
    if plan.codes.digest() != membership.codes.digest():
        raise voters.changed(run.path)


def checked(run: Run) -> Plan:
    """The plan as it was drawn, checked against the manifest.

    Raises:
        BadInput: If the data or a file of the plan is not what the run was made with.
    """
    plan = read(run)
    changed = changes(run, plan)
    if changed:
        name, (wanted, found) = next(iter(changed.items()))
        raise files.changed(run.path, name, wanted, found)
    return plan


def changes(
    run: Run, plan: Plan
) -> dict[str, tuple[str | int | None, str | int | None]]:
    """Facts in which a plan differs from what the run was made with, both by name."""
    wanted = files.read_json(run.manifest)
    for request in removal_log.requests(run.path):
        # A request that came since the images were read left none of them blank.
        if set(request.sources) <= set(plan.removed):
            wanted["data_fingerprint"] = request.data_fingerprint
    return {
        name: (wanted.get(name), found)
        for name, found in facts(plan).items()
        if wanted.get(name) != found
    }


def read(run: Run) -> Plan:
    """The plan as it was drawn and as it stands, unchecked; removed images are blank.

    Raises:
        BadInput: If a file is missing or unreadable.
    """
    named = files.read_json(run.path / "sources.json")
    data = extension.images(run)
    source_of = files.read_array(run.source_of)
    if source_of.dtype.kind != "i" or source_of.ndim != 1:
        raise BadInput(
            f"{run.source_of} is damaged: it holds {source_of.dtype}, {source_of.ndim} "
            "dimensions, not the number of each image's source. Restore it from a copy, "
            "or start another run."
        )
    asked = removal_log.requests(run.path)
    for request in asked[-1:]:
        gone = {int(image): name for image, name in request.images.items()}
        n_images = files.read_json(run.manifest)["n_images"]
        data = masking.mask_images(data, gone, n_images, request.label_names)
    # Version 0.1 recorded the numbers of images where each is a source of its own.
    by_image = run.config.data.source == sources.IMAGE
    return Plan(
        data=data,
        source_of=source_of,
        source_names=list(data.names) if by_image else named["names"],
        codes=folder.read_codes(run.codes),
        owners=named.get("owners", {}),
        # Those whose images are blank here: more may be asked for at any moment.
        removed=removal_log.of_requests(asked),
    )


def source_names(run: Run) -> SourceNames:
    """What the sources of a run are called; images are looked at only if need be.

    Raises:
        BadInput: If a file of the plan is missing or damaged.
    """
    named, codes = files.read_json(run.path / "sources.json"), folder.codes_of(run.path)
    if named["names"] == [str(number) for number in range(codes.n_sources)]:
        # So runs of version 0.1 call images that are sources of their own.
        return read(run).called
    return SourceNames(codes.n_sources, named["names"], named.get("owners", {}))


def without(plan: Plan, removed: list[int]) -> Plan:
    """The plan for training all members without the removed sources."""
    codes = CodeBook(voters.kept(plan.codes.bits, removed))
    return dataclasses.replace(plan, codes=codes, removed=removed)


def facts(plan: Plan) -> dict[str, str | int]:
    """Digests and counts by which a plan is known."""
    return {
        "data_fingerprint": plan.data.fingerprint(),
        "source_of_digest": files.array_digest(plan.source_of),
        "code_book_digest": plan.codes.digest(),
        "n_images": len(plan.data.images),
        "n_sources": plan.codes.n_sources,
        "n_members": plan.codes.n_members,
    }
