"""Slices: parts of the sources that join a member's training one after the other.

A member's training goes in as many phases of as many steps. In phase k it is shown its
images of slices 1 to k, and nothing of later ones; how far it has come when a phase
ends is kept beside its weights. When a source must go, its repair goes on from the last
of these checkpoints that knows nothing of it. (SISA; Bourtoule et al. 2021,
https://arxiv.org/abs/1912.03817)

A source's slice follows from its name and the training seed alone, so that no other
source can move it. As long as no slice with an image of the member has joined, its
phases are shown the first that has one.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt32
from tqdm.auto import tqdm

from ensemble.data.datasets import TrainingImages
from ensemble.data.loader import Split
from ensemble.provenance.plans import Plan
from ensemble.run import lineage
from ensemble.run.config import Config, TrainingConfig
from ensemble.run.files import array_digest, atomic_file, flush, read_json, sha256
from ensemble.run.folder import CHECKPOINT, SLICE, Trainable
from ensemble.system import seeding
from ensemble.training import checkpoint

LOG = "log.jsonl"
_HASH_BITS = 64
# What a checkpoint must have been trained for, as `lineage.differences` compares it.
Due = Mapping[str, Any]


class Phases:
    """A member's training images, in the order in which it sees them, slice by slice.

    Args:
        images: Indices of the member's training images, ascending.
        slice_of: The slice of each of them, from 1.
        settings: How many slices and steps there are, and the training seed.
        member: Whose split it is.

    Attributes:
        pools: The images of each phase.
        begins: The first step of each phase.
        n_steps: How many there are in all.
        digests: Of all that is shown up to each checkpoint, by its name.
        shown: The images that are shown up to each checkpoint, ascending, by its name.
        ends: The checkpoint that is kept after so many steps, of all phases but the
            last.
    """

    def __init__(
        self,
        images: Int[np.ndarray, " split"],
        slice_of: Int[np.ndarray, " split"],
        settings: TrainingConfig,
        member: Trainable,
    ) -> None:
        n_slices, self.images = settings.slices or 1, images
        joined = [max(k, slice_of.min()) for k in range(1, n_slices + 1)]
        self.pools = [images[slice_of <= last] for last in joined]
        self._splits = [
            Split(pool, seeding.seed_of(settings.seed, "phase", phase), member)
            for phase, pool in enumerate(self.pools, 1)
        ]
        bounds = [settings.steps * k // n_slices for k in range(n_slices + 1)]
        self.begins, self.n_steps = bounds[:-1], settings.steps
        kept = [SLICE.format(phase) for phase in range(1, n_slices)]
        self.ends = dict(zip(bounds[1:-1], kept, strict=True))
        names = [*kept, CHECKPOINT]
        seen = _digests(self.pools, bounds[1:], settings.seed, member)
        self.digests = dict(zip(names, seen, strict=True))
        self.shown = dict(zip(names, self.pools, strict=True))

    def batch(self, step: int, batch_size: int) -> Int[np.ndarray, " batch"]:
        """The images of one step; no batch reaches into the next phase."""
        phase = int(np.searchsorted(self.begins, step, side="right")) - 1
        return self._splits[phase].batch(step - self.begins[phase], batch_size)


Order = Split | Phases


def order(
    images: Int[np.ndarray, " split"],
    slice_of: Int[np.ndarray, " images"] | None,
    settings: TrainingConfig,
    member: Trainable,
) -> Order:
    """The order in which a member sees its images.

    Args:
        images: Indices of the member's training images, ascending.
        slice_of: The slice of every training image; None: there are no slices.
        settings: How it is trained.
        member: Whose split it is.
    """
    if slice_of is None:
        return Split(images, settings.seed, member)
    return Phases(images, slice_of[images], settings, member)


def of_images(config: Config, plan: Plan) -> Int[np.ndarray, " images"] | None:
    """The slice of each training image, from 1; None if the config has no slices."""
    settings = config.training
    if settings.slices is None:
        return None
    slices = of_names(plan.source_names, settings.slices, settings.seed)
    return slices[plan.source_of]


def of_names(
    names: Sequence[str], n_slices: int, seed: int
) -> Int[np.ndarray, " sources"]:
    """The slice of each source, from 1: a hash of its name and the seed decides."""
    hashes = [hashlib.sha256(f"{seed} ".encode() + _bytes(name)) for name in names]
    numbers = [int.from_bytes(one.digest()[: _HASH_BITS // 8]) for one in hashes]
    slices = [1 + (number * n_slices >> _HASH_BITS) for number in numbers]
    return np.array(slices, dtype=np.int64)


def due(
    config: Config,
    member: Trainable,
    data: TrainingImages,
    shown: Mapping[str, Int[np.ndarray, "_"]],
    began: str | None = None,
) -> dict[str, Due]:
    """What each checkpoint of a member must have been trained for, by its name.

    Args:
        config: Of the run.
        member: Whose checkpoints they are.
        data: All training images.
        shown: Numbers of the images that are shown up to each checkpoint.
        began: The sha256 of the weights that the member began from; None: from nothing.
    """
    every = {
        "member": member,
        "options": lineage.options(config),
        "went_on_from": began,
    }
    labelled = config.model.class_conditional
    return {
        name: {**every, "images_digest": data.digest_of(images, labelled)}
        for name, images in shown.items()
    }


def inherit(
    old: Path, new: Path, digests: Mapping[str, str], trained_for: Mapping[str, Due]
) -> None:
    """Leave in a folder in the making what its member's training may go on from.

    Args:
        old: The finished member that is trained again; if it is not there, nothing
            comes from it.
        new: Where it is trained again. Checkpoints of slices that know other images
            than those of the new split, or come after one that is lost, are gone from
            there afterwards.
        digests: Of what may have been seen at each checkpoint, the last one's last.
        trained_for: What each checkpoint must have been trained for, as `due` says.
    """
    *names, _ = digests
    if names and (old / LOG).exists() and not (new / LOG).exists():
        # Its lines are cut back to those of the checkpoint.
        shutil.copyfile(old / LOG, new / LOG)
    whole = True
    for name in names:
        whole = whole and (
            _fits(new / name, digests[name], trained_for[name])
            or _brought(old / name, new, digests[name], trained_for[name])
        )
        if not whole:
            (new / name).unlink(missing_ok=True)


def leads_on(folder: Path, order: Order, name: str, facts: Mapping[str, Any]) -> bool:
    """Whether training may go on from a checkpoint.

    Args:
        folder: The member in the making.
        order: What it is to be shown.
        name: The checkpoint's.
        facts: Those in it.

    Returns:
        Whether it saw what it should, and the checkpoints of all slices before it are
        there.
    """
    if facts.get("split") != order.digests[name]:
        return False
    before = [kept for end, kept in order.ends.items() if end <= facts["step"]]
    return all((folder / kept).exists() for kept in before)


def steps_kept(old: Path, ends: Mapping[int, str]) -> int:
    """Steps that a member in the making has from the finished one that it replaces.

    Args:
        old: The finished member; the one in the making is beside it.
        ends: The names of their checkpoints by steps.
    """
    if not (old / "member.json").exists():
        return 0
    files, new = read_json(old / "member.json")["files"], old.with_suffix(".part")
    same = [
        step
        for step, name in ends.items()
        if (new / name).exists() and sha256(new / name) == files.get(name)
    ]
    return max(same, default=0)


def violations(
    folder: Path,
    phases: Phases,
    exposure: UInt32[np.ndarray, " images"],
    batch_size: int,
    trained_for: Mapping[str, Due] | None = None,
) -> Iterator[str]:
    """What contradicts that each phase showed its own images alone, and evenly.

    Args:
        folder: The member's.
        phases: What was due.
        exposure: Times that each training image was shown in all.
        batch_size: Images a step.
        trained_for: What each checkpoint must have been trained for; None: not asked.
    """
    before = np.zeros(len(exposure), dtype=np.int64)
    ends = [*phases.ends, phases.n_steps]
    for phase, (pool, end) in enumerate(zip(phases.pools, ends, strict=True)):
        counts = exposure.astype(np.int64)
        if end in phases.ends:
            path = folder / phases.ends[end]
            kept = checkpoint.read(path) if path.exists() else None
            if kept is None:
                yield f"{path} is missing or damaged"
                return
            counts = kept[0]["exposure"].numpy()
            if (kept[1]["split"], kept[1]["step"]) != (phases.digests[path.name], end):
                yield f"{path} is not of {end} steps on the slices that it stands for"
            if trained_for is not None:
                for one in otherwise(kept[1], trained_for[path.name]):
                    yield f"{path} was not trained for this run: {one}"
        shown, due = counts - before, (end - phases.begins[phase]) * batch_size
        yield from _uneven(shown, pool, due, f"{folder}, phase {phase + 1}")
        before = counts


def describe(settings: TrainingConfig, n_members: int, n_weights: int) -> list[str]:
    """What slices take and save, as lines of a plan; none without slices."""
    if settings.slices is None:
        return []
    n_kept = settings.slices - 1
    # Weights and AdamW's two moments, perhaps the average.
    size = 4 * n_weights * (3 if settings.ema_decay is None else 4)
    share = share_repeated(settings.slices, 1)
    return [
        f"slices        {n_members} x {n_kept} checkpoints of {size / 2**20:.1f} MB = "
        f"{n_members * n_kept * size / 2**20:.1f} MB, kept with the members",
        f"repair        {share:.0%} of the steps of a member that loses one source, on "
        "average",
    ]


def share_repeated(n_slices: int, n_removed: int) -> float:
    """Steps that a repair is expected to repeat, as a share of a member's.

    Each of r removed sources of a member is in one of S slices by chance; the repair
    begins with the phase of the first:

        share = (S + 1 - E[first]) / S,  E[first] = sum over i = 1..S of (i / S)^r

    Args:
        n_slices: S.
        n_removed: r.
    """
    first = sum((i / n_slices) ** n_removed for i in range(1, n_slices + 1))
    return (n_slices + 1 - first) / n_slices


def _digests(
    pools: Sequence[Int[np.ndarray, "_"]],
    ends: Sequence[int],
    seed: int,
    member: Trainable,
) -> Iterator[str]:
    """For each phase, the digest of all that was shown up to its end."""
    seen = hashlib.sha256(f"{seed} {member} ".encode())
    for pool, end in zip(pools, ends, strict=True):
        seen.update(f"{end} {array_digest(pool)} ".encode())
        yield seen.hexdigest()


def _bytes(name: str) -> bytes:
    """A name as bytes; names of files need not be valid Unicode."""
    return name.encode(errors="surrogatepass")


def _fits(path: Path, digest: str, trained_for: Due) -> bool:
    """Whether a checkpoint is there, is whole, and saw just what it should."""
    if not path.exists():
        return False
    kept = checkpoint.read(path)
    if kept is None:
        tqdm.write(f"{path} is damaged; training goes on from before it.")
    if kept is None or kept[1].get("split") != digest:
        return False
    found = otherwise(kept[1], trained_for)
    if found:
        tqdm.write(
            f"{path} was not trained for this run ({'; '.join(found)}); training "
            "goes on from before it."
        )
    return not found


def otherwise(facts: Mapping[str, Any], trained_for: Due) -> list[str]:
    """Where a checkpoint was trained for something else; version 0.1 did not say."""
    recorded = facts.get("trained_for")
    return [] if recorded is None else lineage.differences(recorded, trained_for)


def _brought(path: Path, new: Path, digest: str, trained_for: Due) -> bool:
    """Whether a checkpoint fits; one that does is copied."""
    if not _fits(path, digest, trained_for):
        return False
    with atomic_file(new / path.name) as partial:
        shutil.copyfile(path, partial)
        flush(partial)
    return True


def _uneven(
    shown: Int[np.ndarray, " images"],
    pool: Int[np.ndarray, " pool"],
    due: int,
    where: str,
) -> Iterator[str]:
    """Was each image of a phase shown equally often, and no other at all?"""
    others = shown.copy()
    others[pool] = 0
    for image in np.flatnonzero(others)[:5]:
        yield f"{where}: image {image} was shown, which is of a later slice, or of none"
    own = shown[pool]
    if own.max() - own.min() > 1 or own.sum() != due:
        yield (
            f"{where}: its images were shown {own.min()} to {own.max()} times, "
            f"{own.sum()} in all; {due} were due, the same number for each give or "
            "take one"
        )
