"""The audit: how far predicted displacements can be trusted.

For every query some units are drawn at random and recomputed exactly. One half of them
serves to choose how displacements are predicted; the other half, which the choice has
not seen, is reported: rank correlation, error, and an upper bound on the largest
displacement among the units that nobody recomputed.

Before: sensitivity.py (predicts), ablation.py (recomputes). After: influence.py.
"""

from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float, Float64, Int64

from ensemble import luck

CONFIDENCE = 0.95
# With fewer audited units a rank correlation means little.
FEWEST = 5


def drawn(
    n_units: int, n_queries: int, n_audit: int, seed: int
) -> Int64[np.ndarray, "queries audited"]:
    """Units to recompute for each query, at random: at most n_audit."""
    rows = [
        luck.rng(seed, "audit", query).permutation(n_units)[:n_audit]
        for query in range(n_queries)
    ]
    return np.stack(rows).astype(np.int64)


def rank_correlation(
    guessed: Float[np.ndarray, "queries audited"],
    exact: Float[np.ndarray, "queries audited"],
) -> float:
    """Spearman correlation of predicted and exact displacement, median over queries."""
    correlations = [
        float(scipy.stats.spearmanr(one, other)[0])  # type: ignore[arg-type]
        for one, other in zip(guessed, exact, strict=True)
    ]
    return float(np.median(correlations))


def result(
    predicted: Float[np.ndarray, "queries units"],
    exact: Float64[np.ndarray, "queries audited"],
    audited: Int64[np.ndarray, "queries audited"],
    recomputed: Int64[np.ndarray, "queries recomputed"],
) -> dict[str, Any]:
    """Rank correlation, error and bounds of an audit, and a sentence about them.

    Rank correlation and relative error are medians over queries; `bounds` has one
    upper confidence bound for each query, on all units but those recomputed.
    """
    n_audit = audited.shape[1]
    if n_audit < FEWEST:
        sentence = "There are too few units to audit the prediction: ask for exact."
        return {"n_audit": n_audit, "sentence": sentence}
    guessed = np.take_along_axis(predicted, audited, axis=1)
    errors = np.abs(guessed / exact - 1)
    bounds = [
        upper_bound(np.delete(predicted[query], recomputed[query]), *pair)
        for query, pair in enumerate(zip(guessed, exact, strict=True))
    ]
    spearman, error = rank_correlation(guessed, exact), float(np.median(errors))
    return {
        "n_audit": n_audit,
        "spearman": round(spearman, 4),
        "relative_error": round(error, 4),
        "bounds": [round(bound, 4) for bound in bounds],
        "sentence": (
            f"Audit: {n_audit} more random units a query were recomputed exactly; "
            f"predicted and exact displacement correlate with Spearman {spearman:.3f} and differ "
            f"by {100 * error:.1f} % (medians over queries). No single unit that was "
            f"not recomputed displaces its picture by more than {max(bounds):.3f} "
            f"(95 % bound for each query, if the errors of the logarithm are normal)."
        ),
    }


def upper_bound(
    remaining: Float[np.ndarray, " units"],
    guessed: Float[np.ndarray, " audited"],
    exact: Float[np.ndarray, " audited"],
) -> float:
    """A bound that all exact displacements of the remaining units keep below, 95 %.

    With errors e = log(exact / predicted) taken as normal, each unit keeps below its
    own prediction interval with t at level 1 - 0.05 / N, so all N of them do together:

        bound = max predicted · exp(mean e + t · sd e · sqrt(1 + 1 / n))

    Returns:
        The bound; 0 if no unit remains.
    """
    if not len(remaining):
        return 0.0
    errors = np.log(exact / guessed)
    n_audit = len(errors)
    level = 1 - (1 - CONFIDENCE) / len(remaining)
    reach = scipy.stats.t.ppf(level, n_audit - 1) * np.sqrt(1 + 1 / n_audit)
    return float(remaining.max() * np.exp(errors.mean() + reach * errors.std(ddof=1)))
