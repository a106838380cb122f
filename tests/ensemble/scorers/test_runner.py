"""Scores of a run: what is scored, what is written, and when nothing is done again."""

import dataclasses

import numpy as np
import pytest
import torch

from ensemble.models.conditioning import ClassLabels
from ensemble.models.objective import objective_of
from ensemble.run import files, folder
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.sampling.schedulers import SCHEDULERS
from ensemble.scorers import SCORERS, by_source, score_files, scored_models
from ensemble.scorers.curvature.kfac import Curvature
from ensemble.scorers.methods.controls import Constant, Random
from ensemble.scorers.methods.georgiev2023journey import JourneyTrak
from ensemble.scorers.methods.lin2025das import Das
from ensemble.scorers.methods.mlodozeniec2025influence import InfluenceFunction
from ensemble.scorers.methods.park2023trak import Trak
from ensemble.scorers.methods.pruthi2020tracin import GradientDot
from ensemble.scorers.methods.similarity import FeatureCosine, pixels
from ensemble.scorers.posterior.posterior import Posterior
from ensemble.scorers.runner import context_of, listing, score, scores_of
from ensemble.scorers.scored_models import trajectory_of
from ensemble.training.members import train_members
from ensemble.training.process import Stopping
from splits.errors import BadInput
from tests import tiny
from tests.ensemble.scorers.tiny_context import DRAWS, FEATURE

DOT = GradientDot(FEATURE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run, plan = tiny.trained(tmp_path_factory.mktemp("run"))
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "demo", [3, 4])
    assert not train_members(run, [folder.REFERENCE], plan, Stopping())
    return run, pipe, plan


def asked_of(pipe, labels=None) -> Queries:
    seeds = np.array([3, 4])
    images = pipe(seeds=seeds, class_labels=labels, output_type="latent").images
    conditions = None if labels is None else np.array(labels)
    return Queries(seeds, conditions, images.float().numpy())


def test_scores_are_written_with_what_they_are(trained):
    run, _, plan = trained
    path = score(*trained, "demo", "dot", scorer=DOT)
    assert path == run.path / "scores" / "demo" / "dot.npy"
    found = score_files.load(run, "demo", "dot")
    assert found.shape == (2, plan.codes.n_sources)
    assert found.dtype == np.float32
    sidecar = files.read_json(path.with_suffix(".json"))
    assert sidecar["method"] == "dot"
    assert sidecar["class"] == "GradientDot"
    assert sidecar["options"]["feature"]["projection"]["n_dimensions"] == 64
    assert sidecar["model"] == "ensemble"
    assert sidecar["networks"] == 4
    assert sidecar["code_book_digest"] == plan.codes.digest()
    assert "higher" in sidecar["sign"]
    assert sidecar["scale"] == DOT.scale
    # Each image was seen by one member; all four look at both queries.
    assert sidecar["gradient_evaluations"] == 3 * (8 + 4 * 2)
    assert sidecar["seconds"] > 0
    assert sidecar["peak_memory_bytes"] > 2**20
    assert "score demo dot" in files.read_json(run.manifest)["stages"]


def test_scoring_twice_is_scoring_once(trained):
    path = score(*trained, "demo", "dot", scorer=DOT)
    before = path.stat().st_mtime_ns
    assert score(*trained, "demo", "dot", scorer=DOT) == path
    assert path.stat().st_mtime_ns == before


def test_scores_that_a_kill_kept_off_the_record_are_put_on_it(trained):
    run, stage = trained[0], "score demo dot"
    path = score(*trained, "demo", "dot", scorer=DOT)
    before = path.stat().st_mtime_ns
    tiny.forget_stage(run, stage)
    score(*trained, "demo", "dot", scorer=DOT)
    assert path.stat().st_mtime_ns == before
    assert stage in files.read_json(run.manifest)["stages"]


def test_scores_without_their_sidecar_are_made_again(trained):
    path = score(*trained, "demo", "chance", scorer=Random())
    wanted = np.load(path)
    path.with_suffix(".json").unlink()
    np.save(path, np.zeros_like(wanted))
    score(*trained, "demo", "chance", scorer=Random())
    assert np.array_equal(score_files.load(trained[0], "demo", "chance"), wanted)


