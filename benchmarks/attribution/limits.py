"""How much of the truth can additive scores tell, however much is measured?

    python -m benchmarks.attribution.limits

The ceiling of the LDS is that of somebody who knows the mean loss of every half. A score
for each source, added up, need not reach it: sources also act together. Here the best
posterior is told what it is judged by: the mean losses, over all seeds, of ever more
halves, as if further members had been trained on them. What it then says of a half never
comes from that half: they take turns in eight parts. This is no method, for whoever has
the truth needs no score; it says how far more members would lead. From the shipped ground
truth, in minutes.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64

from benchmarks import record
from benchmarks.attribution import ground_truth, mnist
from ensemble.evaluation import ground_truth as truth
from ensemble.evaluation import lds
from ensemble.evaluation.ground_truth import Truth
from ensemble.provenance import plans
from ensemble.run.folder import Run
from ensemble.scorers import score_files
from ensemble.scorers.posterior import gaussian
from ensemble.scorers.posterior.gaussian import Prior
from ensemble.scorers.posterior.posterior import NOISES

METHOD = "posterior_ensemble"
NAMES = ("held_out", "generated")
POWERS = (0.0, 0.5, 1.0)
N_PARTS = 8
# Halves that are told; of 128, seven parts are 112.
TOLD = (0, 32, 64, 112)

Scores = Float64[np.ndarray, "queries sources"]


def told(score: Scores, found: Truth) -> Scores:
    """The score, corrected by the mean losses of the models of some halves."""
    seen, losses = found.subsets.T.astype(np.float64), found.mean.T
    nothing_alike = np.zeros((score.shape[1], 1))
    priors = (
        Prior(score, gaussian.prior_variance_of(score, power), nothing_alike, 0.0)
        for power in POWERS
    )
    _, (prior, decomposition, fit) = gaussian.best(
        priors, seen, losses, NOISES, pooled=True, left_out=False
    )
    mean, _ = gaussian.posterior(prior, seen, decomposition, fit)
    return mean


def predicted(
    score: Scores, found: Truth, n_told: int
) -> Float64[np.ndarray, "queries subsets"]:
    """Loss of each half, by a score that was told losses of others."""
    n_subsets = found.losses.shape[2]
    guess = np.empty_like(found.mean)
    for part in range(N_PARTS):
        judged = np.arange(n_subsets) % N_PARTS == part
        known = lds.of_subsets(found, np.flatnonzero(~judged)[:n_told])
        better = told(score, known)
        # Parts are told different halves, so each says the whole loss.
        base = known.mean + better @ known.subsets
        guess[:, judged] = base.mean(axis=1, keepdims=True) - (
            better @ found.subsets[:, judged]
        )
    return guess


def findings(run: Run, name: str) -> dict[str, Any]:
    """What the best posterior reaches as it is, and when it is told more."""
    options = ground_truth.options_of(run, name)
    found = truth.read(run, plans.load(run), options)
    score = score_files.load(run, name, METHOD).astype(np.float64)
    strapped = lds.bootstrap(found)
    rows = {}
    for n_told in TOLD:
        guess = (
            predicted(score, found, n_told)
            if n_told
            else lds.predicted_losses(score, found.subsets)
        )
        models = {"models": n_told * len(found.losses)}
        rows[f"told {n_told} halves"] = models | strapped.row(guess)
    return rows


def main() -> None:
    mnist.write(ground_truth.MNIST)
    results = {
        setting: {
            name: findings(ground_truth.unpacked(setting), name) for name in NAMES
        }
        for setting in ground_truth.PICTURES
    }
    record.write("limits", [1, 2, 3], {"method": METHOD, **results})


if __name__ == "__main__":
    main()
