"""The table of designs, and how a code book is drawn by one of them.

A design decides which members train on which sources before anything is trained, from
the numbers of sources and members and a seed alone, never from what the data shows.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from splits.codes import CodeBook
from splits.designs import streams
from splits.designs.algebraic import hadamard, reed_solomon
from splits.designs.constant_weight import balanced, pairs_safe, sparse
from splits.designs.dealing import hybrid, leave_one_out, partition, random_subsets
from splits.designs.keyed import named, numbered, rendezvous
from splits.designs.products import product
from splits.errors import BadInput


def draw(
    name: str,
    n_sources: int,
    n_members: int,
    weight: int | None = None,
    seed: int = 0,
    removable: int | None = None,
    survivors: int | None = None,
    salt: str | None = None,
    names: Sequence[str] | None = None,
    owner_of: Int[np.ndarray, " sources"] | None = None,
) -> CodeBook:
    """Draw a code book; the same arguments give the same book everywhere.

    Args:
        name: A design in `DESIGNS`.
        n_sources: How many codes to draw.
        n_members: How many bits a code has.
        weight: How many members train on each source.
        seed: Names the draw, 0 or more.
        removable: How many sources may be ablated at once, whichever they are.
        survivors: How many members must be left then.
        salt: A secret that takes the place of the seed; None is no secret.
        names: What the sources are called, for ever; None is their numbers.
        owner_of: Whose each source is, 0 to n_owners - 1.

    `weight`, `removable`, `survivors` and `salt` are for the designs that say so in
    `DESIGNS`; None is the design's own choice.

    Raises:
        BadInput: If there is no such design, it has no use for an option that is given,
            or it cannot keep its promise for these numbers.

    Examples:
        >>> codes = draw("balanced", n_sources=6, n_members=4)
        >>> codes.bits.sum(axis=1).tolist()
        [2, 2, 2, 2, 2, 2]
        >>> codes.digest() == draw("balanced", 6, 4).digest()
        True
    """
    if name not in DESIGNS:
        raise _unknown(name)
    if n_sources < 1 or n_members < 1:
        raise BadInput(
            f"{n_sources} sources and {n_members} members make no code book: at least "
            "one of each is needed."
        )
    design = DESIGNS[name]
    given = _given(
        name,
        {"weight": weight, "removable": removable, "survivors": survivors},
        salt,
    )
    if owner_of is not None and "owner_of" not in design.facts:
        raise BadInput(
            f"data.owner has no effect on the design {name!r}. Leave it out, or use "
            "the design 'product'."
        )
    if names is None:
        names = [str(source) for source in range(n_sources)]
    known = {"names": names, "owner_of": owner_of}
    facts = {fact: known[fact] for fact in design.facts}
    return design.draw(
        n_sources, n_members, streams.generator(seed, streams.CODES), **given, **facts
    )


def _given(
    name: str, options: dict[str, int | None], salt: str | None
) -> dict[str, int | str]:
    """The options of a design that were given, each with an effect on it.

    Raises:
        BadInput: If one is below 1, or has no effect.
    """
    given: dict[str, int | str] = {}
    for option, value in options.items():
        if value is None:
            continue
        if value < 1:
            raise BadInput(f"splits.{option} is {value}; it must be at least 1.")
        given[option] = value
    given |= {} if salt is None else {"salt": salt}
    for option in given:
        if option not in DESIGNS[name].options:
            raise BadInput(
                f"splits.{option} has no effect on the design {name!r}. Leave it out."
            )
    return given


def _unknown(name: str) -> BadInput:
    near = difflib.get_close_matches(name, DESIGNS, n=1)
    advice = f" Did you mean {near[0]!r}?" if near else ""
    return BadInput(
        f"splits.design is {name!r}; allowed: {', '.join(DESIGNS)}.{advice}"
    )


@dataclass(frozen=True)
class Design:
    """A way to draw a code book.

    Attributes:
        draw: (n_sources, n_members, rng, **options) -> CodeBook.
        options: Those of `draw`'s options that have an effect.
        facts: What else it must know about the sources: `names`, `owner_of`.
    """

    draw: Callable[..., CodeBook]
    options: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


DESIGNS = {
    "balanced": Design(balanced, ("weight",)),
    "sparse": Design(sparse, ("removable", "survivors")),
    "pairs_safe": Design(pairs_safe),
    "leave_one_out": Design(leave_one_out),
    "partition": Design(partition),
    "hybrid": Design(hybrid, ("removable", "survivors")),
    "reed_solomon": Design(reed_solomon),
    "hadamard": Design(hadamard),
    "random_subsets": Design(random_subsets),
    "product": Design(product, ("weight", "removable", "survivors"), ("owner_of",)),
    "numbered": Design(numbered, ("weight", "salt")),
    "named": Design(named, ("weight", "salt"), ("names",)),
    "rendezvous": Design(rendezvous, ("weight", "salt"), ("names",)),
}
