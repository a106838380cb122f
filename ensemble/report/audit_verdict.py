"""The verdict on an audit: may displacements that were read off be spoken of at all?

Differential ablation recomputes some units exactly. If what it had predicted for them
is too far from that, its displacements, excesses and p-values are shown as numbers of
an approximation that failed, and nothing is concluded from them. The limits stand here
and nowhere else; the report needs no torch, so neither does this.
"""

from typing import Any

# Ranks of predicted and exact displacement must share two thirds of their variance.
LEAST_SPEARMAN = 0.8
# The same limit for how far the audited displacements are off, median over all.
MOST_ERROR = 0.3
REMEDY = (
    "Nothing is concluded from them: ablate exactly (`--method exact`), and if there "
    "are too many sources for that, a few of them together (`--sources`) or by a column "
    "(`--groups`)."
)


def objection(info: dict[str, Any]) -> str:
    """Why nothing may be concluded from a table's displacements, and what to do.

    Args:
        info: The record of a folder under `influence/`.

    Returns:
        Sentences; empty if they are exact, or an audit supports them.
    """
    if "audit" not in info:
        return ""
    audit = info["audit"]
    of_placebos = ""
    if info.get("all_exact"):
        of_placebos = (
            "Every displacement is exact, but the placebos that say whether one stands "
            "out are approximate. "
        )
    if "spearman" not in audit:
        if of_placebos:
            return f"{of_placebos}There are too few units to say how good. {REMEDY}"
        return (
            "The displacements are approximate, and too few were recomputed exactly to "
            f"say how good they are. {REMEDY}"
        )
    spearman, error = audit["spearman"], audit["relative_error"]
    # So written that what is not a number fails, too.
    if spearman >= LEAST_SPEARMAN and error <= MOST_ERROR:
        return ""
    return (
        f"{of_placebos}The approximation is not good enough here: for sources that were "
        "recomputed exactly, predicted and exact displacement correlate with Spearman "
        f"{spearman:.2f} (at least {LEAST_SPEARMAN} is needed) and differ by "
        f"{100 * error:.0f} % (at most {100 * MOST_ERROR:.0f} %). {REMEDY}"
    )


def coverage(info: dict[str, Any], n_queries: int) -> str:
    """What the corrected p-values of a table cover, and what they do not.

    Args:
        info: The record of a folder under `influence/`.
        n_queries: Pictures in it, each of which is a test of its own.
    """
    threshold, units = info["threshold"], info["units"]
    said = f"Each p is corrected for the number of {units}, for one picture"
    if n_queries == 1:
        return f"{said}."
    return (
        f"{said}, not for the {n_queries} pictures: if no {units.removesuffix('s')} "
        f"mattered, up to {by_chance(info, n_queries):.2g} of the {n_queries} pictures "
        f"would be expected to show one at p <= {threshold} by chance."
    )


def promise(info: dict[str, Any]) -> str:
    """What a small p of a table promises.

    Args:
        info: The record of a folder under `influence/`.
    """
    return info.get(
        "p_sentence",
        "These p-values were made by version 0.1, against placebos alone: if some other "
        "source matters, one that does not may have a small p as well.",
    )


def by_chance(info: dict[str, Any], n_queries: int) -> float:
    """Pictures of which a unit stands out by chance on average, at most.

    So many there are if none of the units matters; a p that cannot reach the threshold
    lets none through.
    """
    if info["smallest_p"] > info["threshold"]:
        return 0.0
    return info["threshold"] * n_queries
