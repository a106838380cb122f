"""Do the posteriors' error bars hold?

    python -m benchmarks.attribution.error_bars

A posterior says how far off it expects to be at every source. If it is right, its
prediction for a half of the sources, the sum of their scores, is off by as much as these
deviations say together: over random halves, by a quarter of the sum of their squares. That
is compared with the mean squared error against models trained on halves, less what comes
from the noise of their seeds. A ratio of one is honest; above, bars are too short.

Part of the error is nobody's: what sources only do together is in no sum. What is left
when the posterior is also told the truth of other halves (`benchmarks.attribution.limits`) has that
part in it, and is given beside. From the shipped ground truth, in minutes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from benchmarks import record
from benchmarks.attribution import ground_truth, limits, mnist
from ensemble.evaluation import ground_truth as truth
from ensemble.evaluation import lds
from ensemble.evaluation.ground_truth import Truth
from ensemble.evaluation.metrics import intervals
from ensemble.provenance import plans
from ensemble.run.folder import Run
from ensemble.scorers import score_files
from ensemble.scorers.interface import ENSEMBLE, first_members

METHODS = ("posterior_ensemble", "posterior", "members")
MODELS = (first_members(16), first_members(32), ENSEMBLE)

Predictions = Float64[np.ndarray, "queries subsets"]
OfQuery = Float64[np.ndarray, " queries"]


@dataclass(frozen=True)
class Noise:
    """What halves' mean losses hold, query by query, by analysis of variance.

    Attributes:
        of_mean: Variance that seeds leave in the mean over them.
        spread: Variance between halves beyond that.
    """

    of_mean: OfQuery
    spread: OfQuery


def noise_of(found: Truth) -> Noise:
    """How much of the variance between halves comes from the seeds."""
    n_seeds, _, n_subsets = found.losses.shape
    centred = found.losses - found.losses.mean(axis=-1, keepdims=True)
    # Each seed's mean over halves was taken away, which took a degree of freedom.
    within = centred.var(axis=0, ddof=1).mean(axis=-1) * n_subsets / (n_subsets - 1)
    of_mean = within / n_seeds
    return Noise(of_mean, _variance(found.mean) - of_mean)


def left(predicted: Predictions, found: Truth, noise: Noise) -> OfQuery:
    """Mean squared error of the differences between halves, beyond the seeds' noise."""
    return _variance(found.mean - predicted) - noise.of_mean


def expected(deviations: Float64[np.ndarray, "queries sources"]) -> OfQuery:
    """What is left of halves, if deviations are right and errors independent."""
    return np.square(deviations).sum(axis=1) / 4


def findings(run: Run, name: str) -> dict[str, Any]:
    """For each posterior what is left, what it expected, and what nobody can add up."""
    found = truth.read(run, plans.load(run), ground_truth.options_of(run, name))
    noise = noise_of(found)
    best = score_files.load(run, name, limits.METHOD).astype(np.float64)
    told = left(limits.predicted(best, found, limits.TOLD[-1]), found, noise)
    whole = noise.spread.sum()
    rows: dict[str, Any] = {"left_when_told": told.sum() / whole}
    for method in METHODS:
        for which in MODELS:
            score = score_files.load(run, name, method, which).astype(np.float64)
            bars = score_files.load_errors(run, name, method, which).astype(np.float64)
            guess = lds.predicted_losses(score, found.subsets)
            off, said = left(guess, found, noise), expected(bars)
            rows[f"{method}, {which}"] = {
                "left": off.sum() / whole,
                "expected": said.sum() / whole,
                "ratio": ratio(off, said),
            }
    return rows


def ratio(off: OfQuery, said: OfQuery) -> dict[str, float | None]:
    """What is left over what was expected, of all queries, resampled over these."""
    return intervals.bootstrap(
        lambda chosen: off[chosen].sum() / said[chosen].sum(),
        len(off),
        np.random.default_rng(0),
    )


def _variance(losses: Predictions) -> OfQuery:
    return losses.var(axis=-1, ddof=1)


def main() -> None:
    mnist.write(ground_truth.MNIST)
    results = {
        setting: {
            name: findings(ground_truth.unpacked(setting), name)
            for name in limits.NAMES
        }
        for setting in ground_truth.PICTURES
    }
    record.write("error_bars", [1, 2, 3], results)


if __name__ == "__main__":
    main()
