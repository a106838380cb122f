"""Options of an evaluation: how much is retrained, measured and compared."""

import math
from dataclasses import dataclass
from typing import Any

from splits.errors import BadInput

# Options that count things, and the least that makes sense of each.
LEAST = {
    "n_subsets": 8,
    "n_seeds": 1,
    "steps": 1,
    "n_draws": 1,
    "n_queries": 1,
    "n_random": 1,
    "n_images": 16,
}

MEASURES = ("loss", "displacement")

# Flags of the command line, and the evaluations that look at them.
TRAINED = ("lds", "deletion", "quality")
LOOKED_AT = {
    "method": ("lds", "deletion", "far"),
    "measure": ("lds",),
    "subsets": ("lds",),
    "seeds": TRAINED,
    "steps": TRAINED,
    "draws": TRAINED,
    "queries": ("deletion",),
    "random": ("deletion", "far"),
    "images": ("quality",),
    "top": ("deletion",),
    "damping": ("lds",),
}


@dataclass(frozen=True)
class Options:
    """What an evaluation may spend, and on what.

    Attributes:
        name: The queries.
        methods: Only these; None: every method that is found.
        measure: What subset models are asked for, and predictors are to tell: `loss`, at
            the query; or `displacement`, from the query to the picture that such a
            model makes of the same noise.
        n_subsets: Subsets of the sources on each of which models are trained.
        n_seeds: Training seeds of everything that is trained.
        steps: Optimiser steps of what is trained; None: as many as the members'.
        n_draws: (timestep, noise) pairs at which a loss is measured.
        dampings: Score methods that have a damping again with each of these.
        top: How many of a method's top sources are removed together.
        n_queries: Queries whose sources are removed.
        n_random: Random removals beside each.
        n_images: Pictures by which quality is judged.

    Raises:
        BadInput: If a number is too small.
    """

    name: str = "demo"
    methods: tuple[str, ...] | None = None
    measure: str = "loss"
    n_subsets: int = 64
    n_seeds: int = 3
    steps: int | None = None
    n_draws: int = 128
    dampings: tuple[float, ...] = ()
    top: tuple[int, ...] = (1, 4)
    n_queries: int = 4
    n_random: int = 5
    n_images: int = 512

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise BadInput(
                f"--measure is {self.measure!r}; allowed: {', '.join(MEASURES)}."
            )
        for option, least in LEAST.items():
            value = getattr(self, option)
            if value is not None and value < least:
                flag = option.removeprefix("n_")
                raise BadInput(f"--{flag} is {value}; it must be at least {least}.")
        if not self.top or min(self.top) < 1:
            raise BadInput(
                f"--top is {','.join(map(str, self.top)) or 'empty'}: numbers of "
                "sources from 1 up are wanted, such as 1,4."
            )
        for damping in self.dampings:
            if not 0 < damping < math.inf:
                raise BadInput(f"--damping has {damping}; all must be numbers above 0.")


def from_flags(flags: dict[str, Any]) -> Options:
    """Options from the command line; a flag that is None keeps its default.

    Raises:
        BadInput: If one is out of range, the evaluation that is asked for (`what`) does
            not look at it, or a list holds what is no number.
    """
    for flag, whose in LOOKED_AT.items():
        if flags.get(flag) is not None and flags["what"] not in whose:
            raise BadInput(
                f"--{flag} is for --what {' or '.join(whose)}; {flags['what']} does not "
                "look at it. Leave it out."
            )
    texts = {"dampings": ("damping", float), "top": ("top", int)}
    chosen: dict[str, Any] = {"name": flags["name"]}
    if flags.get("method"):
        chosen["methods"] = tuple(flags["method"].split(","))
    chosen["measure"] = flags.get("measure")
    for option in LEAST:
        chosen[option] = flags.get(option.removeprefix("n_"))
    for option, (flag, kind) in texts.items():
        if flags.get(flag):
            chosen[option] = _listed(f"--{flag}", flags[flag], kind)
    given = {option: value for option, value in chosen.items() if value is not None}
    return Options(**given)


def _listed(flag: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise BadInput(
            f"{flag} is {text!r}: numbers with commas between them are wanted."
        ) from None
