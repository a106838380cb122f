"""False attribution: does a rule still name a source that is not there any more?

A *rule* looks at a picture and names a source. Remove the source that it names for a
query, look at the new picture, and ask again: with u the share of queries for which it
names the same source once more, and p that share when some other source is removed
instead, the *false attribution rate* is u / p. It is 0 where removing the named source
always changes the answer, and 1 where that changes it no more often than removing
any other. (Dai & Gifford 2026, Nature Communications 17, 6974)

The *counterfactual radius* of a query is how far the removal of any one source moves
it at most; the placebos' radius is what as many placebos reach.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float, Float32, Float64, Int64
from scipy.spatial.distance import cdist

from ensemble.ablation import removal_sets
from ensemble.data import encoders
from ensemble.evaluation import predictors, tables
from ensemble.evaluation.metrics import intervals
from ensemble.evaluation.options import Options
from ensemble.evaluation.predictors import Predictor
from ensemble.evaluation.tables import Row
from ensemble.provenance.plans import Plan
from ensemble.run import records
from ensemble.run.files import read_json
from ensemble.run.folder import Run
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.scorers import SCORERS, by_source, runner
from ensemble.system import seeding

SEED = 0

Pictures = Float32[np.ndarray, "queries channels height width"]
Rule = Callable[[Pictures], Int64[np.ndarray, " queries"]]


def rates(
    named: Int64[np.ndarray, " queries"],
    without_it: Int64[np.ndarray, " queries"],
    without_another: Int64[np.ndarray, "queries others"],
) -> dict[str, float]:
    """How often a rule names the same source again.

    Args:
        named: What it names for each query.
        without_it: What it names once that is removed.
        without_another: What it names once another source is removed.

    Returns:
        u, p and u / p, which is not a number where p is 0.
    """
    again = float((without_it == named).mean())
    anyway = float((without_another == named[:, None]).mean())
    rate = again / anyway if anyway else np.nan
    return {"named_again": again, "named_anyway": anyway, "false_attribution": rate}


def nearest(encode: Callable[[np.ndarray], np.ndarray], plan: Plan) -> Rule:
    """The source of the training image that looks most like the picture.

    Args:
        encode: From pictures to rows whose distances count.
        plan: The training images and their sources.
    """
    train = encode(np.asarray(plan.data.images))

    def rule(pictures: np.ndarray) -> np.ndarray:
        closest = cdist(encode(pictures), train).argmin(axis=1)
        return np.asarray(plan.source_of)[closest].astype(np.int64)

    return rule


def highest_score(
    run: Run, pipe: EnsemblePipeline, plan: Plan, asked: Queries, method: Predictor
) -> Rule:
    """The source with the highest score for the picture."""
    scorer, which = SCORERS[method.facts["method"]], method.facts["model"]

    def rule(pictures: np.ndarray) -> np.ndarray:
        given = Queries(asked.seeds, asked.conditions, pictures)
        context = runner.context_of(run, pipe, plan, given, which)
        found = scorer.score(context)
        sources = by_source(found, context.source_of, context.n_sources)
        return sources.argmax(axis=1).astype(np.int64)

    return rule


def expected_largest(
    placebo: Float[np.ndarray, "queries placebos"], n: int
) -> Float64[np.ndarray, " queries"]:
    """Mean of the largest of n placebos, over all ways to draw them.

        sum over i of v_(i) C(i - 1, n - 1) / C(n_placebos, n),  v_(1) <= v_(2) <= ...

    Not a number where there are fewer placebos.
    """
    n_placebos = placebo.shape[1]
    if n_placebos < n:
        return np.full(len(placebo), np.nan)
    rank = np.arange(n, n_placebos + 1)
    share = np.exp(_log_choose(rank - 1, n - 1) - _log_choose(n_placebos, n))
    return np.sort(placebo.astype(np.float64), axis=1)[:, n - 1 :] @ share


def radius(
    displacement: Float[np.ndarray, "queries sources"],
    placebo: Float[np.ndarray, "queries placebos"],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Counterfactual radius beside that of as many placebos; intervals over queries."""
    largest = displacement.max(axis=1).astype(np.float64)
    of_placebos = expected_largest(placebo, displacement.shape[1])
    found = {
        "radius": lambda at: float(largest[at].mean()),
        "radius_geometric": lambda at: float(np.exp(np.log(largest[at]).mean())),
        "radius_of_placebos": lambda at: float(of_placebos[at].mean()),
        "radius_minus_placebo": lambda at: float((largest - of_placebos)[at].mean()),
    }
    return {
        name: intervals.bootstrap(statistic, len(largest), rng)
        for name, statistic in found.items()
    }


