"""The files of scores: where they are, whether they are whole, and what they say.

A score is `scores/NAME/METHOD.npy` (queries, sources) beside `influence/NAME`, with a
sidecar that says what it is: method, options, sign, scale, the model that was scored,
what the method noted, and what it cost. On request the scores at other dampings are kept
beside it, `METHOD.path.npy` (dampings, queries, sources), so that somebody who holds out
some truth can choose one, and the scores of single images, `METHOD.images.npy` (queries,
images). Where a method says how far its scores may be off, standard deviations are there
too, `METHOD.errors.npy` (queries, sources).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ensemble.run import files, table_records
from ensemble.run.folder import Run
from ensemble.scorers.interface import ENSEMBLE
from splits.errors import BadInput


def found(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The sidecar of scores that are there already; None if they are not.

    Raises:
        BadInput: If they are not those asked for.
    """
    sidecar = path.with_suffix(".json")
    if not (path.exists() and sidecar.exists()):
        return None
    _require_same(path, identity)
    return files.read_json(sidecar)


def lacks(kept: dict[str, Any], dampings: Sequence[float], per_image: bool) -> bool:
    """Whether scores that are there lack something that is asked for now."""
    without_images = kept["images_sha256"] is None
    return (per_image and without_images) or not set(dampings) <= set(kept["dampings"])


def check(path: Path, kept: dict[str, Any]) -> None:
    """Compare the files of a score with its sidecar.

    Raises:
        BadInput: If one is missing or damaged.
    """
    digests = {
        path: kept["sha256"],
        path_file(path): kept["path_sha256"],
        images_file(path): kept["images_sha256"],
        errors_file(path): kept.get("errors_sha256"),
    }
    for file, digest in digests.items():
        if digest is not None:
            files.check_file(file, digest, path.with_suffix(".json"))


def load(
    run: Run, name: str, method: str, which: str | int = ENSEMBLE
) -> Float32[np.ndarray, "queries sources"]:
    """The scores of a method, higher = more helpful.

    Raises:
        BadInput: If they are missing or damaged.
    """
    path = score_file(run, name, method, which)
    expected = files.read_json(path.with_suffix(".json"))["sha256"]
    return files.read_array(path, expected)


def load_path(
    run: Run, name: str, method: str, which: str | int = ENSEMBLE
) -> tuple[list[float], Float32[np.ndarray, "dampings queries sources"]]:
    """Dampings, and the scores of a method at each of them.

    Raises:
        BadInput: If they are missing or damaged.
    """
    path = score_file(run, name, method, which)
    kept = files.read_json(path.with_suffix(".json"))
    if not kept["dampings"]:
        raise BadInput(
            f"{path} is there without other dampings. Score again with --dampings."
        )
    return kept["dampings"], files.read_array(path_file(path), kept["path_sha256"])


def load_errors(
    run: Run, name: str, method: str, which: str | int = ENSEMBLE
) -> Float32[np.ndarray, "queries sources"]:
    """The standard deviation of each score of a method that says how sure it is.

    Raises:
        BadInput: If the method does not say, or the file is missing or damaged.
    """
    path = score_file(run, name, method, which)
    kept = files.read_json(path.with_suffix(".json"))
    if "errors_sha256" not in kept:
        raise BadInput(
            f"{path} has no error bars: {kept['method']} does not say how sure it is. "
            "Score with the posterior."
        )
    return files.read_array(errors_file(path), kept["errors_sha256"])


def errors_file(score: Path) -> Path:
    """Where the error bars of a method's scores are kept, beside its scores."""
    return score.with_suffix(".errors.npy")


def path_file(score: Path) -> Path:
    """Where a method's scores at other dampings are kept, beside its scores."""
    return score.with_suffix(".path.npy")


def load_images(
    run: Run, name: str, method: str, which: str | int = ENSEMBLE
) -> Float32[np.ndarray, "queries images"]:
    """The scores of single images by a method; a source's is the sum over its own.

    Raises:
        BadInput: If they are missing or damaged.
    """
    path = score_file(run, name, method, which)
    kept = files.read_json(path.with_suffix(".json"))
    if kept["images_sha256"] is None:
        raise BadInput(
            f"{path} is there without the scores of single images. Score again with "
            "--per-image."
        )
    return files.read_array(images_file(path), kept["images_sha256"])


def images_file(score: Path) -> Path:
    """Where a method's scores of single images are kept, beside those of sources."""
    return score.with_suffix(".images.npy")


def damping_of(options: dict[str, Any]) -> float:
    """The damping among a damped method's options: its own, or its curvature's."""
    return (
        options["damping"] if "damping" in options else options["curvature"]["damping"]
    )


def score_file(run: Run, name: str, method: str, which: str | int) -> Path:
    """Where a method's scores are kept."""
    suffix = "" if which == ENSEMBLE else f"-{which}"
    if str(which).isdecimal():
        suffix = f"-member-{which}"
    return run.scores(name) / f"{method}{suffix}.npy"


def _require_same(path: Path, identity: dict[str, Any]) -> None:
    """Refuse scores that are not those asked for.

    Raises:
        BadInput: If the sidecar says otherwise.
    """
    kept = files.read_json(path.with_suffix(".json"))
    remedy = "Delete it, or use another name."
    table_records.require_same(path, kept, identity, remedy)
