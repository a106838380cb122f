"""The ensemble is a model: stock pipelines, votes, seeds and folders agree with it."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    EulerAncestralDiscreteScheduler,
)

from ensemble.certificate import certificate
from ensemble.run.config import SamplingConfig
from ensemble.run.folder import PIPELINE
from ensemble.sampling import queries
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.schedulers import SCHEDULERS, sampler
from ensemble.sampling.trajectory import query_generators
from ensemble.sampling.vote_arguments import checked_votes
from splits.codes import CodeBook, ablated_votes
from splits.errors import BadInput
from tests import tiny

STOCK = {"ddim": DDIMPipeline, "ddpm": DDPMPipeline}


@pytest.fixture(scope="module")
def pipe() -> EnsemblePipeline:
    return tiny.ensemble(codes=tiny.codes())


@pytest.mark.parametrize("scheduler", STOCK)
def test_one_member_is_bit_identical_to_the_stock_pipeline(scheduler):
    alone = tiny.ensemble(1, scheduler=scheduler)
    stock = STOCK[scheduler](unet=alone.members.networks[0], scheduler=alone.scheduler)
    stock.set_progress_bar_config(disable=True)
    expected = stock(
        batch_size=3,
        generator=query_generators([3, 4, 5]),
        num_inference_steps=4,
        output_type="pt",
    ).images
    found = alone(seeds=[3, 4, 5], num_inference_steps=4, output_type="pt").images
    assert torch.equal(found, expected)


def test_a_lone_vote_is_that_member(pipe):
    votes = np.eye(4)[2]
    alone = EnsemblePipeline(members=tiny.ensemble(4).members, scheduler=pipe.scheduler)
    alone.members.networks = torch.nn.ModuleList([alone.members.networks[2]])
    alone.members.member_ids = [2]
    alone.set_progress_bar_config(disable=True)
    found = pipe(seeds=[0, 1], votes=votes, output_type="latent").images
    expected = alone(seeds=[0, 1], num_inference_steps=4, output_type="latent").images
    assert torch.equal(found, expected)


def test_votes_average_predicted_noise(pipe):
    torch.manual_seed(0)
    noisy, votes = torch.randn(5, 1, 8, 8).double(), torch.rand(5, 4).double()
    votes[0, 1] = votes[3] = 0
    predictions = torch.stack(
        [pipe.members.predict_by(member, noisy, 500) for member in range(4)]
    )
    expected = torch.einsum("im,michw->ichw", votes, predictions)
    torch.testing.assert_close(pipe.members(noisy, 500, votes), expected)


def test_images_at_one_state_share_its_forward(pipe):
    torch.manual_seed(0)
    states, votes = torch.randn(2, 1, 8, 8).double(), torch.rand(6, 4).double()
    state_of = torch.tensor([0, 0, 1, 1, 1, 0])
    before = pipe.members.n_forwards
    shared = pipe.members(states, 500, votes, state_of=state_of)
    assert pipe.members.n_forwards - before == 2 * 4
    torch.testing.assert_close(shared, pipe.members(states[state_of], 500, votes))


def test_members_without_votes_do_not_run(pipe):
    before = pipe.members.n_forwards
    pipe(seeds=[0, 1, 2], ablate=[[0], [1], [0, 1]], output_type="latent")
    saw = pipe.codes.bits
    runs = (~saw[0]).sum() + (~saw[1]).sum() + (~(saw[0] | saw[1])).sum()
    assert pipe.members.n_forwards - before == 4 * runs


def test_ablating_is_voting_without_the_members_that_saw_it(pipe):
    by_name = pipe(seeds=[0, 1], ablate=[2], output_type="latent").images
    votes = ablated_votes(pipe.codes, [2])
    by_votes = pipe(seeds=[0, 1], votes=votes, output_type="latent").images
    assert torch.equal(by_name, by_votes)
    full = pipe(seeds=[0, 1], output_type="latent").images
    assert tiny.different(by_name, full)


def test_each_image_has_its_own_ablation(pipe):
    mixed = pipe(seeds=[0, 1, 2], ablate=[[], [2], [4]], output_type="latent").images
    alone = [
        pipe(seeds=[seed], ablate=sources, output_type="latent").images[0]
        for seed, sources in [(0, []), (1, [2]), (2, [4])]
    ]
    torch.testing.assert_close(mixed, torch.stack(alone))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_image_does_not_depend_on_its_batch(scheduler):
    pipe = tiny.ensemble(scheduler=scheduler)
    together = pipe(seeds=[5, 6, 7], output_type="latent").images
    alone = pipe(seeds=[6], output_type="latent").images[0]
    torch.testing.assert_close(together[1], alone)
    assert tiny.different(together[0], together[1])


def test_the_scheduler_is_copied_never_changed(pipe):
    pipe(seeds=[0], num_inference_steps=3)
    assert pipe.scheduler.num_inference_steps is None


def test_micro_batches_change_nothing():
    pipe = tiny.ensemble(codes=tiny.codes())
    whole = pipe(seeds=range(5), ablate=[0], output_type="latent").images
    pipe.members.forward_batch = 2
    parts = pipe(seeds=range(5), ablate=[0], output_type="latent").images
    torch.testing.assert_close(whole, parts)


def test_members_side_by_side_give_the_same_bits():
    pipe = tiny.ensemble(codes=tiny.codes())
    one = pipe(seeds=range(3), ablate=[0], output_type="latent").images
    pipe.members.side_by_side = 3
    assert torch.equal(
        pipe(seeds=range(3), ablate=[0], output_type="latent").images, one
    )
    noisy = torch.randn(2, 1, 8, 8).double().requires_grad_()
    votes = torch.full((2, 4), 0.25, dtype=torch.float64)
    assert pipe.members(noisy, 500, votes).requires_grad


def test_guiding_the_average_is_averaging_guided_members():
    pipe = tiny.ensemble(2, n_classes=3)
    guided = pipe(
        seeds=[0, 1],
        class_labels=[0, 2],
        guidance_scale=3.0,
        num_inference_steps=1,
        output_type="latent",
    ).images
    alone = [
        pipe(
            seeds=[0, 1],
            class_labels=[0, 2],
            guidance_scale=3.0,
            num_inference_steps=1,
            votes=votes,
            output_type="latent",
        ).images
        for votes in np.eye(2)
    ]
    torch.testing.assert_close(guided, (alone[0] + alone[1]) / 2)
    plain = pipe(seeds=[0, 1], class_labels=[0, 2], output_type="latent").images
    again = pipe(
        seeds=[0, 1], class_labels=[0, 2], guidance_scale=3.0, output_type="latent"
    ).images
    assert tiny.different(plain, again)


def test_a_label_changes_the_picture():
    pipe = tiny.ensemble(2, n_classes=3)
    images = pipe(seeds=[0, 0], class_labels=[0, 1], output_type="latent").images
    assert tiny.different(images[0], images[1])


def test_prediction_types_and_schedules_change_the_picture():
    for change in ({"prediction_type": "v_prediction"}, {"schedule": "cosine"}):
        one, other = tiny.ensemble(2), tiny.ensemble(2, **change)
        assert tiny.different(
            one(seeds=[0], output_type="latent").images,
            other(seeds=[0], output_type="latent").images,
        )


def test_output_types_show_the_same_picture(pipe):
    latent = pipe(seeds=[0], output_type="latent").images
    shown = pipe(seeds=[0], output_type="pt").images
    assert torch.equal(shown, (latent / 2 + 0.5).clamp(0, 1))
    arrays = pipe(seeds=[0], output_type="np").images
    assert np.array_equal(arrays, shown.permute(0, 2, 3, 1).float().numpy())
    picture = pipe(seeds=[0], output_type="pil").images[0]
    assert picture.size == (8, 8)
    assert np.array_equal(np.asarray(picture), (arrays[0, :, :, 0] * 255).round())
    assert torch.equal(pipe(seeds=[0], output_type="pt", return_dict=False)[0], shown)


def test_a_callback_sees_and_changes_every_step(pipe):
    seen = []

    def zero_at_the_end(_, step, timestep, tensors):
        seen.append((step, int(timestep)))
        return {"latents": tensors["latents"] * (step < 3)}

    images = pipe(
        seeds=[0], output_type="latent", callback_on_step_end=zero_at_the_end
    ).images
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert not images.any()


def test_given_latents_replace_drawn_noise(pipe):
    noise = torch.randn((2, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    given = pipe(batch_size=2, latents=noise, output_type="latent").images
    again = pipe(batch_size=2, latents=noise, output_type="latent").images
    assert torch.equal(given, again)


def test_save_and_load_is_exact(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = EnsemblePipeline.from_pretrained(tmp_path, torch_dtype=torch.float64)
    loaded.set_progress_bar_config(disable=True)
    for one, other in zip(
        pipe.members.state_dict().values(),
        loaded.members.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert np.array_equal(loaded.codes.bits, pipe.codes.bits)
    assert loaded.config["num_inference_steps"] == 4
    torch.testing.assert_close(
        loaded(seeds=[0], ablate=[1], output_type="latent").images,
        pipe(seeds=[0], ablate=[1], output_type="latent").images,
    )


def test_a_subset_of_members_votes_among_itself(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    subset = EnsemblePipeline.from_pretrained(
        tmp_path, members=[1, 3], torch_dtype=torch.float64
    )
    subset.set_progress_bar_config(disable=True)
    votes = np.array([0, 0.5, 0, 0.5])
    torch.testing.assert_close(
        subset(seeds=[0], output_type="latent").images,
        pipe(seeds=[0], votes=votes, output_type="latent").images,
    )
    source = int(np.flatnonzero(pipe.codes.bits[:, 1] & ~pipe.codes.bits[:, 3])[0])
    torch.testing.assert_close(
        subset(seeds=[0], ablate=[source], output_type="latent").images,
        pipe(seeds=[0], votes=np.eye(4)[3], output_type="latent").images,
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"seeds": [0], "votes": [1, 0, 0]}, "votes have shape"),
        ({"seeds": [0], "votes": [2, -1, 0, 0]}, "finite and non-negative"),
        ({"seeds": [0], "votes": [1, 1, 0, 0]}, "sum to one"),
        ({"seeds": [0], "votes": [1, 0, 0, 0], "ablate": [1]}, "only one of votes"),
        ({"seeds": [0], "ablate": [99]}, "Source 99 does not exist"),
        (
            {"seeds": [0], "ablate": list(range(6))},
            "None of the 4 members is left to vote without sources 0, 1, 2, 3, 4, 5:",
        ),
        ({"seeds": [0, 1], "ablate": [[1]]}, "1 lists for 2 images"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [0], "generator": torch.Generator()}, "seeds or generator"),
        ({"batch_size": 2, "generator": [torch.Generator()]}, "1 generators came"),
        ({"seeds": [0], "output_type": "jpg"}, "output_type is 'jpg'"),
        ({"seeds": [0], "num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"seeds": [0], "class_labels": 3}, "unconditional"),
        (
            {"seeds": [0], "callback_on_step_end_tensor_inputs": ["noise"]},
            "allowed: latents",
        ),
    ],
)
def test_bad_calls_say_what_is_allowed(pipe, call, message):
    with pytest.raises(BadInput, match=message):
        pipe(**call)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "give class_labels"),
        ([0, 1, 1], "3 class_labels"),
        (7, "allowed: 0 to 2"),
    ],
)
def test_bad_labels_say_what_is_allowed(labels, message):
    pipe = tiny.ensemble(1, n_classes=3)
    with pytest.raises(BadInput, match=message):
        pipe(seeds=[0, 1], class_labels=labels)


def test_ablation_needs_a_code_book():
    with pytest.raises(BadInput, match="no code book"):
        tiny.ensemble(2)(seeds=[0], ablate=[0])


def test_an_empty_folder_is_no_pipeline(tmp_path):
    with pytest.raises(BadInput, match="holds no pipeline"):
        EnsemblePipeline.from_pretrained(tmp_path)


def test_a_member_that_is_not_there_is_named(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="Member 9 is not in .*holds 0-3"):
        EnsemblePipeline.from_pretrained(tmp_path, members=[9])
    shutil.copytree(tmp_path / "scheduler", tmp_path / "empty" / "scheduler")
    shutil.copy(tmp_path / "model_index.json", tmp_path / "empty")
    with pytest.raises(BadInput, match="holds no trained member"):
        EnsemblePipeline.from_pretrained(tmp_path / "empty")


def test_every_scheduler_of_the_config_generates():
    for name in SCHEDULERS:
        pipe = tiny.ensemble(2, scheduler=name)
        images = pipe(seeds=[0], output_type="latent").images
        assert torch.isfinite(images).all()
        assert isinstance(
            sampler(tiny.config("none").model, SamplingConfig(scheduler=name)),
            SCHEDULERS[name],
        )


def test_votes_of_one_row_hold_for_every_image():
    rows = checked_votes([0.25, 0.75], 3, 2)
    assert np.array_equal(rows, np.tile([0.25, 0.75], (3, 1)))


@pytest.fixture
def finished(tmp_path):
    run, _ = tiny.trained(tmp_path / "run")
    return run


@pytest.mark.parametrize("file", PIPELINE)
def test_what_says_how_to_sample_is_checked(finished, file):
    path = finished.path / file
    path.write_text(path.read_text().replace("0", "1", 1))
    with pytest.raises(BadInput, match=f"{file} is damaged: expected sha256"):
        EnsemblePipeline.from_pretrained(finished.path)
    assert any(file in line for line in certificate.violations(finished))
    path.unlink()
    with pytest.raises(BadInput, match=f"{file} is missing"):
        EnsemblePipeline.from_pretrained(finished.path)


def test_a_member_that_is_lost_does_not_fall_silent(finished):
    shutil.rmtree(finished.member(3))
    with pytest.raises(BadInput, match=r"Member 3 is not in .*holds 0-2"):
        EnsemblePipeline.from_pretrained(finished.path)
    pipe = EnsemblePipeline.from_pretrained(finished.path, members=[0, 1])
    assert pipe.members.n_members == 2


@pytest.mark.parametrize("file", ["manifest.json", "codes.npy"])
def test_a_run_is_not_loaded_without_its(finished, file):
    (finished.path / file).unlink()
    with pytest.raises(BadInput, match=f"{file} is missing"):
        EnsemblePipeline.from_pretrained(finished.path)


def test_labels_that_are_lost_are_not_taken_for_none(tmp_path):
    run, _ = tiny.trained(tmp_path / "run", model={"class_conditional": True})
    pipe = tiny.pipeline_of(run)
    queries.generate(run, pipe, "demo", [3])
    (run.queries("demo") / "conditions.npy").unlink()
    with pytest.raises(BadInput, match=r"conditions\.npy is missing"):
        queries.load(run, "demo")


def test_allowed_sources_let_only_members_vote_that_saw_no_others(pipe):
    codes = pipe.codes.bits
    allowed = np.flatnonzero(codes[:, 1]).tolist()
    found = pipe(seeds=[0, 1], allowed=allowed, output_type="latent").images
    expected = pipe(seeds=[0, 1], votes=np.eye(4)[1], output_type="latent").images
    assert torch.equal(found, expected)


def test_sources_are_allowed_by_name_after_saving_too(pipe, tmp_path):
    pipe.source_names = [f"photo {source}" for source in range(6)]
    pipe.save_pretrained(tmp_path / "saved")
    again = EnsemblePipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    names = [f"photo {source}" for source in np.flatnonzero(pipe.codes.bits[:, 2])]
    again(seeds=[0], allowed=names, num_inference_steps=1)
    with pytest.raises(
        BadInput, match=rf"would have to be allowed too are 1: \d \({names[0]}\)"
    ):
        again(seeds=[0], allowed=names[1:])


def test_votes_ablate_and_allowed_exclude_each_other(pipe):
    with pytest.raises(BadInput, match="only one of votes, ablate and allowed"):
        pipe(seeds=[0], ablate=[1], allowed=[0])


def test_allowed_needs_a_code_book():
    with pytest.raises(BadInput, match="has no code book"):
        tiny.ensemble()(seeds=[0], allowed=[0])


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_both_names_of_the_type_of_weights_are_heeded(finished, name):
    pipe = EnsemblePipeline.from_pretrained(finished.path, **{name: torch.float16})
    assert pipe.members.dtype == torch.float16
    pipe.set_progress_bar_config(disable=True)
    assert pipe(seeds=[0], output_type="latent").images.dtype == torch.float16
    by_part = {name: {"members": torch.float64, "default": torch.float16}}
    pipe = EnsemblePipeline.from_pretrained(finished.path, **by_part)
    assert pipe.members.dtype == torch.float64


def test_a_variant_is_written_and_read(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16")
    file = "diffusion_pytorch_model.fp16.safetensors"
    assert (tmp_path / "members" / "000" / file).exists()
    loaded = EnsemblePipeline.from_pretrained(tmp_path, variant="fp16")
    for one, other in zip(
        pipe.members.parameters(), loaded.members.parameters(), strict=True
    ):
        assert torch.equal(one.float(), other)
    with pytest.raises(BadInput, match=f"safetensors is missing; .* there: {file}"):
        EnsemblePipeline.from_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"bf16\.safetensors is missing"):
        EnsemblePipeline.from_pretrained(tmp_path, variant="bf16")


def test_members_of_a_run_have_no_variants(finished):
    with pytest.raises(
        BadInput, match=r"knows no variant 'fp16'.*dtype=torch\.float16"
    ):
        EnsemblePipeline.from_pretrained(finished.path, variant="fp16")


@pytest.mark.parametrize(
    "options", [{"safe_serialization": False}, {"max_shard_size": 9}]
)
def test_weights_are_never_pickled_or_cut(pipe, tmp_path, options):
    with pytest.raises(BadInput, match="written as safetensors, one file each"):
        pipe.save_pretrained(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_one_member_may_be_loaded_by_its_number_alone(finished):
    pipe = EnsemblePipeline.from_pretrained(finished.path, members=2)
    assert pipe.members.member_ids == [2]
    with pytest.raises(BadInput, match="members names 2 more than once"):
        EnsemblePipeline.from_pretrained(finished.path, members=[2, 2])


def latent(pipe, **call):
    return pipe(**{"seeds": [0], "output_type": "latent", **call}).images


def test_single_numbers_and_names_stand_for_one(pipe):
    expected = latent(pipe, ablate=[3])
    pipe.source_names = [f"photo {source}" for source in range(6)]
    for ablate in (3, {3}, "photo 3", ["photo 3"], [["photo 3"]], [{3}]):
        assert torch.equal(latent(pipe, ablate=ablate), expected)
    assert torch.equal(latent(pipe, seeds=0, ablate=3), expected)
    with pytest.raises(BadInput, match="ablate names 'photo 9'.*Did you mean 'photo "):
        latent(pipe, ablate="photo 9")
    pipe.source_names = ["photo"]
    with pytest.raises(BadInput, match="There are 1 names for 6 sources"):
        latent(pipe, ablate=3)
    pipe.source_names = []


def test_a_name_that_is_another_sources_number_is_refused(pipe):
    pipe.source_names = ["1", "2", "3", "4", "5", "6"]
    with pytest.raises(BadInput, match=r"Write name:3 for source 2 \(3\), or number:3"):
        latent(pipe, ablate="3")
    assert torch.equal(latent(pipe, ablate="name:3"), latent(pipe, ablate=2))
    assert torch.equal(latent(pipe, ablate=3), latent(pipe, ablate="number:3"))
    assert tiny.different(latent(pipe, ablate=3), latent(pipe, ablate=2))
    pipe.source_names = []


def test_the_number_of_images_follows_from_what_is_given(pipe):
    noise = torch.zeros(2, 1, 8, 8)
    assert len(latent(pipe, seeds=None, latents=noise)) == 2
    assert len(latent(pipe, seeds=None, generator=query_generators([1, 2, 3]))) == 3
    assert len(latent(pipe, seeds=None)) == 1
    with pytest.raises(BadInput, match="3 seeds came for latents 2"):
        latent(pipe, seeds=[0, 1, 2], latents=noise)
    with pytest.raises(BadInput, match="1 seeds came for batch_size 2"):
        latent(pipe, seeds=[0], batch_size=2)


def test_a_callback_may_return_nothing_and_be_given_nothing(pipe):
    seen = []
    found = latent(
        pipe,
        callback_on_step_end=lambda *given: seen.append(given[3]),
        callback_on_step_end_tensor_inputs=[],
    )
    assert torch.equal(found, latent(pipe))
    assert seen == [{}] * 4
    with pytest.raises(
        BadInput, match="After callback_on_step_end the latents are not"
    ):
        latent(pipe, callback_on_step_end=lambda *g: {"latents": g[3]["latents"] / 0})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"seeds": [2**64]}, "allowed: 0 to 2"),
        ({"eta": 5.0}, "eta is 5.0; allowed: a finite number, from 0 to 1"),
        (
            {"num_inference_steps": 2000},
            "num_inference_steps is 2000; .*from 1 to 1000",
        ),
        ({"guidance_scale": 3.0}, "guidance has no effect"),
        ({"guidance_scale": "x"}, "guidance_scale is 'x'"),
        (
            {"seeds": [0, 1], "latents": torch.zeros(1, 1, 8, 8)},
            "2 seeds came for latents 1",
        ),
        ({"latents": torch.full((1, 1, 8, 8), torch.nan)}, "not finite"),
        ({"seeds": None, "generator": 3}, "generator is 3"),
        ({"seeds": None, "batch_size": 0}, "batch_size is 0"),
        ({"callback_on_step_end": 3}, "callback_on_step_end is 3"),
        ({"votes": "all"}, "votes is 'all'"),
        ({"ablate": [[0], 1]}, "single sources beside lists"),
        ({"allowed": [[0]]}, "allowed is .*allowed: the number or the name"),
        ({"output_type": None}, "output_type is None"),
    ],
)
def test_more_bad_calls_say_what_is_allowed(pipe, call, message):
    with pytest.raises(BadInput, match=message):
        pipe(**{"seeds": [0], **call})


def test_what_is_configured_is_checked_like_what_is_given(pipe):
    for key, value in (("num_inference_steps", 1001), ("guidance_scale", -1.0)):
        kept = pipe.config[key]
        pipe.register_to_config(**{key: value})
        with pytest.raises(BadInput, match=f"{key} is {value}; allowed"):
            latent(pipe)
        pipe.register_to_config(**{key: kept})


class Exploding(DDIMScheduler):
    """A sampler whose second step gives infinities, as some do with few steps."""

    def step(self, model_output, timestep, sample, **options):
        found = super().step(model_output, timestep, sample, **options)
        if int(timestep) == 500:
            found.prev_sample[1] = torch.inf
        return found


class Unwilling(DDIMScheduler):
    """A sampler that takes three steps at most."""

    def set_timesteps(self, num_inference_steps, device=None):
        if num_inference_steps > 3:
            raise IndexError("no such step")
        super().set_timesteps(num_inference_steps, device)


def test_a_picture_that_is_not_finite_names_the_scheduler_and_the_step():
    pipe = tiny.ensemble()
    pipe.scheduler = Exploding.from_config(pipe.scheduler.config)
    message = r"Image 1 is not finite after step 2 of 4 \(timestep 500\) of Exploding"
    with pytest.raises(BadInput, match=message):
        pipe(seeds=[0, 1])
    pipe(seeds=[0, 1], num_inference_steps=1)


def test_a_scheduler_that_cannot_take_so_many_steps_is_named():
    pipe = tiny.ensemble()
    pipe.scheduler = Unwilling.from_config(pipe.scheduler.config)
    pipe(seeds=[0], num_inference_steps=3)
    with pytest.raises(BadInput, match="Unwilling cannot take 4 steps: no such step"):
        pipe(seeds=[0])
    pipe.scheduler = None
    with pytest.raises(BadInput, match="The scheduler is a NoneType, which has no"):
        pipe(seeds=[0])


@pytest.mark.parametrize("n_steps", [4, 20])
def test_a_sampler_of_diffusers_that_no_config_names_generates_too(n_steps):
    pipe = tiny.ensemble()
    config = pipe.scheduler.config
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(config)
    found = pipe(seeds=[0], num_inference_steps=n_steps, output_type="latent").images
    assert torch.isfinite(found).all()


def test_a_code_book_of_other_members_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    other = EnsemblePipeline.from_pretrained(tmp_path)
    other.codes = CodeBook(other.codes.bits[:, :2])
    with pytest.raises(BadInput, match="columns for members 0 to 1, but member 2 is"):
        other(seeds=[0], ablate=[0])
