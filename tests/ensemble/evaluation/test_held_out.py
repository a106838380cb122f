"""Held-out images are queries like others, except that nothing generates them."""

import numpy as np
import pytest

from ensemble.ablation import influence, influence_request, removal_sets
from ensemble.ablation.measurements import MEASUREMENTS, denoising_loss_form
from ensemble.evaluation import held_out, predictors
from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.models.objective import objective_of
from ensemble.run import files
from ensemble.sampling import queries
from ensemble.scorers import runner, scored_models
from splits.errors import BadInput
from tests import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run, plan = tiny.trained(
        tmp_path_factory.mktemp("held_out") / "run",
        data={"n_images": 6},
        splits={"design": "balanced", "n_members": 4, "weight": 2},
    )
    pipe = tiny.pipeline_of(run)
    return run, pipe, plan


def images(n=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (n, 1, 8, 8)).astype(np.float32)


def test_held_out_images_are_scored_like_queries(trained):
    run, pipe, plan = trained
    asked = held_out.write(run, plan, "new", images())
    assert np.array_equal(asked.images, images())
    assert len(set(asked.seeds.tolist())) == 3
    assert (
        held_out.write(run, plan, "new", images()).seeds.tolist()
        == asked.seeds.tolist()
    )
    path = runner.score(run, pipe, plan, "new", "pixel_dot")
    expected = images().reshape(3, -1) @ plan.data.images.reshape(6, -1).T
    np.testing.assert_allclose(np.load(path), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "measure"),
    [
        ("exact", influence.measure_exactly),
        ("differential", influence.measure_differentially),
        ("adjoint", influence.measure_adjointly),
    ],
)
def test_no_method_ablates_pictures_that_no_noise_leads_to(trained, method, measure):
    run, pipe, plan = trained
    name = f"given_{method}"
    held_out.write(run, plan, name, images())
    chosen = {"brightness": MEASUREMENTS["brightness"]}
    asked = influence_request.Asked(
        run, pipe, plan, name, removal_sets.each_source(plan), chosen
    )
    with pytest.raises(BadInput, match="no noise leads to them"):
        measure(asked)
    assert not [*run.path.glob(f"influence/{name}*")]
    # Version 0.1 made such tables; they are not taken for an answer either.
    asked.folder(method).mkdir(parents=True)
    with pytest.raises(BadInput, match="no noise leads to them"):
        measure(asked)


def test_a_scorer_that_follows_the_sampler_refuses_them(trained):
    run, pipe, plan = trained
    held_out.write(run, plan, "new", images())
    with pytest.raises(BadInput, match="no noise leads to them"):
        scored_models.trajectory_of(
            pipe, queries.load(run, "new"), objective_of(run.config.model)
        )


def test_ablating_a_source_changes_their_loss_exactly(trained):
    run, pipe, plan = trained
    held_out.write(run, plan, "new", images())
    (folder,) = held_out.ablate(run, pipe, plan, "new", n_draws=4)
    (found,) = predictors.find(run, "new", ["ablation_loss"])
    asked = queries.load(run, "new")
    form = denoising_loss_form(
        pipe.members,
        objective_of(run.config.model),
        queries.on_device(pipe, asked.images),
        UNCONDITIONAL,
        4,
    ).numpy()
    silent = plan.codes.bits[2]
    without = form[1][np.ix_(~silent, ~silent)].mean()
    assert found.score[1, 2] == pytest.approx(without - form[1].mean(), rel=1e-3)
    before = (folder / "info.json").stat().st_mtime_ns
    held_out.ablate(run, pipe, plan, "new", n_draws=4)
    assert (folder / "info.json").stat().st_mtime_ns == before
    assert files.read_json(folder / "info.json")["n_members"] == pipe.members.n_members


def test_a_smaller_ensemble_is_the_first_members_alone(trained):
    run, pipe, plan = trained
    held_out.write(run, plan, "fewer", images())
    sizes = [None, 3]
    folders = held_out.ablate(run, pipe, plan, "fewer", n_draws=4, sizes=sizes)
    assert folders == [
        run.influence("fewer") / "loss",
        run.influence("fewer") / "loss-first-3",
    ]
    (found,) = predictors.find(run, "fewer", ["ablation_first_3_loss"])
    form = denoising_loss_form(
        pipe.members,
        objective_of(run.config.model),
        queries.on_device(pipe, queries.load(run, "fewer").images),
        UNCONDITIONAL,
        4,
    ).numpy()[:, :3, :3]
    silent = plan.codes.bits[2, :3]
    without = form[1][np.ix_(~silent, ~silent)].mean()
    assert found.score[1, 2] == pytest.approx(without - form[1].mean(), rel=1e-3)


def test_first_members_that_all_saw_a_source_are_refused(trained):
    run, pipe, plan = trained
    held_out.write(run, plan, "alone", images())
    with pytest.raises(BadInput, match="The first 1 members all saw source"):
        held_out.ablate(run, pipe, plan, "alone", n_draws=4, sizes=[1])


def test_training_images_are_not_held_out(trained):
    run, _, plan = trained
    some = np.concatenate([images(2), plan.data.images[3:4]])
    with pytest.raises(BadInput, match="Image 2 is a training image"):
        held_out.write(run, plan, "inside", some)


def test_a_name_is_of_one_set_of_images(trained):
    run, _, plan = trained
    held_out.write(run, plan, "taken", images())
    with pytest.raises(BadInput, match="'taken' exist with other images"):
        held_out.write(run, plan, "taken", images(seed=1))


def test_conditional_members_are_told_their_labels(tmp_path):
    run, plan = tiny.trained(tmp_path / "run", model={"class_conditional": True})
    labels = np.array([1, 0, 1])
    asked = held_out.write(run, plan, "new", images(), labels)
    assert asked.conditions.tolist() == [1, 0, 1]


@pytest.mark.parametrize("n_members", [0, 5])
def test_as_many_members_as_there_are_not_are_refused(trained, n_members):
    run, pipe, plan = trained
    with pytest.raises(
        BadInput, match=f"The first {n_members} members cannot .* 1 to 4"
    ):
        held_out.ablate(run, pipe, plan, "none", n_draws=4, sizes=[n_members])
