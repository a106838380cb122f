"""Intervals: what every number of an evaluation is reported with."""

from collections.abc import Callable

import numpy as np
import scipy.stats
from jaxtyping import Float

LEVEL = 0.95
N_RESAMPLES = 1000


def described(
    value: float, samples: Float[np.ndarray, " resamples"]
) -> dict[str, float | None]:
    """A value between the percentiles of its bootstrap samples.

    A number that is not finite becomes None: JSON has no other word for it.
    """
    low, high = np.nan, np.nan
    if np.isfinite(samples).any():
        low, high = np.nanquantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": known(value), "low": known(low), "high": known(high)}


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, float | None]:
    """A statistic of n things, resampled with replacement.

    Args:
        statistic: From the numbers of the chosen things to a value.
        n: How many things there are.
        rng: Draws the resamples.
        n_resamples: How many.
    """
    samples = [statistic(rng.integers(n, size=n)) for _ in range(n_resamples)]
    return described(statistic(np.arange(n)), np.array(samples))


def over_batches(values: Float[np.ndarray, " batches"]) -> dict[str, float | None]:
    """Mean of independent batches, with Student's interval; one batch has none."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return {"value": known(mean), "low": None, "high": None}
    reach = scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1)
    reach = float(reach / np.sqrt(n))
    return {
        "value": known(mean),
        "low": known(mean - reach),
        "high": known(mean + reach),
    }


def known(value: float | np.floating) -> float | None:
    """The value, or None where it is not finite."""
    return float(value) if np.isfinite(value) else None
