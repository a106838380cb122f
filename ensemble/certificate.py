"""The exactness certificate: what must be true for an ablation to be exact.

(a) surviving members never received the source in any form; (b) nothing upstream was
fitted on it; (c) codes do not depend on the content of other data; (d) noise, prompt
and seeds do not depend on it; (e) members share no trained weights. What can be
checked of this is checked here, against what the run folder holds now.

Before: plan.py, training.py, pipeline.py. After: attribute.py.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt32

from ensemble import extension, silence, slices, store
from ensemble import plan as plans
from ensemble.extension import Start
from ensemble.pipeline import EnsemblePipeline, check_pipeline
from ensemble.plan import Plan
from ensemble.store import REFERENCE, Run, Trainable
from splits import duplicates
from splits.errors import BadInput
from splits.sources import NEAR_DUPLICATES


def violations(run: Run, sources: Sequence[int] = ()) -> list[str]:
    """Everything that contradicts the certificate; nothing if it holds.

    Args:
        run: The run folder.
        sources: Sources that are also ablated, to see which members really run.

    Raises:
        BadInput: If the run has no plan to check against, or a source is unknown.
    """
    plan = plans.read(run)
    found = [
        f"(a, c) {name} of {run.path / store.FILE_OF.get(name, '')}: the run was made "
        f"with {wanted}, found {value}; so says {run.manifest}"
        for name, (wanted, value) in plans.changes(run, plan).items()
    ]
    if found:
        # Against a wrong plan everything else would look wrong too.
        return found
    found += _of_pipeline(run, store.read_json(run.manifest))
    found += _of_earlier(run, plan)
    plan = plans.without(plan, silence.removed(run.path))
    for member in silence.voting(run.path, plan.codes.n_members):
        found += _of_member(run, member, plan)
    found += _shared_weights(run, plan.codes.n_members)
    found += _duplicates(plan)
    if sources and not found:
        found += _of_ablation(run, plan, sources)
    return found


def statement(run: Run) -> str:
    """What has been established, for people."""
    facts = store.read_json(run.manifest)
    plan = plans.without(plans.read(run), silence.removed(run.path))
    apart = (
        [
            f"Not part of the ensemble: {run.reference}, trained on everything to be "
            "scored. It never votes, and no member has its weights."
        ]
        if run.reference.exists()
        else []
    )
    return "\n".join(
        [
            f"The certificate of {run.path} holds for its {facts['n_members']} members "
            f"and {facts['n_sources']} sources.",
            "(a) every member was shown exactly the images that its code says; weights "
            "and counts are those that training wrote; no byte-identical image sits in "
            "two sources with different codes",
            *_slices(run),
            "(b) images are mapped to [-1, 1] by a fixed rule; nothing is fitted",
            "(c) the code book follows from its design, its seed or salt, and the names "
            "or the number of sources",
            *_clusters(run, plan),
            "(d) initial weights, order, timesteps and noise follow from keys alone",
            *_weights(run),
            *apart,
            *_removals(run),
            *_near_duplicates(run, plan),
        ]
    )


def _slices(run: Run) -> Iterator[str]:
    """What has been established of checkpoints of slices."""
    n_slices = run.config.training.slices
    if n_slices:
        yield (
            f"(a) in each of {n_slices} phases every member was shown images of the "
            "slices that had joined, evenly, and no others; so say the checkpoints that "
            "repairs go on from"
        )


def _of_pipeline(run: Run, manifest: dict[str, Any]) -> Iterator[str]:
    try:
        check_pipeline(run.path, manifest)
    except BadInput as error:
        yield f"(d) {error}"


def _weights(run: Run) -> Iterator[str]:
    """Where the members' weights come from."""
    yield "(e) every member has weights of its own, trained from random ones"
    before = extension.earlier(run.config)
    if before is not None:
        yield (
            f"Extends {before.path}, whose certificate holds too: its sources kept "
            "their codes, and its members began from their own weights and no others"
        )


