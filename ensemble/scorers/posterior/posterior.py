"""Posterior: what scorers guess, corrected by what the members measured.

Scores of other methods, of one full model, are the prior of the sources' effects on a
query. Each member of the ensemble then is an experiment: it saw half of the sources,
and what it makes of the query is known: its loss there, or how far from the query the
picture lies that it samples by itself from the same noise. A Gaussian posterior weighs
both.

    mean = a g - W Aᵀ (A W Aᵀ + λ)⁻¹ (measured + a A g)

Everything that is left open is found in what the members measured alone, never in what
the result is judged by: how the priors are combined to g, its scale a, how the variance
goes by g, which sources are similar, the share of it that these have in common, and the
noise λ. The posterior's standard deviation is an error bar for every effect, widened
where members that were left out say that it is too short.

Members that share initial weights and noise (`training.shared_noise`) have less of λ.
"""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64

from ensemble.scorers.gradients import features
from ensemble.scorers.gradients.losses import query_losses
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.interface import (
    ENSEMBLE,
    READOUTS,
    ScoringContext,
    first_members,
    over_images,
)
from ensemble.scorers.methods.similarity import pixels
from ensemble.scorers.posterior import combination, gaussian
from ensemble.scorers.posterior.displacements import query_displacements
from ensemble.scorers.posterior.gaussian import (
    Eigendecomposition,
    Fit,
    Inclusion,
    Losses,
    Prior,
)
from splits.errors import BadInput

FEWEST_MEMBERS = 4
# λ to choose from, relative to the kernel's mean eigenvalue; from members that measure
# almost exactly to members that say almost nothing.
NOISES = tuple(np.geomspace(1e-2, 1e3, 26).tolist())
CRITERIA = ("likelihood", "left_out")
# What makes sources similar.
SIMILARITIES = ("pixels", "expected", "both")
# What one model of everything is asked.
PRIORS = ("trak", "dtrak", "das", "ekfac", "pixel_cosine")
# What takes longer besides: queries are unlearned, and the members score for themselves.
PRIORS_OF_ENSEMBLE = (
    *PRIORS,
    "unlearning_ekfac",
    "ekfac@ensemble",
    "ekfac_all@ensemble",
    "unlearning_all@ensemble",
)
# What makes a model good at a picture is to make it draw that picture.
PRIORS_OF_DISPLACEMENT = (
    "posterior@ensemble",
    "component_cosine",
    "unlearning_all@ensemble",
)
MEASURED = ("loss", "displacement")
Fitted = tuple[Prior, Eigendecomposition, Fit]
Guesses = Float64[np.ndarray, "guesses queries sources"]


