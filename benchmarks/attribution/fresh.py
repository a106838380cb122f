"""The posteriors against the best single scorer, by halves that came after the choices.

    python -m benchmarks.attribution.fresh

Most of what posteriors are made of was chosen while the first 64 halves of the shipped
ground truth were known. The other 64 were trained after that, and are the whole judge
here. Two things are younger, so for them these halves are not new: that every member
unlearns (`unlearning_all`), at a damping of 0.01 in place of 0.1, chosen by three members'
LDS on all 128 halves of MNIST's generated pictures; and that priors are taken by all
three read-outs and combined by generalised least squares, and sources are alike by what
is expected of them, which the likelihood of what members measured prefers, and which was
taken up with the LDS of all 128 halves in view. From the shipped ground truth, in minutes.
"""

from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.attribution import ground_truth, mnist
from ensemble.evaluation import ground_truth as truth
from ensemble.evaluation import lds, predictors
from ensemble.evaluation.options import Options
from ensemble.provenance import plans
from ensemble.run.folder import Run

N_KNOWN = 64
MEASURED = (("held_out", "loss"), ("generated", "loss"), ("generated", "displacement"))
METHODS = {"loss": "posterior_ensemble", "displacement": "posterior_displacement"}


def findings(run: Run, name: str, measure: str) -> dict[str, Any]:
    """Each posterior of that measure, by its number of members."""
    n_subsets = ground_truth.options_of(run, name).n_subsets
    options = Options(name, measure=measure, n_subsets=n_subsets)
    found = truth.read(run, plans.load(run), options)
    fresh = lds.of_subsets(found, np.arange(N_KNOWN, n_subsets))
    rows = lds.against_best(fresh, lds.bootstrap(fresh), predictors.find(run, name))
    whole, first = METHODS[measure], f"{METHODS[measure]}-first-"
    return {
        row["method"]: row
        for row in rows
        if row["method"] == whole or row["method"].startswith(first)
    }


def main() -> None:
    mnist.write(ground_truth.MNIST)
    results: dict[str, Any] = {"first_half": N_KNOWN}
    for setting in ground_truth.PICTURES:
        run = ground_truth.unpacked(setting)
        results[setting] = {
            f"{name}, {measure}": findings(run, name, measure)
            for name, measure in MEASURED
        }
    record.write("fresh", [1, 2, 3], results)


if __name__ == "__main__":
    main()
