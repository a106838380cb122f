"""The audit: how far predicted displacements can be trusted.

For every query some units are drawn at random and recomputed exactly. One half of them
serves to choose how displacements are predicted; the other half, which the choice has
not seen, is reported: rank correlation and error with their confidence intervals, and
an upper bound on the largest displacement among the units that nobody recomputed.

What is estimated is what one would find if all units of these queries were recomputed;
a small sample says it with an error, and the intervals say how large that is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Float64, Int64

from ensemble.system import seeding

CONFIDENCE = 0.95
# With fewer audited units a rank correlation means little.
FEWEST = 5


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well predictions order the units of each query, estimated from some of them.

    Attributes:
        value: Spearman correlation over all units, mean over queries.
        left_out: The same of each query when one of its audited units is left out.
        n_units: All units.
    """

    value: float
    left_out: Float64[np.ndarray, "queries audited"]
    n_units: int

    @property
    def standard_error(self) -> float:
        """Of the value, by the jackknife; zero if all units were audited."""
        return _jackknife(self.left_out, self.n_units)

    @property
    def interval(self) -> tuple[float, float]:
        """In which the value over all units lies, 95 %.

        Symmetric on Fisher's scale of arctanh, which ends where the value is one.
        """
        n_queries, n_audited = self.left_out.shape
        reach = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n_queries * (n_audited - 1))
        ends = np.array([-reach, reach]) * self.standard_error
        if abs(self.value) < 1:
            ends = np.tanh(np.arctanh(self.value) + ends / (1 - self.value**2))
        else:
            ends = np.clip(self.value + ends, -1, 1)
        return float(ends[0]), float(ends[1])

    def as_good_as(self, better: "Agreement") -> bool:
        """Whether it falls short by no more than the standard error of the difference."""
        apart = _jackknife(better.left_out - self.left_out, self.n_units)
        return better.value - self.value <= apart


def drawn(
    n_units: int, n_queries: int, n_audit: int, seed: int
) -> Int64[np.ndarray, "queries audited"]:
    """Units to recompute for each query, at random: at most n_audit."""
    rows = [
        seeding.rng(seed, "audit", query).permutation(n_units)[:n_audit]
        for query in range(n_queries)
    ]
    return np.stack(rows).astype(np.int64)


def agreement(
    guessed: Float[np.ndarray, "queries audited"],
    exact: Float[np.ndarray, "queries audited"],
    n_units: int,
) -> Agreement:
    """Rank correlation of predicted and exact displacement over all units, estimated.

    Args:
        guessed: Predictions for the audited units of each query.
        exact: What they are.
        n_units: All units, of which the audited ones are a random sample.
    """
    n_audited = guessed.shape[1]
    left_out = [
        [
            rank_correlation(np.delete(one, unit), np.delete(other, unit), n_units)
            for unit in range(n_audited)
        ]
        for one, other in zip(guessed, exact, strict=True)
    ]
    values = [
        rank_correlation(one, other, n_units)
        for one, other in zip(guessed, exact, strict=True)
    ]
    # Without bias it may come out larger than any correlation is.
    value = float(np.clip(np.mean(values), -1, 1))
    return Agreement(value, np.asarray(left_out), n_units)


def rank_correlation(
    guessed: Float[np.ndarray, " audited"],
    exact: Float[np.ndarray, " audited"],
    n_units: int,
) -> float:
    """Spearman correlation of all units, estimated from a random sample without bias.

    In a small sample, Spearman's correlation r is drawn towards 3 times Kendall's t:
    with g, that of triples of three different units,

        r = [3 t + (n - 2) g] / (n + 1)

    t and g are means over pairs and triples, so a random sample estimates them without
    bias, and with the number of all units in the place of n so it does r. (Hoeffding
    1948) Where one of the two is constant there is no order, and the answer is 0.
    """
    first, second = scipy.stats.rankdata(guessed), scipy.stats.rankdata(exact)
    if not first.std() or not second.std():
        return 0.0
    n_audited = len(first)
    spearman = float(np.corrcoef(first, second)[0, 1])
    if n_units == n_audited:
        return spearman
    agree = np.sign(first[:, None] - first) * np.sign(second[:, None] - second)
    kendall = float(agree.sum()) / (n_audited * (n_audited - 1))
    triples = ((n_audited + 1) * spearman - 3 * kendall) / (n_audited - 2)
    return (3 * kendall + (n_units - 2) * triples) / (n_units + 1)