@dataclass(frozen=True)
class Posterior:
    """Gaussian posterior of effects.

    Attributes:
        measured: Of the members: `loss`, at the query; or `displacement`, from the
            query to the picture that a member makes of its noise by itself.
        priors: Methods whose scores are the prior, combined; () expects nothing. One
            that scores a model of its own names it, as in `ekfac@ensemble`.
        prior_model: Which model the others score: `reference`, or another that scoring
            knows. The ensemble is that of the members that are asked, no others.
        dampings: Score priors that have a damping at these too.
        readouts: Take each prior by each of these, names in `interface.READOUTS`.
        powers: Of what is expected of an effect, to choose from: its variance goes by
            that. 0 is the same for all.
        likenesses: To choose from: sources are similar that look alike (`pixels`), or
            whose effects on all queries are expected to be alike (`expected`), or as
            the mean of these (`both`).
        shares: Of the variance that similar sources have in common: to choose from.
        noise: λ, relative to the kernel's mean eigenvalue; None: chosen.
        criterion: Which λ, power, likeness and share are best: `likelihood`, the
            marginal likelihood, or `left_out`, the error at members that are left out
            one by one.
        refits: How often priors are combined anew once it is known how what they leave
            open varies together: by generalised least squares. 0 keeps the plain ones.
        pooled: All queries share λ, scale and variance, relative to the size of their
            losses; otherwise each query has its own.
        draws: Noise draws at which losses are measured.
        folds: Parts of the members that are left out in turn, and all is fitted without
            them: where their losses are further off than deviations and noise explain,
            all deviations are widened by one factor. 0: they are the model's own.

    Raises:
        BadInput: If an option is out of its range.
    """

    paper: ClassVar[str] = "ours; Rasmussen & Williams 2006 for the algebra"
    cost: ClassVar[str] = "that of the priors, M·K·Q forwards"
    needs: ClassVar[str] = "an ensemble of at least 4 members and the priors' model"
    scale: ClassVar[str] = "change of the query's loss, or of the displacement"
    measured: str = "loss"
    priors: tuple[str, ...] = PRIORS
    prior_model: str | int = "reference"
    dampings: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    readouts: tuple[str, ...] = ("raw", "squared", "signed_squared")
    powers: tuple[float, ...] = (0.5, 1.0)
    likenesses: tuple[str, ...] = ("pixels", "both")
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9)
    noise: float | None = None
    criterion: str = "likelihood"
    refits: int = 1
    pooled: bool = True
    draws: Draws = Draws(n_timesteps=128)
    folds: int = 8

    def __post_init__(self) -> None:
        if self.measured not in MEASURED:
            raise BadInput(
                f"measured is {self.measured!r}; allowed: {', '.join(MEASURED)}."
            )
        if self.criterion not in CRITERIA:
            raise BadInput(
                f"criterion is {self.criterion!r}; allowed: {', '.join(CRITERIA)}."
            )
        if not self.readouts or not set(self.readouts) <= READOUTS.keys():
            raise BadInput(
                f"readouts are {self.readouts}; some of {', '.join(READOUTS)} are "
                "wanted."
            )
        if not self.powers or not all(0 <= power <= 2 for power in self.powers):
            raise BadInput(f"powers are {self.powers}; numbers from 0 to 2 are wanted.")
        if not self.likenesses or not set(self.likenesses) <= set(SIMILARITIES):
            raise BadInput(
                f"likenesses are {self.likenesses}; some of {', '.join(SIMILARITIES)} are "
                "wanted."
            )
        if not self.shares or not all(0 <= share <= 1 for share in self.shares):
            raise BadInput(f"shares are {self.shares}; numbers from 0 to 1 are wanted.")
        if self.noise is not None and not self.noise > 0:
            raise BadInput(
                f"noise is {self.noise}; it must be greater than 0, or None to be "
                "chosen."
            )
        if self.refits < 0:
            raise BadInput(f"refits is {self.refits}; 0 or more are wanted.")
        if self.folds < 0 or self.folds == 1:
            raise BadInput(f"folds is {self.folds}; 0, or at least 2, are wanted.")

    def score(self, context: ScoringContext) -> Float32[np.ndarray, "queries images"]:
        """Score of every training image for every query."""
        mean, _ = self.with_errors(context)
        return over_images(mean, context.source_of)

    def with_errors(
        self, context: ScoringContext
    ) -> tuple[
        Float64[np.ndarray, "queries sources"], Float64[np.ndarray, "queries sources"]
    ]:
        """Mean and standard deviation of every source's effect on every query.

        Raises:
            BadInput: If there are too few networks, or priors cannot be had.
        """
        if len(context.networks) < FEWEST_MEMBERS:
            raise BadInput(
                f"A posterior needs at least {FEWEST_MEMBERS} members, and there are "
                f"{len(context.networks)}. Score an ensemble of that many."
            )
        included = context.included().astype(np.float64)
        answers = (
            query_losses(context, self.draws)
            if self.measured == "loss"
            else query_displacements(context)
        )
        names, guesses = self._guesses(context)
        weights, chosen, (prior, decomposition, fit) = self._fitted(
            context, guesses, included, answers
        )
        widening = self._widening(context, guesses, included, answers)
        context.notes.append({"weights": dict(zip(names, weights, strict=True))})
        context.notes.append(
            chosen | {"widening": widening} | _facts(decomposition, fit)
        )
        mean, deviation = gaussian.posterior(prior, included, decomposition, fit)
        return mean, widening * deviation

    def _fitted(
        self,
        context: ScoringContext,
        guesses: Guesses,
        included: Inclusion,
        answers: Losses,
    ) -> tuple[Float64[np.ndarray, " guesses"], dict[str, Any], Fitted]:
        """Weights of the guesses, what else was chosen, and the fit, by some members."""
        expected, weights = combination.combined(guesses, included, answers)
        chosen, found = self._best(context, expected, included, answers)
        for _ in range(self.refits):
            _, decomposition, fit = found
            axes = gaussian.whitening(decomposition, fit)
            expected, weights = combination.combined(guesses, included, answers, axes)
            chosen, found = self._best(context, expected, included, answers)
        return weights, chosen, found

    def _widening(
        self,
        context: ScoringContext,
        guesses: Guesses,
        included: Inclusion,
        answers: Losses,
    ) -> float:
        """By how much deviations are too small for errors at members left out."""
        if not self.folds:
            return 1.0
        errors, bars = 0.0, 0.0
        parts = np.arange(len(included)) % self.folds
        for part in range(min(self.folds, len(included))):
            asked, new = parts != part, parts == part
            if (included[asked] == included[asked][0]).all():
                continue
            *_, (prior, decomposition, fit) = self._fitted(
                context, guesses, included[asked], answers[asked]
            )
            error, bar = gaussian.unexplained(
                prior,
                included[asked],
                answers[asked],
                decomposition,
                fit,
                included[new],
                answers[new],
            )
            errors, bars = errors + error, bars + bar
        return float(np.sqrt(max(1.0, errors / bars))) if bars > 0 else 1.0

    def _guesses(self, context: ScoringContext) -> tuple[list[str], Guesses]:
        """What each prior guesses, up to scale, and what it is called."""
        if not self.priors:
            return ["nothing"], np.zeros((1, len(context.queries), context.n_sources))
        if context.scores is None:
            raise BadInput(
                f"The prior is what {', '.join(self.priors)} score, and this scoring "
                "context has no scores. Give it `scores`, or choose no priors."
            )
        guesses, names = [], []
        for prior in self.priors:
            path = context.scores(*self._scored_by(prior, context), self.dampings)
            # A method without a damping has a single score.
            for damping, score in zip(("own", *self.dampings), path, strict=False):
                for readout in self.readouts:
                    guesses.append(READOUTS[readout](score.astype(np.float64)))
                    names.append(f"{prior}, damping {damping}, {readout}")
        return names, np.stack(guesses)

    def _scored_by(self, prior: str, context: ScoringContext) -> tuple[str, str | int]:
        """A prior's method, and the model that it scores."""
        method, _, named = prior.partition("@")
        model = int(named) if named.isdecimal() else named or self.prior_model
        n_members = len(context.networks)
        fewer = context.codes is not None and n_members < context.codes.n_members
        if model == ENSEMBLE and fewer:
            # What the others know must stay with them.
            return method, first_members(n_members)
        return method, model

    def _best(
        self,
        context: ScoringContext,
        expected: Float64[np.ndarray, "queries sources"],
        included: Float64[np.ndarray, "members sources"],
        answers: Float64[np.ndarray, "members queries"],
    ) -> tuple[dict[str, Any], Fitted]:
        """Of all there is to choose from, what fits best over all queries, and its fit."""
        noises = NOISES if self.noise is None else (self.noise,)
        alike = {
            kind: similarity_features(context, expected, kind)
            for kind in self.likenesses
        }
        choices = list(itertools.product(self.powers, self.likenesses, self.shares))
        priors = (
            Prior(
                expected,
                gaussian.prior_variance_of(expected, power),
                alike[kind],
                share,
            )
            for power, kind, share in choices
        )
        left_out = self.criterion == "left_out"
        number, found = gaussian.best(
            priors, included, answers, noises, self.pooled, left_out
        )
        names = ("power", "likeness", "share")
        return dict(zip(names, choices[number], strict=True)), found


