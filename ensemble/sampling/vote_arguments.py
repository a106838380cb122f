"""Whose predictions count for each image, as a call of the pipeline says it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ensemble.sampling.arguments import shown
from splits.codes import CodeBook, ablated_votes
from splits.entries import is_one, members_of
from splits.errors import BadInput
from splits.naming import SourceNames


def require_one(votes: Any, ablate: Any, allowed: Any) -> None:
    """Refuse several answers to the question who votes.

    Raises:
        BadInput: If more than one of the arguments is given.
    """
    if sum(one is not None for one in (votes, ablate, allowed)) > 1:
        raise BadInput(
            "Give only one of votes, ablate and allowed: each decides who counts."
        )


def checked_votes(
    votes: Any, n_images: int, n_members: int
) -> Float[np.ndarray, "images members"]:
    """Votes of every image, one row each.

    Raises:
        BadInput: If their shape is wrong, one is negative or not finite, or a row does
            not sum to one.
    """
    if isinstance(votes, Tensor):
        votes = votes.detach().cpu()
        # numpy knows no bfloat16.
        votes = votes.double().numpy() if votes.is_floating_point() else votes.numpy()
    try:
        rows = np.asarray(votes)
    except (ValueError, TypeError):
        rows = np.empty(0, dtype=object)
    if rows.dtype.kind not in "fiu":
        raise BadInput(
            f"votes is {shown(votes)}; allowed: numbers of shape ({n_members},) or "
            f"({n_images}, {n_members}), one for each loaded member. Give numbers."
        )
    rows = rows.astype(np.float64)
    if rows.ndim == 1:
        rows = np.tile(rows, (n_images, 1))
    if rows.shape != (n_images, n_members):
        raise BadInput(
            f"votes have shape {np.shape(votes)}; allowed: ({n_members},) or "
            f"({n_images}, {n_members}), one for each loaded member."
        )
    if not np.isfinite(rows).all() or (rows < 0).any():
        raise BadInput(
            "votes must be finite and non-negative. Mend those that are not."
        )
    sums = rows.sum(axis=1)
    if not np.allclose(sums, 1, atol=1e-6):
        raise BadInput(
            f"votes must sum to one for every image; they sum to {sums.min():.4g} to "
            f"{sums.max():.4g}. Divide them by their sum."
        )
    return rows


def ablated_sources(ablate: Any, called: SourceNames, n_images: int) -> list[list[int]]:
    """The sources that are removed from each image.

    Args:
        ablate: A number or a name, a collection of these for all images, or a list of
            one such collection for each image.
        called: What the sources are called.
        n_images: How many images there are.

    Raises:
        BadInput: If it is anything else, there are not as many collections as images,
            or something in them is no source.
    """
    entries = None if is_one(ablate) else members_of(ablate)
    nested = [members_of(one) is not None for one in entries or []]
    if not any(nested):
        return [called.chosen(ablate, "ablate")] * n_images
    assert entries is not None
    if not all(nested):
        raise BadInput(
            f"ablate is {shown(ablate)}, which has single sources beside lists. Give one "
            "list of sources for all images, or one list for each image."
        )
    if len(entries) != n_images:
        raise BadInput(
            f"ablate has {len(entries)} lists for {n_images} images: give one list "
            "for all, or one per image."
        )
    return [called.chosen(one, "ablate") for one in entries]


def loaded_codes(codes: CodeBook | None, member_ids: Sequence[int]) -> CodeBook:
    """The code book's columns of the members that are loaded, in their order.

    Args:
        codes: The pipeline's code book; None if it has none.
        member_ids: The loaded members' columns in it.

    Raises:
        BadInput: If there is no code book, or it lacks a column.
    """
    if codes is None:
        raise BadInput(
            "This pipeline has no code book, so it cannot know who saw a source. "
            "Load it from a run folder, or set pipe.codes."
        )
    unknown = set(member_ids) - set(range(codes.n_members))
    if unknown:
        raise BadInput(
            f"pipe.codes has columns for members 0 to {codes.n_members - 1}, "
            f"but member {min(unknown)} is loaded. Set it to the code book of these "
            "members."
        )
    return CodeBook(codes.bits[:, member_ids])


def votes_without(
    ablate: Any, loaded: CodeBook, called: SourceNames, n_images: int
) -> Float[np.ndarray, "images members"]:
    """Votes of every image without the sources that are removed from it, one row each.

    Args:
        ablate: As in `ablated_sources`.
        loaded: The codes of the members that are loaded.
        called: What the sources are called.
        n_images: How many images there are.

    Raises:
        BadInput: If something in it is no source, or an image would have no member.
    """
    lists = ablated_sources(ablate, called, n_images)
    for sources in lists:
        if loaded.bits[sources].any(axis=0).all():
            raise BadInput(
                f"None of the {loaded.n_members} members is left to vote without "
                f"{called.these(sources)}: each has seen some of that. Ablate fewer, "
                "load more members, or train with codes of fewer set bits."
            )
    return np.stack([ablated_votes(loaded, sources) for sources in lists])
