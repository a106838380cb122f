"""Gaussian algebra: what members' losses make of a prior on the sources' effects.

A source's *effect* on a query is how much its removal raises the query's loss, or any
other number that models make of it. With A the members' sources (members, sources) and
effects that add up,

    losses = constant - A effect + noise,    noise ~ N(0, variance · λ · I)
    effect ~ N(a g, variance · W),           W = root((1 - share) I + share F Fᵀ)root

g is what a scorer guesses, root² its spread, and rows of F are what sources look like.
The constant is unknown: nothing but *contrasts* between members, combinations with
weights that sum to zero, say anything. Losses, A g and the kernel A W Aᵀ are brought to
unit size over contrasts, so that a, λ and variance mean the same for every query, and
queries can share them. One eigendecomposition of each query's kernel gives every λ.
(Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, chapters 2 and 5;
Dubrule 1983 for members that are left out.)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float64

from splits.errors import BadInput

# A variance below this, relative to the losses', is a rounding error.
FLOOR = 1e-12
# Numbers that are held at once for a block of queries.
AT_ONCE = 2**25
Inclusion = Float64[np.ndarray, "members sources"]
Losses = Float64[np.ndarray, "members queries"]
Effects = Float64[np.ndarray, "queries sources"]
OfQuery = Float64[np.ndarray, " queries"]
Axes = Float64[np.ndarray, "queries members contrasts"]


@dataclass(frozen=True, eq=False)
class Prior:
    """What is believed of effects before members are asked, up to scale.

    Attributes:
        expected: g.
        prior_variance: Variance of each effect around what is expected.
        similarity: F: rows of length one, or zero.
        share: Of the variance that sources have in common as far as they are alike.
    """

    expected: Effects
    prior_variance: Effects
    similarity: Float64[np.ndarray, "sources features"]
    share: float

    @property
    def variances(self) -> Effects:
        """The diagonal of W."""
        alike = np.square(self.similarity).sum(axis=1)
        return self.prior_variance * (1 - self.share + self.share * alike)

    def times(
        self, some: slice, columns: Float64[np.ndarray, "some sources columns"]
    ) -> Float64[np.ndarray, "some sources columns"]:
        """W of some queries times columns."""
        root = np.sqrt(self.prior_variance[some])[:, :, None]
        alone = root * columns
        alike = self.similarity @ (self.similarity.T @ alone)
        return root * ((1 - self.share) * alone + self.share * alike)


@dataclass(frozen=True, eq=False)
class Eigendecomposition:
    """Members' losses along the eigenvectors of each query's kernel, free of scale.

    Attributes:
        eigenvalues: Of the kernel, mean one.
        axes: Its eigenvectors, contrasts between members.
        measured: Losses.
        expected: A g, which the prior expects of losses with the other sign.
        loss_unit: What losses were divided by.
        expected_unit: What A g was divided by.
        kernel_unit: What the kernel was divided by.
    """

    eigenvalues: Float64[np.ndarray, "queries contrasts"]
    axes: Axes
    measured: Float64[np.ndarray, "queries contrasts"]
    expected: Float64[np.ndarray, "queries contrasts"]
    loss_unit: OfQuery
    expected_unit: OfQuery
    kernel_unit: OfQuery


@dataclass(frozen=True, eq=False)
class Fit:
    """What is left open by a prior, in the units of `Eigendecomposition`.

    Attributes:
        noise: λ.
        scale: a.
        variance: Of effects; times λ, that of losses between members alike.
        information: What the losses say about a: its variance is variance over this.
        objective: How good the fit is: greater is better.
    """

    noise: OfQuery
    scale: OfQuery
    variance: OfQuery
    information: OfQuery
    objective: OfQuery


def contrasts(n_members: int) -> Float64[np.ndarray, "contrasts members"]:
    """An orthonormal basis of combinations of members whose weights sum to zero."""
    return scipy.linalg.helmert(n_members)


def prior_variance_of(expected: Effects, power: float) -> Effects:
    """A power of |g| over its mean: what is expected to matter may also be most in error.

    Where nothing is expected of any source, or the power is 0, all have the same spread.
    """
    size = np.abs(expected) ** power
    mean = size.mean(axis=1, keepdims=True)
    return np.divide(size, mean, out=np.ones_like(size), where=mean > 0)


def decompose(prior: Prior, included: Inclusion, losses: Losses) -> Eigendecomposition:
    """Losses along the axes of the prior's kernel.

    Raises:
        BadInput: If all members saw the same sources.
    """
    basis = contrasts(len(included))
    columns = (basis @ included).T  # (sources, contrasts)
    if np.abs(columns).max() < FLOOR:
        raise BadInput(
            f"All {len(included)} members saw the same sources, so their losses say nothing "
            "about any of them. Ask members that differ."
        )
    kernel = np.concatenate(
        [
            columns.T @ prior.times(some, np.broadcast_to(columns, (n, *columns.shape)))
            for some, n in _blocks(prior.prior_variance, columns.shape[1])
        ]
    )
    mean = np.trace(kernel, axis1=1, axis2=2) / columns.shape[1]
    kernel_unit = np.where(mean > FLOOR, mean, 1.0)
    eigenvalues, vectors = np.linalg.eigh(kernel / kernel_unit[:, None, None])
    measured, expected = (basis @ losses).T, prior.expected @ columns
    loss_unit = unit(measured, losses.T)
    expected_unit = unit(expected, np.abs(prior.expected) @ np.abs(columns))
    return Eigendecomposition(
        eigenvalues.clip(min=0),
        basis.T @ vectors,
        np.einsum("qc,qck->qk", measured / loss_unit[:, None], vectors),
        np.einsum("qc,qck->qk", expected / expected_unit[:, None], vectors),
        loss_unit,
        expected_unit,
        kernel_unit,
    )


def whitening(decomposition: Eigendecomposition, fit: Fit) -> Axes:
    """Contrasts in which losses vary alike and independently, if the fit is right.

    Their squares sum to the number of contrasts on average over queries.
    """
    precision = 1 / (fit.variance[:, None] * _damped(decomposition, fit))
    return decomposition.axes * np.sqrt(precision / precision.mean())[:, None]


def fit(
    decomposition: Eigendecomposition,
    noises: Sequence[float],
    pooled: bool,
    left_out: bool,
) -> Fit:
    """The best of these λ, with the scale and variance of greatest likelihood.

    Args:
        decomposition: Losses.
        noises: λ to choose from.
        pooled: All queries share λ, scale and variance.
        left_out: Judge λ by how well each member's loss is predicted by the others,
            not by the marginal likelihood.
    """
    fits = [_at(decomposition, noise, pooled) for noise in noises]
    if left_out:
        objectives = [
            -np.square(left_out_errors(decomposition, one)).mean(axis=1) for one in fits
        ]
    else:
        objectives = [log_likelihood(decomposition, one) for one in fits]
    objective = np.stack(objectives)
    judged = np.broadcast_to(objective.sum(1, keepdims=True), objective.shape)
    best = (judged if pooled else objective).argmax(axis=0)
    queries = np.arange(len(best))
    noise, scale, variance, information = (
        np.stack([getattr(one, name) for one in fits])[best, queries]
        for name in ("noise", "scale", "variance", "information")
    )
    return Fit(noise, scale, variance, information, objective[best, queries])


def best(
    priors: Iterable[Prior],
    included: Inclusion,
    losses: Losses,
    noises: Sequence[float],
    pooled: bool,
    left_out: bool,
) -> tuple[int, tuple[Prior, Eigendecomposition, Fit]]:
    """Of several priors the one whose best fit is best over all queries, and its number.

    Args:
        priors: At least one; all but the best so far are let go.
        included: The members' sources.
        losses: What they measured.
        noises: λ to choose from.
        pooled: As in `fit`.
        left_out: As in `fit`.
    """

    def fitted(prior: Prior) -> tuple[Prior, Eigendecomposition, Fit]:
        decomposition = decompose(prior, included, losses)
        return prior, decomposition, fit(decomposition, noises, pooled, left_out)

    numbered = enumerate(map(fitted, priors))
    return max(numbered, key=lambda each: each[1][2].objective.sum())


def log_likelihood(decomposition: Eigendecomposition, fit: Fit) -> OfQuery:
    """Logarithm of the density of the contrasts between losses."""
    variances = fit.variance[:, None] * _damped(decomposition, fit)
    variances = variances * np.square(decomposition.loss_unit)[:, None]
    residuals = decomposition.loss_unit[:, None] * _residual(decomposition, fit)
    terms = np.log(2 * np.pi * variances) + np.square(residuals) / variances
    return -terms.sum(axis=1) / 2


def left_out_errors(
    decomposition: Eigendecomposition, fit: Fit
) -> Float64[np.ndarray, "queries members"]:
    """Each member's loss minus what the others predict, in units of the losses.

    The others keep λ and scale, and find the constant anew. With Q the inverse of the
    contrasts' covariance and r the residuals, the error is [Qr] over the diagonal of Q
    (Dubrule 1983), so nothing is fitted again.
    """
    damped = _damped(decomposition, fit)
    pull = np.einsum(
        "qmk,qk->qm", decomposition.axes, _residual(decomposition, fit) / damped
    )
    diagonal = np.einsum("qmk,qk->qm", np.square(decomposition.axes), 1 / damped)
    return pull / diagonal


def posterior(
    prior: Prior, included: Inclusion, decomposition: Eigendecomposition, fit: Fit
) -> tuple[Effects, Effects]:
    """Mean and standard deviation of every effect, once the losses are known.

        mean = a g - W Aᵀ (A W Aᵀ + λ)⁻¹ (losses + a A g)

    That a is estimated too counts in the deviation; that λ, variance and spread are
    does not.
    """
    mean = np.empty_like(prior.expected)
    deviation = np.empty_like(prior.expected)
    damped = _damped(decomposition, fit)
    solved = _residual(decomposition, fit) / damped
    for some, _ in _blocks(prior.prior_variance, damped.shape[1]):
        columns = np.einsum("ms,qmk->qsk", included, decomposition.axes[some])
        gain = prior.times(some, columns) / decomposition.kernel_unit[some, None, None]
        unit = decomposition.expected_unit[some, None]
        expected = prior.expected[some] / unit
        correction = np.einsum("qsk,qk->qs", gain, solved[some])
        mean[some] = fit.scale[some, None] * expected - correction
        known = np.einsum("qsk,qk->qs", np.square(gain), 1 / damped[some])
        open_ = prior.variances[some] / decomposition.kernel_unit[some, None] - known
        steep = expected - np.einsum(
            "qsk,qk->qs", gain, decomposition.expected[some] / damped[some]
        )
        # A scale of zero stands at its bound: nothing is added for it.
        fitted = np.where(fit.scale[some] > 0, fit.information[some], np.inf)
        open_ = open_.clip(min=0) + np.square(steep) / fitted[:, None]
        deviation[some] = np.sqrt(fit.variance[some, None] * open_)
    return mean * decomposition.loss_unit[:, None], deviation * decomposition.loss_unit[
        :, None
    ]


def unexplained(
    prior: Prior,
    included: Inclusion,
    losses: Losses,
    decomposition: Eigendecomposition,
    fit: Fit,
    new_included: Float64[np.ndarray, "new sources"],
    new_losses: Float64[np.ndarray, "new queries"],
) -> tuple[float, float]:
    """Squared errors at members that were not asked, and what deviations explain of them.

    Both are sums over these members and all queries, in units of the losses. Of the
    errors what noise explains is taken away, so both are the same on average if
    deviations are right and errors of effects independent.
    """
    mean, deviation = posterior(prior, included, decomposition, fit)
    constant = (losses + included @ mean.T).mean(axis=0)
    errors = np.square(new_losses - constant + new_included @ mean.T)
    noise = fit.noise * fit.variance * (1 + 1 / len(included))
    bars = np.square(new_included - included.mean(axis=0)) @ np.square(deviation).T
    squared_unit = np.square(decomposition.loss_unit)
    return float((errors / squared_unit - noise).sum()), float(
        (bars / squared_unit).sum()
    )


def _at(decomposition: Eigendecomposition, noise: float, pooled: bool) -> Fit:
    """Scale and variance of greatest likelihood at one λ; a scale is not negative."""
    damped = decomposition.eigenvalues + noise
    axis = None if pooled else 1
    information = (np.square(decomposition.expected) / damped).sum(axis=axis)
    pull = -(decomposition.expected * decomposition.measured / damped).sum(axis=axis)
    pull, information = (
        np.broadcast_to(value, len(damped)) for value in (pull, information)
    )
    nothing = np.zeros(len(damped))
    scale = np.divide(pull, information, out=nothing, where=information > FLOOR)
    scale = scale.clip(min=0)
    residual = decomposition.measured + scale[:, None] * decomposition.expected
    variance = (np.square(residual) / damped).mean(axis=axis)
    variance = np.broadcast_to(np.maximum(variance, FLOOR), len(damped))
    noises = np.full(len(damped), noise)
    return Fit(noises, scale, variance, information, nothing)


def _damped(
    decomposition: Eigendecomposition, fit: Fit
) -> Float64[np.ndarray, "queries contrasts"]:
    return decomposition.eigenvalues + fit.noise[:, None]


def _residual(
    decomposition: Eigendecomposition, fit: Fit
) -> Float64[np.ndarray, "queries contrasts"]:
    """Losses minus what the prior expects of them."""
    return decomposition.measured + fit.scale[:, None] * decomposition.expected


def unit(
    rows: Float64[np.ndarray, "*leading contrasts"],
    terms: Float64[np.ndarray, "*leading terms"],
) -> Float64[np.ndarray, "*leading"]:
    """Root mean square of each row; one for what is zero but for rounding.

    Args:
        rows: Differences.
        terms: How large that is which they are differences of.
    """
    size = np.sqrt(np.square(rows).mean(axis=-1))
    return np.where(size > FLOOR * np.abs(terms).mean(axis=-1), size, 1.0)


def _blocks(of: Effects, width: int) -> Iterator[tuple[slice, int]]:
    """Queries whose columns fit into memory together, and how many these are."""
    n_queries, n_sources = of.shape
    at_once = max(1, AT_ONCE // (n_sources * width))
    for first in range(0, n_queries, at_once):
        last = min(first + at_once, n_queries)
        yield slice(first, last), last - first