def similarity_features(
    context: ScoringContext, expected: Float64[np.ndarray, "queries sources"], kind: str
) -> Float64[np.ndarray, "sources features"]:
    """Features of each source, at length one, whose products say how alike two are.

    Args:
        context: Pictures; a source's is the mean of its images minus that of all.
        expected: Effects up to scale; a source's are its difference from the mean
            source, in units of the query.
        kind: One of `SIMILARITIES`. Where one of both is zero, the other decides.
    """
    features_of = {"pixels": _looks(context), "expected": _actions(expected)}
    kinds = features_of if kind == "both" else (kind,)
    return features.unit(np.hstack([features.unit(features_of[one]) for one in kinds]))


def _looks(context: ScoringContext) -> Float64[np.ndarray, "sources pixels"]:
    """Mean picture of each source minus that of all images."""
    rows = pixels(context.train.images).astype(np.float64)
    sums = np.zeros((context.n_sources, rows.shape[1]))
    np.add.at(sums, context.source_of, rows - rows.mean(axis=0))
    return sums


def _actions(
    expected: Float64[np.ndarray, "queries sources"],
) -> Float64[np.ndarray, "sources queries"]:
    """What is expected of each source minus the mean of all, at unit size per query."""
    return features.unit(expected - expected.mean(axis=1, keepdims=True)).T


def _facts(decomposition: Eigendecomposition, fit: Fit) -> dict[str, Any]:
    """For the sidecar: what was found, query by query."""
    return {
        "noise": fit.noise.tolist(),
        "scale": fit.scale.tolist(),
        "variance": fit.variance.tolist(),
        "merit": fit.objective.tolist(),
        "n_members": decomposition.axes.shape[1],
    }
