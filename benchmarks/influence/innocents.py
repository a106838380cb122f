"""Do p-values name sources that have no effect, and do they find those that have one?

    python -m benchmarks.influence.innocents [N_BOOKS]

Members are simulated, everything else is the project's own: the draw of the code book,
placebos, and p-values. A member is the sum of what its sources add, each in a random
direction of 64 pixels, plus noise of its own; pictures are linear in the votes. True
sources have an effect of length one, the others none. `noise` is the expected length of
a member's own part; 0 makes ties of everything that has no effect.

For each design, number of members and of sources, number of true sources and noise:

    accused   share of code books in which some source without effect has p <= 0.05
    named     share of the true sources that have p <= 0.05

once by p-values against placebos alone (as in version 0.1), and once as tables hold
them now: beside every other source that may matter. `as_in_0.1` draws balanced codes as
version 0.1 did: the first draw stands, even if some pair can hardly be told apart.
"""

import sys
import time
from typing import Any

import numpy as np

from benchmarks import record
from ensemble.ablation import p_values, placebo
from ensemble.ablation.removal_sets import Units
from splits.codes import CodeBook
from splits.designs import free_codes, placebos, registry

N_PIXELS = 64
NOISES = (0.0, 1.0)
# Design, members, sources.
SETTINGS = [
    *[("as_in_0.1", 16, n) for n in (2, 3, 4, 8, 16)],
    ("as_in_0.1", 32, 4),
    *[("balanced", 16, n) for n in (2, 3, 4, 6, 8, 10, 16)],
    *[("balanced", 32, n) for n in (3, 4, 16)],
    ("balanced", 64, 4),
    ("pairs_safe", 16, 8),
    ("sparse", 16, 8),
    ("hybrid", 16, 8),
    *[("hadamard", 16, n) for n in (4, 8, 15)],
    ("hadamard", 64, 4),
    ("reed_solomon", 15, 10),
    ("partition", 8, 12),
    ("random_subsets", 16, 8),
    ("product", 32, 16),
    ("numbered", 16, 8),
    ("named", 16, 8),
    ("rendezvous", 16, 8),
    ("leave_one_out", 8, 8),
]


def drawn(design: str, n_members: int, n_sources: int, seed: int) -> CodeBook:
    """A code book; `as_in_0.1` is balanced, without drawing again."""
    owners = np.arange(n_sources) // 4 if design == "product" else None
    if design != "as_in_0.1":
        return registry.draw(design, n_sources, n_members, seed=seed, owner_of=owners)
    again, placebos._REDRAWS = placebos._REDRAWS, 0
    try:
        return registry.draw("balanced", n_sources, n_members, seed=seed)
    finally:
        placebos._REDRAWS = again


def simulated(
    book: CodeBook, n_true: int, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which sources are true, and G of one picture."""
    true = rng.permutation(book.n_sources) < n_true
    effects = rng.normal(size=(N_PIXELS, book.n_sources))
    effects /= np.linalg.norm(effects, axis=0)
    own = rng.normal(size=(N_PIXELS, book.n_members)) / np.sqrt(N_PIXELS)
    members = (effects * true) @ book.bits + noise * own
    return true, members.T @ members


def both_p_values(
    book: CodeBook, gram: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """P-values against placebos alone, and beside the other sources."""
    n_sources, bits = book.n_sources, book.bits
    names = [str(source) for source in range(n_sources)]
    units = Units(bits, [[source] for source in range(n_sources)], names, "sources")
    weights = bits.sum(axis=1)
    drawn = free_codes.placebos(book, placebo.enough(n_sources), seed, weights.tolist())
    # Equal but for rounding is equal.
    own, others = (
        np.sqrt(p_values.squared(gram, codes))[None].round(9) for codes in (bits, drawn)
    )
    alone = placebo.p_values(own, others, weights, drawn.sum(axis=1))
    among = p_values.others(units, book, names)
    return alone[0], p_values.p_values(alone, gram[None], among, seed)[0][0]


def measured(
    design: str, n_members: int, n_sources: int, n_true: int, noise: float, n: int
) -> dict[str, Any]:
    """Shares over n code books."""
    accused, named = np.zeros(2), np.zeros(2)
    for seed in range(n):
        rng = np.random.default_rng([seed, n_members, n_sources, n_true])
        book = drawn(design, n_members, n_sources, seed)
        true, gram = simulated(book, n_true, noise, rng)
        for way, p in enumerate(both_p_values(book, gram, seed)):
            accused[way] += (p[~true] <= placebo.THRESHOLD).any()
            named[way] += (p[true] <= placebo.THRESHOLD).sum()
    found = {"accused": (accused / n).round(4).tolist()}
    if n_true:
        found["named"] = (named / (n * n_true)).round(4).tolist()
    return {
        "design": design,
        "members": n_members,
        "sources": n_sources,
        "true": n_true,
        "noise": noise,
        **found,
    }


def main(n_books: int) -> None:
    began, rows = time.perf_counter(), []
    for design, n_members, n_sources in SETTINGS:
        numbers = sorted({0, 1, 2, n_sources // 2, n_sources - 1, n_sources})
        for n_true in numbers:
            for noise in NOISES:
                if n_true or noise == 1:
                    setting = (design, n_members, n_sources, n_true, noise)
                    rows.append(measured(*setting, n_books))
                    print(rows[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
    by_way = np.array([row["accused"] for row in rows if row["design"] != "as_in_0.1"])
    record.write(
        "innocents",
        [0, n_books - 1],
        {
            "n_books": n_books,
            "columns": ["placebos alone, as in version 0.1", "beside the others"],
            "most_accused": by_way.max(axis=0).tolist(),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