def test_scores_with_other_options_are_not_overwritten(trained):
    score(*trained, "demo", "lucky", scorer=Random(seed=1))
    with pytest.raises(BadInput, match="another options: {'seed': 1}"):
        score(*trained, "demo", "lucky", scorer=Random(seed=2))


def test_scores_of_other_pictures_are_not_overwritten(trained):
    run, pipe, plan = trained
    score(*trained, "demo", "ones", scorer=Constant())
    sidecar = run.scores("demo") / "ones.json"
    facts = files.read_json(sidecar)
    files.write_json(sidecar, {**facts, "queries_digest": "other"})
    with pytest.raises(BadInput, match="another queries_digest"):
        score(run, pipe, plan, "demo", "ones", scorer=Constant())


def mean_of_who_saw(of_members, plan):
    """The mean of members' scores, each source's over those that saw it."""
    n_saw = plan.codes.bits[:, : len(of_members)].sum(axis=1)
    return np.sum(of_members, axis=0) / np.maximum(n_saw, 1)


def test_the_ensembles_score_is_the_mean_of_its_members(trained):
    run, _, plan = trained
    for member in range(4):
        path = score(*trained, "demo", "dot", member, scorer=DOT)
        assert path.name == f"dot-member-{member}.npy"
    score(*trained, "demo", "dot", scorer=DOT)
    of_members = [score_files.load(run, "demo", "dot", member) for member in range(4)]
    np.testing.assert_allclose(
        score_files.load(run, "demo", "dot"),
        mean_of_who_saw(of_members, plan),
        rtol=1e-5,
    )


def test_the_first_members_are_a_model_of_their_own(trained):
    run, _, plan = trained
    path = score(*trained, "demo", "dot", "first-2", scorer=DOT)
    assert path.name == "dot-first-2.npy"
    assert files.read_json(path.with_suffix(".json"))["networks"] == 2
    for member in range(2):
        score(*trained, "demo", "dot", member, scorer=DOT)
    of_members = [score_files.load(run, "demo", "dot", member) for member in range(2)]
    found = score_files.load(run, "demo", "dot", "first-2")
    np.testing.assert_allclose(found, mean_of_who_saw(of_members, plan), rtol=1e-5)


def test_a_prior_is_made_of_the_model_that_it_names(trained):
    run, *_ = trained
    scorer = Posterior(priors=("pixel_dot", "constant@ensemble"), draws=DRAWS)
    path = score(*trained, "demo", "named", scorer=scorer)
    assert (run.scores("demo") / "pixel_dot-reference.npy").exists()
    assert (run.scores("demo") / "constant.npy").exists()
    weights = files.read_json(path.with_suffix(".json"))["notes"][0]["weights"]
    assert "constant@ensemble, damping own, raw" in weights


def test_a_member_scores_only_the_sources_of_its_split(trained):
    run, _, plan = trained
    score(*trained, "demo", "dot", 2, scorer=DOT)
    found = score_files.load(run, "demo", "dot", 2)
    assert np.array_equal(found[0] != 0, plan.codes.bits[:, 2])


def test_a_reference_model_scores_every_source(trained):
    run, *_ = trained
    score(*trained, "demo", "dot", "reference", scorer=DOT)
    found = score_files.load(run, "demo", "dot", "reference")
    assert (found != 0).all()
    # A member says nothing of what it did not see, and other things than the reference.
    score(*trained, "demo", "dot", 1, scorer=DOT)
    member = score_files.load(run, "demo", "dot", 1)
    assert (member == 0).any()
    assert tiny.different(found[member != 0], member[member != 0])


def test_members_that_are_not_loaded_are_not_scored(trained):
    run, _, plan = trained
    pair = EnsemblePipeline.from_pretrained(run.path, members=[3, 1])
    context = context_of(run, pair, plan, queries.load(run, "demo"))
    assert np.array_equal(context.included(), plan.codes.bits[:, [3, 1]].T)


