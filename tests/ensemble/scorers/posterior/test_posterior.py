"""The posterior: where its prior and its losses come from, and what options do."""

import dataclasses
import itertools

import numpy as np
import pytest

from ensemble.scorers import MemberSamples, SupportsUncertainty, by_source
from ensemble.scorers.gradients.losses import query_losses
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.posterior import combination, gaussian
from ensemble.scorers.posterior.posterior import Posterior, similarity_features
from splits.codes import CodeBook
from splits.errors import BadInput
from tests.ensemble.scorers import tiny_context
from tests.ensemble.scorers.methods.test_ilyas2022datamodels import (
    EFFECTS,
    Offset,
    linear_setting,
)
from tests.ensemble.scorers.tiny_context import DRAWS

PLAIN = Posterior(dampings=(), draws=DRAWS)


def truth(n_queries=3):
    """Every query's loss falls by the same effects."""
    return np.tile(EFFECTS, (n_queries, 1))


def with_prior(context, *scores):
    """The setting, where each method scores what is given, and better when damped."""

    def made(method, which, dampings):
        score = scores[int(method)]
        return np.stack([score, *[(score + truth()) / 2] * len(dampings)]).astype(
            np.float32
        )

    return dataclasses.replace(context, scores=made)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Eight members, four sources, and a prior that is half right."""
    plain = linear_setting(tmp_path_factory.mktemp("posterior"), n_members=8)
    rng = np.random.default_rng(2)
    score = truth() + 0.2 * rng.standard_normal((3, 4))
    other = truth() + 0.5 * rng.standard_normal((3, 4))
    noisy = [
        Offset(network.offset.item() ** 2 + 0.1 * abs(rng.standard_normal()))
        for network in plain.networks
    ]
    return with_prior(dataclasses.replace(plain, networks=noisy), score, other)


BOTH = dataclasses.replace(PLAIN, priors=("0", "1"))


def test_a_score_is_the_mean_in_equal_shares_over_a_sources_images(context):
    mean, _ = BOTH.with_errors(context)
    found = by_source(BOTH.score(context), context.source_of, context.n_sources)
    np.testing.assert_allclose(found, mean, rtol=1e-5)
    assert isinstance(BOTH, SupportsUncertainty)


@pytest.mark.parametrize("refits", [0, 1, 2])
def test_the_score_is_the_algebras_posterior_of_what_the_setting_holds(context, refits):
    scorer = Posterior(
        priors=("0", "1"),
        dampings=(),
        readouts=("raw",),
        powers=(0.7,),
        likenesses=("both",),
        shares=(0.3,),
        noise=0.5,
        refits=refits,
        folds=0,
        draws=DRAWS,
    )
    seen = context.included().astype(float)
    losses = query_losses(context, DRAWS)
    scores = [context.scores(name, "reference", ())[0] for name in ("0", "1")]
    guesses = np.stack(scores).astype(float)
    axes = None
    for _ in range(refits + 1):
        expected, _ = combination.combined(guesses, seen, losses, axes)
        prior_variance = gaussian.prior_variance_of(expected, 0.7)
        similarity = similarity_features(context, expected, "both")
        prior = gaussian.Prior(expected, prior_variance, similarity, 0.3)
        decomposition = gaussian.decompose(prior, seen, losses)
        fit = gaussian.fit(decomposition, [0.5], pooled=True, left_out=False)
        axes = gaussian.whitening(decomposition, fit)
    wanted = gaussian.posterior(prior, seen, decomposition, fit)
    np.testing.assert_allclose(scorer.with_errors(context), wanted, rtol=1e-12)


@pytest.mark.parametrize(("noise", "too_short"), [(0.01, False), (100.0, True)])
@pytest.mark.parametrize("folds", [3, 8, 100])
def test_bars_that_members_left_out_find_too_short_are_widened(
    context, folds, noise, too_short
):
    own = Posterior(
        priors=("0",),
        dampings=(),
        readouts=("raw",),
        powers=(1.0,),
        likenesses=("pixels",),
        shares=(0.0,),
        noise=noise,
        refits=0,
        folds=0,
        draws=DRAWS,
    )
    seen, losses = context.included().astype(float), query_losses(context, DRAWS)
    guess = context.scores("0", "reference", ()).astype(float)
    errors, bars = 0.0, 0.0
    for part in range(min(folds, 8)):
        new = np.arange(8) % folds == part
        asked, known = seen[~new], losses[~new]
        expected, _ = combination.combined(guess, asked, known)
        prior_variance = gaussian.prior_variance_of(expected, 1.0)
        prior = gaussian.Prior(expected, prior_variance, np.zeros((4, 1)), 0.0)
        decomposition = gaussian.decompose(prior, asked, known)
        fit = gaussian.fit(decomposition, [noise], pooled=True, left_out=False)
        mean, deviation = gaussian.posterior(prior, asked, decomposition, fit)
        for member, query in itertools.product(np.flatnonzero(new), range(3)):
            there = seen[member] - asked.mean(axis=0)
            predicted = known[:, query].mean() - there @ mean[query]
            unit = decomposition.loss_unit[query] ** 2
            errors += (losses[member, query] - predicted) ** 2 / unit
            errors -= noise * fit.variance[query] * (1 + 1 / len(asked))
            bars += there**2 @ deviation[query] ** 2 / unit
    assert (errors > bars) == too_short
    mean, deviation = own.with_errors(context)
    found = dataclasses.replace(own, folds=folds).with_errors(context)
    np.testing.assert_array_equal(found[0], mean)
    np.testing.assert_allclose(found[1], np.sqrt(max(1, errors / bars)) * deviation)


def test_members_that_measure_exactly_correct_a_wrong_prior(tmp_path):
    rng = np.random.default_rng(4)
    wrong = truth() + 0.2 * rng.standard_normal((3, 4))
    context = with_prior(linear_setting(tmp_path, n_members=12), wrong)
    mean, deviation = dataclasses.replace(PLAIN, priors=("0",)).with_errors(context)
    assert np.abs(mean - truth()).max() < 0.25 * np.abs(wrong - truth()).max()
    assert (np.abs(mean - truth()) < 4 * deviation + 1e-3).all()


def test_priors_are_asked_for_by_name_model_and_dampings(context):
    asked = []

    def made(method, which, dampings):
        asked.append((method, which, dampings))
        return context.scores(method, which, dampings)

    scorer = dataclasses.replace(BOTH, prior_model="3", dampings=(0.1, 1.0))
    noted = dataclasses.replace(context, scores=made, notes=[])
    scorer.score(noted)
    assert asked == [("0", "3", (0.1, 1.0)), ("1", "3", (0.1, 1.0))]
    weights, chosen = noted.notes
    assert list(weights["weights"])[:4] == [
        "0, damping own, raw",
        "0, damping own, squared",
        "0, damping own, signed_squared",
        "0, damping 0.1, raw",
    ]
    assert len(weights["weights"]) == 2 * 3 * 3
    assert chosen["power"] in PLAIN.powers
    assert chosen["likeness"] in PLAIN.likenesses
    assert chosen["share"] in PLAIN.shares
    assert chosen["n_members"] == 8
    assert len(chosen["noise"]) == len(chosen["scale"]) == 3


@pytest.mark.parametrize(("n_members", "model"), [(8, "ensemble"), (6, "first-6")])
def test_a_prior_may_name_its_model(context, n_members, model):
    asked = []

    def made(method, which, dampings):
        asked.append((method, which))
        return context.scores(method, which, dampings)

    scorer = dataclasses.replace(BOTH, priors=("0", "1@ensemble", "1@2"))
    asking = tiny_context.first(context, n_members)
    codes = CodeBook(np.ones((4, 8), dtype=bool))
    scorer.score(dataclasses.replace(asking, scores=made, codes=codes))
    assert asked == [("0", "reference"), ("1", model), ("1", 2)]


def test_displacements_take_the_place_of_losses(tmp_path):
    context = tiny_context.context(tmp_path)
    rng = np.random.default_rng(0)
    pattern = rng.standard_normal((3, 1, 8, 8)).astype(np.float32)
    queries = context.queries.images.numpy().astype(np.float32)
    losses = query_losses(context, DRAWS)

    def images(number):
        # As far from each query as the network's loss there says.
        size = np.sqrt(np.square(pattern).mean(axis=(1, 2, 3)))
        return queries + pattern * (losses[number] / size)[:, None, None, None].astype(
            np.float32
        )

    moved = dataclasses.replace(context, member_samples=MemberSamples(images, {}))
    of_losses = dataclasses.replace(PLAIN, priors=("trak",))
    found = dataclasses.replace(of_losses, measured="displacement").with_errors(moved)
    np.testing.assert_allclose(found, of_losses.with_errors(moved), rtol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"priors": ("0",)},
        {"priors": ()},
        {"dampings": (0.1,)},
        {"readouts": ("squared",)},
        {"powers": (2.0,)},
        {"likenesses": ("expected",)},
        {"shares": (1.0,)},
        {"noise": 30.0},
        {"criterion": "left_out"},
        {"pooled": False},
        {"refits": 0},
        {"folds": 0},
        {"draws": Draws(n_timesteps=2)},
        {"measured": "displacement"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_option_changes_the_score(context, change):
    # The losses of Offset do not depend on draws, and nothing samples with them, so
    # other members stand in for them.
    if {"draws", "measured"} & change.keys():
        context = tiny_context.context(context.folder)
        base = dataclasses.replace(PLAIN, priors=("trak",))
    else:
        base = dataclasses.replace(BOTH, powers=(0.5,))
    found = dataclasses.replace(base, **change).with_errors(context)
    assert not np.allclose(found, base.with_errors(context), rtol=1e-6)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("shares", (0.0, 0.5, 0.9)),
        ("powers", (0.0, 0.5, 1.0, 2.0)),
        ("likenesses", ("pixels", "expected", "both")),
    ],
)
def test_what_has_the_greatest_merit_is_taken(context, option, values):
    note = {"shares": "share", "powers": "power", "likenesses": "likeness"}[option]

    def objective(values):
        noted = dataclasses.replace(context, notes=[])
        # A second fit starts from the first choice.
        dataclasses.replace(BOTH, refits=0, **{option: values}).score(noted)
        return sum(noted.notes[-1]["merit"]), noted.notes[-1][note]

    alone = {value: objective((value,))[0] for value in values}
    assert objective(values) == (
        max(alone.values()),
        max(alone, key=alone.get),
    )


def products(context, kind, expected=None):
    """How alike every two sources are; nothing is expected of them if not said."""
    if expected is None:
        expected = np.zeros((3, context.n_sources))
    similarity = similarity_features(context, expected, kind)
    return similarity @ similarity.T


def test_pictures_that_look_the_same_are_wholly_alike(tmp_path):
    context = tiny_context.context(tmp_path)
    images = context.train.images.clone()
    images[[1, 7]] = images[[0, 6]]
    same = dataclasses.replace(context.train, images=images)
    alike = products(dataclasses.replace(context, train=same), "pixels")
    np.testing.assert_allclose(np.diag(alike), 1)
    assert alike[0, 1] == pytest.approx(1)
    assert alike[0, 2] < 0.9


def test_sources_that_are_expected_to_do_the_same_are_wholly_alike(tmp_path):
    context = tiny_context.context(tmp_path)
    expected = np.random.default_rng(0).standard_normal((3, context.n_sources))
    expected[:, 1] = expected[:, 0]
    alike = products(context, "expected", expected)
    np.testing.assert_allclose(np.diag(alike), 1)
    assert alike[0, 1] == pytest.approx(1)
    assert np.abs(alike[0, 2:]).max() < 0.999
    larger = expected * np.array([[1.0], [100.0], [-3.0]])
    np.testing.assert_allclose(products(context, "expected", larger), alike)


def test_both_is_the_mean_of_pixels_and_expected(tmp_path):
    context = tiny_context.context(tmp_path)
    expected = np.random.default_rng(0).standard_normal((3, context.n_sources))
    one, other, both = (
        products(context, kind, expected) for kind in ("pixels", "expected", "both")
    )
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-12)


def test_where_nothing_is_expected_pixels_decide(tmp_path):
    context = tiny_context.context(tmp_path)
    pixels = products(context, "pixels")
    np.testing.assert_allclose(products(context, "both"), pixels)
    assert not products(context, "expected").any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measured": "size"}, "measured is 'size'; allowed: loss, displacement"),
        ({"criterion": "test"}, "criterion is 'test'; allowed: likelihood, left_out"),
        ({"readouts": ("cubed",)}, "readouts are .*cubed.*; some of raw, squared"),
        ({"readouts": ()}, r"readouts are \(\)"),
        (
            {"likenesses": ("size",)},
            "likenesses are .*size.*; some of pixels, expected",
        ),
        ({"likenesses": ()}, r"likenesses are \(\)"),
        ({"folds": 1}, "folds is 1; 0, or at least 2"),
        ({"folds": -1}, "folds is -1"),
        ({"refits": -1}, "refits is -1; 0 or more"),
        ({"shares": (0.5, 1.5)}, "shares are .*1.5.*; numbers from 0 to 1"),
        ({"shares": ()}, r"shares are \(\)"),
        ({"powers": (0.5, 2.5)}, "powers are .*2.5.*; numbers from 0 to 2"),
        ({"powers": ()}, r"powers are \(\)"),
        ({"noise": 0.0}, "noise is 0.0; it must be greater than 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        Posterior(**options)


def test_too_few_networks_are_refused(tmp_path):
    context = tiny_context.context(tmp_path)
    with pytest.raises(BadInput, match="at least 4 members, and there are 1"):
        PLAIN.score(tiny_context.of_reference(context))


def test_priors_need_scores(tmp_path):
    bare = dataclasses.replace(tiny_context.context(tmp_path), scores=None)
    with pytest.raises(
        BadInput, match="trak, dtrak, das.* score, and this scoring context has"
    ):
        PLAIN.score(bare)
    dataclasses.replace(PLAIN, priors=()).score(bare)