def result(
    predicted: Float[np.ndarray, "queries units"],
    exact: Float64[np.ndarray, "queries audited"],
    audited: Int64[np.ndarray, "queries audited"],
    recomputed: Bool[np.ndarray, "queries units"],
) -> dict[str, Any]:
    """Rank correlation, error and bounds of an audit, and a sentence about them.

    The rank correlation is a mean over queries, the relative error a median over all
    audited units of all queries; both are of the predictions for all units. `bounds`
    has one upper confidence bound for each query, on all units but those recomputed,
    None where none is left.

    Args:
        predicted: Displacements as they were predicted, for every unit.
        exact: Exact ones of the audited units.
        audited: Which those are.
        recomputed: Which units were recomputed for whatever reason.
    """
    n_units, n_audit = predicted.shape[1], audited.shape[1]
    if n_audit < FEWEST and not recomputed.all():
        sentence = "There are too few units to audit the prediction: ask for exact."
        return {"n_audit": n_audit, "sentence": sentence}
    guessed = np.take_along_axis(predicted, audited, axis=1)
    if n_audit < FEWEST:
        return {"n_audit": n_audit, "sentence": _nothing_left(n_units)}
    agreed = agreement(guessed, exact, n_units)
    error, within = _median(_relative(guessed, exact), n_audit == n_units)
    bounds = [
        upper_bound(predicted[query, ~recomputed[query]], *pair)
        for query, pair in enumerate(zip(guessed, exact, strict=True))
    ]
    found = {
        "n_audit": n_audit,
        "spearman": round(agreed.value, 4),
        "spearman_interval": [round(end, 4) for end in agreed.interval],
        "relative_error": round(error, 4),
        "relative_error_interval": [round(end, 4) for end in within],
        "bounds": [None if bound is None else round(bound, 4) for bound in bounds],
    }
    return {**found, "sentence": _sentence(found, n_units)}


def _relative(
    guessed: Float[np.ndarray, "queries audited"],
    exact: Float64[np.ndarray, "queries audited"],
) -> Float64[np.ndarray, "queries audited"]:
    """Relative errors; where nothing moves, none or an infinite one."""
    error = np.abs(guessed - exact)
    whole = np.where(error > 0, np.inf, 0.0)
    return np.divide(error, exact, out=whole, where=exact > 0)


def _sentence(found: dict[str, Any], n_units: int) -> str:
    """What an audit found, in words."""
    reached, error = found["spearman"], 100 * found["relative_error"]
    if found["n_audit"] == n_units:
        return (
            f"{_nothing_left(n_units)} What had been predicted for them correlates "
            f"with it with Spearman {reached:.3f} (mean over queries) and differs by "
            f"{error:.1f} % (median)."
        )
    low, high = found["spearman_interval"]
    least, most = (100 * end for end in found["relative_error_interval"])
    left = [bound for bound in found["bounds"] if bound is not None]
    rest = "No unit was left that was not recomputed."
    if left:
        rest = (
            "No single unit that was not recomputed displaces its picture by more than "
            f"{max(left):.3f} (95 % bound for each query, if the errors of the "
            "logarithm are normal)."
        )
    return (
        f"Audit: {found['n_audit']} more random units a query were recomputed exactly; "
        f"predicted and exact displacement correlate with Spearman {reached:.3f} "
        f"(mean over queries; 95 % interval {low:.3f} to {high:.3f}) and differ by "
        f"{error:.1f} % (median; {least:.1f} to {most:.1f} %). {rest}"
    )


def _nothing_left(n_units: int) -> str:
    return (
        f"All {n_units} units of each query were recomputed exactly, so nothing was "
        "left to predict."
    )


def _jackknife(left_out: Float64[np.ndarray, "queries audited"], n_units: int) -> float:
    """Standard error of a mean over queries, of units drawn without replacement."""
    n_queries, n_audited = left_out.shape
    spread = left_out.var(axis=1) * (n_audited - 1) * (1 - n_audited / n_units)
    return float(np.sqrt(spread.sum()) / n_queries)


def _median(
    errors: Float64[np.ndarray, "queries audited"], all_units: bool
) -> tuple[float, tuple[float, float]]:
    """The median, and two of the values between which that of all lies, 95 %."""
    ordered = np.sort(errors, axis=None)
    median = float(np.median(ordered))
    if all_units:
        return median, (median, median)
    below = scipy.stats.binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5)
    first = max(0, int(below) - 1)
    return median, (float(ordered[first]), float(ordered[-1 - first]))


def upper_bound(
    remaining: Float[np.ndarray, " units"],
    guessed: Float[np.ndarray, " audited"],
    exact: Float[np.ndarray, " audited"],
) -> float | None:
    """A bound that all exact displacements of the remaining units keep below, 95 %.

    With errors e = log(exact / predicted) taken as normal, each unit keeps below its
    own prediction interval with t at level 1 - 0.05 / N, so all N of them do together:

        bound = max predicted · exp(mean e + t · sd e · sqrt(1 + 1 / n))

    Returns:
        The bound; None if no unit remains.
    """
    if not len(remaining):
        return None
    errors = np.log(exact / guessed)
    n_audit = len(errors)
    level = 1 - (1 - CONFIDENCE) / len(remaining)
    reach = scipy.stats.t.ppf(level, n_audit - 1) * np.sqrt(1 + 1 / n_audit)
    return float(remaining.max() * np.exp(errors.mean() + reach * errors.std(ddof=1)))