def test_queries_and_training_images_never_share_noise(trained):
    run, pipe, plan = trained
    context = context_of(run, pipe, plan, queries.load(run, "demo"))
    assert context.train.keys.tolist() == list(range(8))
    assert (context.queries.keys > 10**6).all()
    assert len(set(context.queries.keys.tolist())) == 2


def test_conditional_members_are_told_labels(tmp_path):
    run, plan = tiny.trained(tmp_path / "run", model={"class_conditional": True})
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "demo", [3, 4], labels=[1, 0])
    context = context_of(run, pipe, plan, queries.load(run, "demo"), 0)
    assert context.train.condition.labels.tolist() == plan.data.labels.tolist()
    assert context.queries.condition.labels.tolist() == [1, 0]
    plain = DOT.score(context)
    for scorer in (JourneyTrak(FEATURE), Das(FEATURE, residual=DRAWS)):
        assert np.isfinite(scorer.score(context)).all()
    relabelled = dataclasses.replace(
        context.train,
        condition=ClassLabels((context.train.condition.labels + 1) % 3, 3),
    )
    found = DOT.score(dataclasses.replace(context, train=relabelled))
    assert not np.allclose(found, plain, rtol=1e-3)


def objective_by_name(name):
    return objective_of(tiny.config("none", model={"prediction_type": name}).model)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_journey_ends_at_the_picture(scheduler, prediction_type):
    pipe = tiny.ensemble(scheduler=scheduler, prediction_type=prediction_type)
    asked = asked_of(pipe)
    trajectory = trajectory_of(pipe, asked, objective_by_name(prediction_type))
    assert trajectory.clean.shape == (2, 4, 1, 8, 8)
    assert (trajectory.timesteps.diff() < 0).all()
    torch.testing.assert_close(
        trajectory.clean[:, -1],
        torch.tensor(asked.images).double(),
        rtol=1e-2,
        atol=1e-2,
    )


def test_a_journey_is_guided_as_the_picture_was():
    pipe = tiny.ensemble(n_classes=3)
    pipe.register_to_config(guidance_scale=3.0)
    asked = asked_of(pipe, labels=[2, 0])
    before = pipe.members.n_forwards
    trajectory = trajectory_of(pipe, asked, objective_by_name("epsilon"))
    # Four steps of two queries by every member, with and without their labels.
    assert pipe.members.n_forwards - before == 4 * 2 * 2 * pipe.members.n_members
    torch.testing.assert_close(
        trajectory.clean[:, -1],
        torch.tensor(asked.images).double(),
        rtol=1e-5,
        atol=1e-5,
    )


PATHS = {
    "trak": Trak(FEATURE),
    "ekfac": InfluenceFunction(curvature=Curvature(n_draws=2), draws=DRAWS),
}


@pytest.mark.parametrize("method", PATHS)
def test_a_path_of_dampings_is_kept_beside_the_score(trained, method):
    run, *_ = trained
    scorer = PATHS[method]
    path = score(*trained, "demo", method, scorer=scorer)
    with pytest.raises(BadInput, match="Score again with --dampings"):
        score_files.load_path(run, "demo", method)
    own = score_files.load(run, "demo", method)
    damping = score_files.damping_of(dataclasses.asdict(scorer))
    score(*trained, "demo", method, scorer=scorer, dampings=[0.01, damping])
    assert (path.parent / f"{method}.path.npy").exists()
    dampings, found = score_files.load_path(run, "demo", method)
    assert dampings == [0.01, damping]
    assert found.shape == (2, *own.shape)
    assert np.array_equal(score_files.load(run, "demo", method), own)
    assert np.array_equal(found[1], own)
    assert tiny.different(found[0] / np.abs(own).max(), own / np.abs(own).max())
    before = path.stat().st_mtime_ns
    score(*trained, "demo", method, scorer=scorer, dampings=[0.01])
    assert path.stat().st_mtime_ns == before


