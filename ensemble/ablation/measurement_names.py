"""Which measurements are meant by their names, and those that are made for a run.

The table at the bottom has those that take an argument; a line there makes one known
everywhere. What `similarity` and `logit` read depends on training images too, but the
pictures that they read stay exactly what they were.
"""

import dataclasses
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ensemble.ablation import measurements
from ensemble.ablation.measurements import MEASUREMENTS, Images, Measurement
from ensemble.data import decoding
from ensemble.provenance.plans import Plan
from ensemble.run import files
from ensemble.run.config import DataConfig
from splits.errors import BadInput


def chosen_measurements(
    names: Sequence[str] | None, plan: Plan
) -> dict[str, Measurement]:
    """Measurements by name; all that need no argument if None.

    A name is one of `MEASUREMENTS`; or one of `WITH_ARGUMENT`, a colon and what it
    asks for; or MODULE:FUNCTION, a function (images) -> values of the user's own.

    Args:
        names: Their names.
        plan: The run's sources and labels.

    Raises:
        BadInput: If one is unknown, or does not fit the run.
    """
    if names is None:
        return dict(MEASUREMENTS)
    return {name: _named(name, plan) for name in names}


def _named(name: str, plan: Plan) -> Measurement:
    if name in MEASUREMENTS:
        return MEASUREMENTS[name]
    kind, colon, argument = name.partition(":")
    if not colon or not argument:
        known = [*MEASUREMENTS, *(f"{one}:..." for one in WITH_ARGUMENT)]
        raise BadInput(
            f"There is no measurement {name!r}; known: {', '.join(known)}, and "
            "MODULE:FUNCTION for a function (images) -> values of your own."
        )
    if kind in WITH_ARGUMENT:
        return WITH_ARGUMENT[kind](argument, plan)
    return Measurement(
        f"what {name} reads off the picture",
        of_pictures=_imported(name, one_value=True),
        identity=_source_digest(name),
    )


def _similarity_to(argument: str, plan: Plan) -> Measurement:
    """Similarity to the nearest image of a source, or to the image in a file."""
    in_a_file, known = os.path.isfile(argument), plan.called.knows(argument)
    if in_a_file and known:
        raise BadInput(
            f"similarity:{argument} is a source, and also a file that is there. Write "
            f"similarity:./{argument} for the file, or similarity:number: and "
            "the source's number."
        )
    if in_a_file:
        return measurements.similarity(_pictured(Path(argument), plan)[None], argument)
    if not known and Path(argument).suffix:
        raise BadInput(
            f"similarity:{argument} names no image: there is no such file, and no source "
            "is called so. Give a PNG, JPEG or WebP file, or a source's number or name. "
            f"{plan.called.advice(argument)}"
        )
    sources = plan.called.chosen(argument, "similarity")
    images = torch.tensor(plan.data.images[np.isin(plan.source_of, sources)])
    return measurements.similarity(images, plan.called.these(sources))


def _pictured(path: Path, plan: Plan) -> Float[Tensor, "channels height width"]:
    """The image in a file, cut and scaled to the size of the run's."""
    n_channels, side, _ = plan.data.images.shape[1:]
    wanted = DataConfig(size=side, channels=n_channels)
    return torch.from_numpy(decoding.decode(path.read_bytes(), str(path), wanted))


def _log_odds_of(argument: str, plan: Plan) -> Measurement:
    """Log-odds of a label by a classifier fitted to the run's own images.

    A logistic regression on pixels, by a solver without randomness. It saw all images,
    so the reading depends on them all; the pictures it reads do not.
    """
    names, labels = plan.data.label_names, plan.data.labels
    if labels is None or len(names) < 2:
        raise BadInput(
            f"The training images have {len(names)} labels: log-odds need two. Set "
            "data.label to a column that has more."
        )
    if argument not in names:
        raise BadInput(
            f"There is no label {argument!r}; this run has {', '.join(names)}."
        )
    from sklearn.linear_model import LogisticRegression

    there = ~np.isin(plan.source_of, plan.removed)
    known = np.unique(labels[there]).tolist()
    if names.index(argument) not in known or len(known) < 2:
        raise BadInput(
            f"Of the labels, images have only "
            f"{', '.join(names[label] for label in known)}: log-odds of {argument!r} "
            "need an image of it and one of another. Choose another label."
        )
    flat = np.asarray(plan.data.images).reshape(len(labels), -1)
    fitted = LogisticRegression(max_iter=1000).fit(flat[there], labels[there])
    weights, offsets = fitted.coef_, fitted.intercept_
    if len(known) == 2:  # scikit-learn keeps the second label's against the first
        weights = np.concatenate([np.zeros_like(weights), weights])
        offsets = np.concatenate([np.zeros_like(offsets), offsets])
    return Measurement(
        f"log-odds of label {argument}, by a logistic regression on the pixels of the "
        "training images",
        of_pictures=measurements.log_odds(
            torch.from_numpy(weights),
            torch.from_numpy(offsets),
            known.index(names.index(argument)),
        ),
    )


def _features_by(argument: str, plan: Plan) -> Measurement:
    """Likeness in the space of a user's features."""
    del plan
    features = _imported(argument, one_value=False)
    identity = _source_digest(argument)
    return dataclasses.replace(
        measurements.feature_likeness(features), identity=identity
    )


def _source_digest(name: str) -> str:
    """The sha256 of the module that a user's function is from, if it is a text."""
    module, _, _ = name.partition(":")
    path = getattr(importlib.import_module(module), "__file__", None)
    return files.sha256(Path(path)) if path else ""


def _imported(name: str, one_value: bool) -> Callable[[Images], Any]:
    """A user's function of images, whose every answer is checked for its shape."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function or "", None)
    except ImportError as error:
        raise BadInput(
            f"{name!r} cannot be imported ({error}). Write MODULE:FUNCTION, with the "
            "module's folder on PYTHONPATH."
        ) from None
    if not callable(found):
        raise BadInput(
            f"Module {module!r} has no function {function!r}. Write MODULE:FUNCTION."
        )

    def measured(images: Images) -> Any:
        values = found(images)
        shape = tuple(values.shape) if torch.is_tensor(values) else ()
        if shape[:1] != (len(images),) or one_value != (len(shape) == 1):
            wanted = "one value" if one_value else "a row of features"
            raise BadInput(
                f"{name} gives {type(values).__name__} {shape} for {len(images)} "
                f"images; a tensor with {wanted} for each image is wanted."
            )
        return values

    return measured


# Named like similarity:17 and made for the run: (what follows the colon, plan).
WITH_ARGUMENT: dict[str, Callable[[str, Plan], Measurement]] = {
    "similarity": _similarity_to,  # a source's number, or an image file
    "logit": _log_odds_of,  # a label
    "features": _features_by,  # MODULE:FUNCTION, (images) -> (images, features)
}
