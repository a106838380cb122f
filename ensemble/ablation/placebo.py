"""Placebo: what a removal does that removes no source.

Dropping half of the members moves any picture. A placebo is a code of the same weight
as a unit's that belongs to no source. Excess is a displacement minus the placebos'
mean; a p-value says how often so large a displacement would come up, were the units
placebos themselves.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from ensemble.ablation.removal_sets import Units
from ensemble.provenance.plans import Plan
from splits.designs import free_codes

THRESHOLD = 0.05


def p_values(
    displacement: Float[np.ndarray, "queries units"],
    placebo: Float[np.ndarray, "queries placebos"],
    unit_weights: Int[np.ndarray, " units"],
    placebo_weights: Int[np.ndarray, " placebos"],
) -> Float64[np.ndarray, "queries units"]:
    """How often some unit would displace so much, were all units placebos.

    If N units and n placebos are exchangeable, the chance that the largest of the units
    has at most r of the placebos above it is exactly

        p(r) = 1 - product over i = 0..r of (n - i) / (N + n - i)

    so p is corrected for the N units without any assumption about the distribution; it
    cannot be smaller than N / (N + n). Units are compared with placebos of their own
    weight; C different weights multiply p by C. Ties count as placebos above. A unit
    that no member saw displaces nothing, and is none of the N.
    """
    result = np.ones(displacement.shape)
    classes = np.unique(unit_weights[unit_weights > 0])
    for weight in classes:
        units = unit_weights == weight
        drawn = np.sort(placebo[:, placebo_weights == weight], axis=1)
        n_units, n_placebos = int(units.sum()), drawn.shape[1]
        ranks = np.arange(n_placebos)
        kept = np.log1p(-n_units / (n_units + n_placebos - ranks))
        # The last entry: all placebos above, so p is one.
        p_of_rank = np.append(-np.expm1(np.cumsum(kept)), 1.0)
        for query, row in enumerate(drawn):
            above = n_placebos - np.searchsorted(row, displacement[query, units])
            result[query, units] = np.minimum(1, p_of_rank[above] * len(classes))
    return result


def excess(
    displacement: Float[np.ndarray, "queries units"],
    placebo: Float[np.ndarray, "queries placebos"],
    unit_weights: Int[np.ndarray, " units"],
    placebo_weights: Int[np.ndarray, " placebos"],
) -> Float64[np.ndarray, "queries units"]:
    """Displacement minus the mean displacement of placebos of the same weight.

    Not a number where no placebo of that weight exists.
    """
    result = np.full(displacement.shape, np.nan)
    for weight in np.unique(unit_weights):
        units, drawn = unit_weights == weight, placebo_weights == weight
        if drawn.any():
            level = placebo[:, drawn].mean(axis=1, dtype=np.float64)
            result[:, units] = displacement[:, units] - level[:, None]
    return result


def smallest_p(
    unit_weights: Int[np.ndarray, " units"],
    placebo_weights: Int[np.ndarray, " placebos"],
) -> float:
    """The smallest p-value that so many placebos can give."""
    largest = np.full((1, len(unit_weights)), np.inf)
    none_above = np.zeros((1, len(placebo_weights)))
    return float(p_values(largest, none_above, unit_weights, placebo_weights).min())


def enough(n_units: int) -> int:
    """Placebos that make a corrected p-value of the threshold possible."""
    return int(np.ceil(n_units * (1 / THRESHOLD - 1)))


def codes(
    plan: Plan, units: Units, n_placebos: int, seed: int
) -> Bool[np.ndarray, "placebos members"]:
    """Codes of the units' weights that belong to no source."""
    return free_codes.placebos(plan.codes, n_placebos, seed, units.weights.tolist())