def test_scores_of_single_images_are_kept_on_request(trained):
    run, _, plan = trained
    score(*trained, "demo", "likeness", scorer=FeatureCosine(pixels))
    with pytest.raises(BadInput, match="Score again with --per-image"):
        score_files.load_images(run, "demo", "likeness")
    for per_image in (True, False):
        options = {"scorer": FeatureCosine(pixels), "per_image": per_image}
        score(*trained, "demo", "likeness", **options)
        images = score_files.load_images(run, "demo", "likeness")
        assert images.shape[1] == len(plan.data.images)
        sums = by_source(images, plan.source_of, plan.codes.n_sources)
        np.testing.assert_array_equal(score_files.load(run, "demo", "likeness"), sums)


def test_dampings_of_a_method_that_has_none_are_refused(trained):
    with pytest.raises(BadInput, match="random has no path of dampings"):
        score(*trained, "demo", "random", dampings=[1.0])


def test_what_a_method_found_out_is_in_the_sidecar(trained):
    path = score(*trained, "demo", "noted", scorer=Trak(FEATURE))
    notes = files.read_json(path.with_suffix(".json"))["notes"]
    assert len(notes) == 4
    # Two images a member, so two directions.
    assert [note["rank"] for note in notes] == [2] * 4
    assert list(notes[0]["damping"]) == ["1"]
    path = score(*trained, "demo", "noted_dot", scorer=DOT)
    assert files.read_json(path.with_suffix(".json"))["notes"] == []


def test_a_function_among_the_options_goes_by_its_name(trained):
    path = score(*trained, "demo", "pixels", scorer=FeatureCosine(pixels))
    options = files.read_json(path.with_suffix(".json"))["options"]
    assert options == {"encoder": "pixels"}


def test_the_listing_says_what_every_method_is():
    text = listing()
    for method, scorer in SCORERS.items():
        assert f"\n{method}\n" in f"\n{text}"
        assert scorer.paper in text


def test_an_unknown_method_is_refused(trained):
    with pytest.raises(BadInput, match="There is no method 'trac'; known: random"):
        score(*trained, "demo", "trac")


@pytest.mark.parametrize("which", [4, "everyone", "first-5", "first-0", "first-"])
def test_an_unknown_model_is_refused(trained, which):
    with pytest.raises(
        BadInput, match="allowed: ensemble, reference, first-1 to first-4"
    ):
        score(*trained, "demo", "nobody", which, scorer=DOT)


def test_a_missing_reference_is_refused(trained, tmp_path):
    run, pipe, plan = trained
    elsewhere = dataclasses.replace(run, path=tmp_path)
    advice = r"no reference model.*train\.py .*config\.yaml --reference"
    with pytest.raises(BadInput, match=advice):
        context_of(elsewhere, pipe, plan, queries.load(run, "demo"), "reference")


def test_scores_that_are_not_finite_are_refused(trained):
    class Broken(Constant):
        def score(self, context):
            return super().score(context) * np.float32("nan")

    with pytest.raises(BadInput, match="Scores by broken are not finite"):
        score(*trained, "demo", "broken", scorer=Broken())
    assert not (trained[0].scores("demo") / "broken.npy").exists()


def test_a_score_that_is_there_but_damaged_is_not_taken_for_done(trained):
    run, *_ = trained
    path = score(*trained, "demo", "damaged", scorer=DOT)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"damaged\.npy is damaged: .*by .*\.json"):
        score(*trained, "demo", "damaged", scorer=DOT)
    path.unlink()
    score(*trained, "demo", "damaged", scorer=DOT)
    assert np.isfinite(score_files.load(run, "demo", "damaged")).all()


