"""The plan of a run: training images, their sources and the code book.

All of it follows from the config alone. It is drawn once and written to the run folder
(drawing.py), and from then on read back and checked against what the manifest says.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from ensemble.data import masking
from ensemble.data.datasets import TrainingImages
from ensemble.provenance import extension
from ensemble.run import files, folder, removal_log, voters
from ensemble.run.folder import Run
from ensemble.run.voters import Membership
from splits import sources
from splits.codes import CodeBook
from splits.errors import BadInput
from splits.naming import SourceNames


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
            raise voters.membership_changed_error(run.path)
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
        raise voters.membership_changed_error(run.path)


def checked(run: Run) -> Plan:
    """The plan as it was drawn, checked against the manifest.

    Raises:
        BadInput: If the data or a file of the plan is not what the run was made with.
    """
    plan = read(run)
    changed = changes(run, plan)
    if changed:
        name, (wanted, found) = next(iter(changed.items()))
        raise files.changed_error(run.path, name, wanted, found)
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
    codes = CodeBook(voters.remaining_bits(plan.codes.bits, removed))
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
