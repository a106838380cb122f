"""Loading: what a pipeline folder holds, checked against the record of its run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ensemble.models.ensemble_model import EnsembleModel
from ensemble.run import voters
from ensemble.run.files import check_file, read_json
from ensemble.run.folder import PIPELINE, codes_of, read_codes
from ensemble.run.voters import Membership
from splits.codes import CodeBook
from splits.errors import BadInput


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run folder; None if a pipeline was saved there by itself."""
    path = folder / "manifest.json"
    in_a_run = path.exists() or (folder / "config.yaml").exists()
    return read_json(path) if in_a_run else None


def check_pipeline(folder: Path, manifest: dict[str, Any]) -> None:
    """Compare what says how to sample with the manifest of its run.

    Raises:
        BadInput: If a file is missing or damaged, or the manifest does not know them.
    """
    files = manifest["stages"].get("train", {}).get("files", {})
    unknown = set(PIPELINE) - set(files)
    if unknown:
        raise BadInput(
            f"{folder / min(unknown)} is on no record, so nobody can tell whether it is "
            "what training wrote: the process that finished the run was killed before "
            "it was done. Let it be written anew: python train.py "
            f"{folder / 'config.yaml'}."
        )
    for name, expected in files.items():
        check_file(folder / name, expected)


def members_of_run(
    folder: Path,
    members: Sequence[int] | None,
    given: Membership | None,
    load: Callable[..., EnsembleModel],
) -> tuple[EnsembleModel, Membership]:
    """Members of a run folder, and the membership that their weights belong to.

    A removal or a repair may come while weights are read: then they are read again.

    Args:
        folder: The run folder.
        members: Which to load; None: all that may vote.
        given: The membership that the caller works by; None: as it is now.
        load: Loads `members` of a `membership`.

    Raises:
        BadInput: If a member cannot be loaded, or the caller's membership is over.
    """
    while True:
        known = given or Membership.read(folder)
        # A member whose folder is lost must not fall silent.
        chosen = known.members if members is None else members
        model = None
        try:
            model = load(members=chosen, membership=known)
        except BadInput:
            # A repair may just have been at the member's files.
            if _is_current(folder, known):
                raise
        if model is not None and _is_current(folder, known):
            return model, known.only(model.member_ids)
        if given is not None:
            raise voters.membership_changed_error(folder)


def _is_current(folder: Path, known: Membership) -> bool:
    return Membership.read(folder).digest() == known.digest()


def codes_of_members(folder: Path, membership: Membership | None) -> CodeBook | None:
    """The columns of all members, also of those that are not loaded."""
    if membership is not None:
        bits = codes_of(folder).bits
        return CodeBook(voters.remaining_bits(bits, membership.removed))
    path = folder / "codes.npy"
    return read_codes(path) if path.exists() else None