def _of_earlier(run: Run, plan: Plan) -> Iterator[str]:
    """What an extended run took over, and whether that is still as it was."""
    before = extension.earlier(run.config)
    if before is None:
        return
    yield from (f"{before.path}: {found}" for found in violations(before))
    kept = extension.codes_kept(run, before)
    if not np.array_equal(plan.codes.bits[: len(kept), : kept.shape[1]], kept):
        yield f"(c) the codes of {before.path} were changed in {run.codes}"
    # Of those who vote it is asked with everything else about them.
    for member in silence.silenced(run.path):
        yield from _begun(run, member, len(plan.source_of))[1]


def _begun(run: Run, member: int, n_images: int) -> tuple[Start | None, list[str]]:
    """Where a member began, and what contradicts that it did."""
    try:
        start = extension.start_of(run, member, n_images)
        record = store.read_json(run.member(member) / "member.json")
    except BadInput as error:
        return None, [f"(e) member {member}: {error}"]
    began = record.get("went_on_from", record["weights_sha256"])
    if start is None or began == start.weights_sha256:
        return start, []
    return start, [
        f"(e) member {member} began from weights {began}, not from those of "
        f"{start.folder}, {start.weights_sha256}"
    ]


def _removals(run: Run) -> Iterator[str]:
    """What was removed, and who still knows it."""
    for request in silence.requests(run.path):
        yield (
            f"Removed {', '.join(request.names)} (request {request.number} of "
            f"{request.time}: {request.reason}): no member that votes was ever shown an "
            "image of theirs"
        )
    silent = silence.silenced(run.path)
    if silent:
        yield (
            f"Silenced: members {silent}. They saw what was removed, and their weights "
            f"are still on the disk until they are trained again without: "
            f"{silence.repair(run.path)}"
        )


def _of_member(run: Run, member: int, plan: Plan) -> Iterator[str]:
    folder = run.member(member)
    try:
        record = store.check_sealed(folder, "member.json")
        exposure = store.read_array(folder / "exposure.npy")
    except BadInput as error:
        yield f"(a) member {member}: {error}"
        return
    if record["split_digest"] != plan.codes.split_digest(member):
        yield (
            f"(a) member {member} was trained on another split than the code book "
            f"says: {record['split_digest']}, expected "
            f"{plan.codes.split_digest(member)}"
        )
    start, otherwise = _begun(run, member, len(plan.source_of))
    yield from otherwise
    found = [*_exposure(member, exposure, plan)]
    yield from found
    if found or (otherwise and start is None):
        # Phase by phase, or without what was shown before, it would be said again.
        return
    slice_of = slices.of_images(run.config, plan)
    if slice_of is None:
        before = np.zeros_like(exposure)
        if start is not None and start.goes_on:
            before = start.exposure
        yield from _evenness(member, exposure, before, record["images_seen"], plan)
        return
    settings = run.config.training
    images = np.flatnonzero(plan.codes.bits[plan.source_of, member])
    phases = slices.Phases(images, slice_of[images], settings, member)
    for one in slices.violations(folder, phases, exposure, settings.batch_size):
        yield f"(a) member {member}: {one}"


def _exposure(
    member: int, exposure: UInt32[np.ndarray, " images"], plan: Plan
) -> Iterator[str]:
    """Was no image outside the split shown?"""
    allowed = plan.codes.bits[plan.source_of, member]
    if len(exposure) != len(allowed):
        yield (
            f"(a) member {member}: exposure.npy counts {len(exposure)} images, the data "
            f"has {len(allowed)}"
        )
        return
    for image in np.flatnonzero((exposure > 0) & ~allowed)[:5]:
        yield (
            f"(a) member {member} was shown image {image} of source "
            f"{plan.source_of[image]} {exposure[image]} times, against its code"
        )


def _evenness(
    member: int,
    exposure: UInt32[np.ndarray, " images"],
    before: UInt32[np.ndarray, " images"],
    images_seen: int,
    plan: Plan,
) -> Iterator[str]:
    """Was each image of the split shown equally often?

    What an earlier run had shown to the member does not count.
    """
    images_seen -= int(before.sum())
    added = exposure.astype(np.int64) - before
    shown = added[plan.codes.bits[plan.source_of, member]]
    if shown.max() - shown.min() > 1 or shown.sum() != images_seen:
        yield (
            f"(a) member {member}: the images of its split were shown {shown.min()} to "
            f"{shown.max()} times, {shown.sum()} in all; {images_seen} were due, the "
            "same number for each give or take one"
        )


