"""One guess from many: each weighs what members' losses make of it."""

import numpy as np
import scipy.optimize
from jaxtyping import Float64

from ensemble.scorers.posterior import gaussian
from ensemble.scorers.posterior.gaussian import Axes, Effects, Inclusion, Losses

# Keeps guesses apart that are nearly the same, relative to their mean square.
RIDGE = 1e-6


def combined(
    guesses: Float64[np.ndarray, "guesses queries sources"],
    included: Inclusion,
    losses: Losses,
    axes: Axes | None = None,
) -> tuple[Effects, Float64[np.ndarray, " guesses"]]:
    """One guess from many, by non-negative least squares of losses on what each predicts.

    The weights are the same for all queries. Guesses that are the same share theirs. If
    no guess has anything to do with the losses, all weigh the same.

    Args:
        guesses: Up to scale.
        included: The members' sources.
        losses: What they measured.
        axes: Contrasts along which squares are summed, those of `whitening`: the least
            squares are generalised, by what a fit says of how residuals vary together.
            None takes them as independent and of the same size.

    Returns:
        The guess, and the weight of each at unit size.
    """
    basis = gaussian.contrasts(len(included))
    columns = (basis @ included).T  # (sources, contrasts)
    predicted = -guesses @ columns
    units = gaussian.unit(predicted, np.abs(guesses) @ np.abs(columns))
    target = (basis @ losses).T
    target = target / gaussian.unit(target, losses.T)[:, None]
    columns = predicted / units[..., None]
    if axes is not None:
        turn = basis @ axes
        columns = np.einsum("gqc,qck->gqk", columns, turn)
        target = np.einsum("qc,qck->qk", target, turn)
    columns = columns.reshape(len(guesses), -1).T
    ridge = np.sqrt(RIDGE * target.size) * np.eye(len(guesses))
    weights, _ = scipy.optimize.nnls(
        np.concatenate([columns, ridge]),
        np.concatenate([target.ravel(), np.zeros(len(guesses))]),
        maxiter=100 * len(guesses),
    )
    if not weights.any():
        weights = np.ones(len(guesses))
    return np.einsum("g,gq,gqs->qs", weights, 1 / units, guesses), weights