def work(run: Run, plan: Plan, options: Options) -> str:
    """Nothing is trained."""
    del run, plan, options
    return ""


def evaluate(run: Run, pipe: EnsemblePipeline, plan: Plan, options: Options) -> Path:
    """False attribution of every rule, and the radius; returns the table's file."""
    removal_sets.each_source(plan)
    asked = queries.load(run, options.name)
    scores = _scores(run, options)
    path = tables.file(run, "far", options.name)
    tabled = _influences(run, options.name)
    identity = {
        **asked.facts(),
        "code_book_digest": plan.codes.digest(),
        "weights_digest": queries.membership_of(run, pipe).weights_digest,
        "n_random": options.n_random,
        "methods": {method.method: method.digest for method in scores},
        "influence": {name: files for name, (_, _, files) in tabled.items()},
    }
    if tables.is_current(path, identity):
        return path
    rules = {
        "nearest_pixels": nearest(lambda images: images.reshape(len(images), -1), plan),
        "nearest_features": nearest(
            encoders.train(np.asarray(plan.data.images), plan.data.labels), plan
        ),
    }
    for method in scores:
        rules[method.method] = highest_score(run, pipe, plan, asked, method)
    rows = [
        {"rule": name, **_judged(pipe, plan, asked, rule, options.n_random)}
        for name, rule in rules.items()
    ]
    rng = seeding.rng(SEED, "resamples of queries")
    facts = {
        "n_images": len(plan.data.images),
        "n_sources": plan.codes.n_sources,
        "n_queries": len(asked.seeds),
        "radius": {
            name: radius(displacement, placebo, rng)
            for name, (displacement, placebo, _) in tabled.items()
        },
    }
    tables.write(path, identity, rows, facts)
    return path


def _judged(
    pipe: EnsemblePipeline, plan: Plan, asked: Queries, rule: Rule, n_random: int
) -> Row:
    """Rates of one rule, with intervals over queries."""
    named = rule(asked.images)
    rng = seeding.rng(SEED, "other sources")
    # Uniform among all sources but the named one.
    steps = rng.integers(1, plan.codes.n_sources, size=(n_random, len(named)))
    others = (named + steps) % plan.codes.n_sources
    without_it = rule(_without(pipe, plan, asked, named))
    without_another = np.stack(
        [rule(_without(pipe, plan, asked, other)) for other in others], axis=1
    )
    rng = seeding.rng(SEED, "resamples of queries")
    return {
        name: intervals.bootstrap(
            lambda at, name=name: rates(named[at], without_it[at], without_another[at])[
                name
            ],
            len(named),
            rng,
        )
        for name in ("false_attribution", "named_again", "named_anyway")
    }


def _without(
    pipe: EnsemblePipeline, plan: Plan, asked: Queries, sources: np.ndarray
) -> Pictures:
    """Every query without a source of its own."""
    votes = removal_sets.votes_without(plan.seen_by(pipe.members.member_ids)[sources])
    pictures = queries.ablated_pictures(pipe, asked, np.arange(len(sources)), votes)
    return pictures.cpu().float().numpy()


def _scores(run: Run, options: Options) -> list[Predictor]:
    """Methods that can be asked again about another picture."""
    return [
        method
        for method in predictors.find(run, options.name, options.methods)
        if method.kind == "score" and method.facts["method"] in SCORERS
    ]


def _influences(run: Run, name: str) -> dict[str, tuple[np.ndarray, np.ndarray, str]]:
    """Displacement, placebos and digest of every table of displacement."""
    found = {}
    for folder, method in predictors.ablations(run, name):
        files = read_json(folder / "info.json")["files"]
        if "displacement.npy" in files:
            displacement, placebo = (
                records.checked_array(folder, "info.json", f"{file}.npy")
                for file in ("displacement", "placebo")
            )
            found[method] = (displacement, placebo, files["displacement.npy"])
    return found


def _log_choose(n: Any, k: int) -> Any:
    gammaln = scipy.special.gammaln
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