def _shared_weights(run: Run, n_members: int) -> Iterator[str]:
    owner: dict[str, Trainable] = {}
    for member in (REFERENCE, *range(n_members)):
        path = run.trained(member) / store.WEIGHTS
        if not path.exists():
            continue
        first = owner.setdefault(store.sha256(path), member)
        if first == REFERENCE != member:
            yield (
                f"(a) member {member} has the weights of the reference, which was "
                "trained on everything"
            )
        elif first != member:
            yield f"(e) members {first} and {member} have the same weights"


def _duplicates(plan: Plan) -> Iterator[str]:
    """Identical images in sources with different codes: removing one is not enough."""
    first_of: dict[bytes, int] = {}
    for image, pixels in enumerate(plan.data.images):
        key = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()
        first = first_of.setdefault(key, image)
        if first == image:
            continue
        one, other = plan.source_of[first], plan.source_of[image]
        if not np.array_equal(plan.codes.bits[one], plan.codes.bits[other]):
            yield (
                f"(a) images {first} ({plan.data.names[first]}) and {image} "
                f"({plan.data.names[image]}) are identical but belong to sources {one} "
                f"and {other} with different codes: without one, the other stays"
            )


def _clusters(run: Run, plan: Plan) -> Iterator[str]:
    """How far the grouping of images by their looks weakens the certificate."""
    if run.config.data.source != NEAR_DUPLICATES:
        return
    sizes = np.bincount(plan.source_of)
    yield (
        f"(c) holds for whole sources: {sizes[sizes > 1].sum()} of "
        f"{len(plan.source_of)} images share theirs with images that they resemble, "
        f"at most {sizes.max()} together. Whose source one of those is depends on the "
        "others of its cluster, and on no image outside"
    )


def _near_duplicates(run: Run, plan: Plan) -> Iterator[str]:
    """Images that differ in some byte but hardly to the eye, with different codes."""
    near = run.config.data.near
    if len(plan.data.images) > duplicates.MOST_IMAGES:
        yield (
            f"Not checked: near-duplicates among more than {duplicates.MOST_IMAGES:,} "
            "images."
        )
        return
    pairs, distances = duplicates.near_pairs(plan.data.pictures(), near)
    codes = plan.codes.bits[plan.source_of]
    apart = np.flatnonzero((codes[pairs[:, 0]] != codes[pairs[:, 1]]).any(axis=1))
    if not apart.size:
        yield (
            f"(a) no two images at a distance of {near:g} or less sit in sources with "
            "different codes. Not checked: crops and mirror images"
        )
        return
    first, second = pairs[apart[0]]
    yield (
        f"Warning: (a) {apart.size} pairs of images at a distance of {near:g} or less "
        f"sit in sources with different codes, the closest being "
        f"{plan.data.names[first]} and {plan.data.names[second]} "
        f"({distances[apart[0]]:.4f}): without one, the other stays. Make them one "
        "source (data.source: near_duplicates), or remove both"
    )


def _of_ablation(run: Run, plan: Plan, sources: Sequence[int]) -> Iterator[str]:
    """Generate without the sources; do members that saw them run all the same?"""
    pipe = EnsemblePipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    ran = members_that_run(pipe, sources)
    saw = np.flatnonzero(plan.codes.bits[list(sources)].any(axis=0))
    for member in sorted(ran & set(saw.tolist())):
        yield f"(a) member {member} saw a source of {list(sources)}, and still runs"


def members_that_run(pipe: EnsemblePipeline, sources: Sequence[int]) -> set[int]:
    """Numbers of the members whose networks run when the sources are ablated."""
    ran: set[int] = set()
    hooks = [
        network.register_forward_hook(functools.partial(_note, ran, member))
        for member, network in zip(
            pipe.members.member_ids, pipe.members.networks, strict=True
        )
    ]
    label = None if pipe.members.no_label is None else 0
    pipe(seeds=[0], ablate=list(sources), class_labels=label, num_inference_steps=1)
    for hook in hooks:
        hook.remove()
    return ran


def _note(ran: set[int], member: int, *_: object) -> None:
    ran.add(member)