def test_a_posterior_writes_error_bars_and_makes_the_priors_that_are_missing(trained):
    run, *_ = trained
    scorer = Posterior(priors=("pixel_dot", "constant"), draws=DRAWS)
    path = score(*trained, "demo", "both", scorer=scorer)
    mean, errors = (
        load(run, "demo", "both")
        for load in (score_files.load, score_files.load_errors)
    )
    assert errors.shape == mean.shape
    assert errors.dtype == np.float32
    assert (errors > 0).all()
    assert path.with_suffix(".errors.npy") == score_files.errors_file(path)
    assert (run.scores("demo") / "pixel_dot-reference.npy").exists()
    assert (run.scores("demo") / "constant-reference.npy").exists()
    notes = files.read_json(path.with_suffix(".json"))["notes"]
    assert notes[-1]["n_members"] == 4


def test_a_posteriors_seconds_count_its_priors_whenever_they_were_scored(trained):
    run, *_ = trained
    plain = Posterior(priors=("pixel_dot",), prior_model=1, draws=DRAWS)

    def seconds(called, scorer):
        path = score(*trained, "demo", called, scorer=scorer)
        return files.read_json(path.with_suffix(".json"))["seconds"]

    priors = [*plain.priors, "feature_cosine"]
    several = dataclasses.replace(plain, priors=tuple(priors))
    # A prior that took long, and is there; one that is scored for it, and in no time.
    score(*trained, "demo", "pixel_dot", which=1)
    sidecar = run.scores("demo") / "pixel_dot-member-1.json"
    facts = files.read_json(sidecar)
    files.write_json(sidecar, {**facts, "seconds": 1000.0})
    assert 1000 < seconds("built", plain) < 1100
    assert 1000 < seconds("built_of_both", several) < 1100


def test_a_prior_is_read_at_its_own_damping_and_at_those_asked_for(trained):
    run, pipe, plan = trained
    asked = (run, pipe, plan, "demo", 512, "dtrak", 1)
    (own,) = scores_of(*asked, [])
    other, more, less = scores_of(*asked, [10.0, 0.1])
    assert np.array_equal(own, other)
    dampings, path = score_files.load_path(run, "demo", "dtrak", 1)
    assert np.array_equal(path[dampings.index(10.0)], more)
    assert np.array_equal(path[dampings.index(0.1)], less)
    (blind,) = scores_of(run, pipe, plan, "demo", 512, "pixel_dot", 1, [10.0])
    assert np.array_equal(blind, score_files.load(run, "demo", "pixel_dot", 1))


def test_priors_of_queries_without_a_name_are_made_anew(trained):
    run, pipe, plan = trained
    asked = queries.load(run, "demo")
    context = context_of(run, pipe, plan, asked)
    assert context.scores is not None
    found = context.scores("dtrak", 1, [10.0, 0.1])
    kept = scores_of(run, pipe, plan, "demo", 512, "dtrak", 1, [10.0, 0.1])
    np.testing.assert_allclose(found, kept, rtol=1e-5)
    (blind,) = context.scores("pixel_dot", 1, [10.0])
    assert np.array_equal(blind, score_files.load(run, "demo", "pixel_dot", 1))


def test_methods_that_are_sure_of_themselves_have_no_error_bars(trained):
    score(*trained, "demo", "dot", scorer=DOT)
    with pytest.raises(BadInput, match="has no error bars: dot does not say"):
        score_files.load_errors(trained[0], "demo", "dot")


@pytest.mark.parametrize(
    ("which", "known"), [("ensemble", True), ("first-2", True), (0, False)]
)
def test_what_members_make_alone_is_known_of_the_first_members(trained, which, known):
    run, pipe, plan = trained
    context = context_of(run, pipe, plan, asked_of(pipe), which)
    assert (context.member_samples is not None) == known
    for number in range(len(context.networks) if known else 0):
        assert context.networks[number] is pipe.members.networks[number]


def test_members_alone_make_the_pictures_of_a_pipeline_of_one_member():
    pipe = tiny.ensemble(3)
    asked = asked_of(pipe)
    member_samples = scored_models.member_samples_of(pipe, asked)
    for number in range(3):
        one = tiny.ensemble(1)
        one.members.networks[0] = pipe.members.networks[number]
        wanted = one.pictures(asked.seeds.tolist()).float().numpy()
        np.testing.assert_allclose(member_samples.images(number), wanted, atol=1e-6)
