"""What a call is given is taken in one form, or refused with what is allowed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from ensemble.sampling import arguments
from splits.errors import BadInput

CPU = torch.device("cpu")
DDIM = DDIMScheduler(num_train_timesteps=20)


@pytest.mark.parametrize(
    "seeds",
    [
        [3],
        (3,),
        3,
        np.int64(3),
        range(3, 4),
        np.array([3]),
        torch.tensor([3]),
        [np.uint8(3)],
    ],
    ids=repr,
)
def test_seeds_are_whole_numbers_in_any_form(seeds):
    assert arguments.checked_seeds(seeds) == [3]
    assert arguments.checked_seeds([0, 2**63 - 1]) == [0, 2**63 - 1]


@pytest.mark.parametrize(
    "seeds",
    [{3}, "3", ["3"], 3.0, [1.5], True, [True], [[3]], np.array(3), iter([3])],
    ids=lambda seeds: type(seeds).__name__,
)
def test_what_is_no_seed_is_refused(seeds):
    with pytest.raises(BadInput, match="seeds is .*allowed: a whole number, or a list"):
        arguments.checked_seeds(seeds)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(BadInput, match=rf"seeds has {seed}; allowed: 0 to 2\*\*63 - 1"):
        arguments.checked_seeds([0, seed])


def test_no_seed_is_refused():
    with pytest.raises(BadInput, match="seeds is empty"):
        arguments.checked_seeds([])


@pytest.mark.parametrize("generator", [3, [], [torch.Generator(), 3], "cpu", np.random])
def test_what_is_no_generator_is_refused(generator):
    with pytest.raises(
        BadInput, match=r"generator is .*allowed: a torch\.Generator, or"
    ):
        arguments.checked_generators(generator, CPU)


class Elsewhere(torch.Generator):
    """A generator that says that it is on a GPU."""

    device = torch.device("cuda:0")


def test_a_generator_on_another_device_is_refused():
    with pytest.raises(
        BadInput, match="A generator is on cuda:0, the members are on cpu"
    ):
        arguments.checked_generators([Elsewhere()], CPU)
    assert arguments.checked_generators(None, CPU) is None
    on_cpu = torch.Generator()
    assert arguments.checked_generators(on_cpu, torch.device("cuda")) is on_cpu
    assert arguments.checked_generators((on_cpu,), CPU) == [on_cpu]


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ([[0.0]], "latents is .*allowed: a tensor of floats"),
        (
            torch.zeros(1, 1, 8, 8, dtype=torch.int64),
            "latents is a Tensor of torch.int64",
        ),
        (np.zeros((1, 1, 8, 8), dtype=int), "latents is a ndarray of int64"),
        (
            torch.zeros(1, 8, 8),
            r"latents have shape \(1, 8, 8\); allowed: \(images, 1, 8",
        ),
        (
            torch.zeros(1, 3, 8, 8),
            r"shape \(1, 3, 8, 8\); allowed: \(images, 1, 8, 8\)",
        ),
        (torch.full((1, 1, 8, 8), torch.inf), "not finite"),
        (torch.full((1, 1, 8, 8), torch.nan), "not finite"),
    ],
)
def test_latents_that_do_not_fit_are_refused(latents, message):
    with pytest.raises(BadInput, match=message):
        arguments.checked_latents(latents, (1, 8, 8))


def test_latents_may_be_numpys():
    found = arguments.checked_latents(np.ones((2, 1, 8, 8)), (1, 8, 8))
    assert torch.equal(found, torch.ones(2, 1, 8, 8, dtype=torch.float64))
    assert arguments.checked_latents(None, (1, 8, 8)) is None


def test_the_number_of_images_must_be_said_once():
    assert arguments.number_of_images({"seeds": None, "batch_size": None}) == 1
    assert arguments.number_of_images({"seeds": 3, "batch_size": 3}) == 3
    with pytest.raises(BadInput, match="2 seeds came for batch_size 3"):
        arguments.number_of_images({"seeds": 2, "latents": None, "batch_size": 3})
    with pytest.raises(BadInput, match="2 seeds came for latents 3"):
        arguments.number_of_images({"seeds": 2, "latents": 3, "batch_size": 2})


@pytest.mark.parametrize("size", [0, -1, 1.0, "2", True, [2]])
def test_a_batch_size_that_is_none_is_refused(size):
    with pytest.raises(BadInput, match="batch_size is .*whole number, at least 1"):
        arguments.checked_batch_size(size)


@pytest.mark.parametrize(
    "labels", [2, [2], [2, 2], np.array([2, 2]), np.int64(2), torch.tensor([2]), (2, 2)]
)
def test_labels_are_one_for_all_or_one_each(labels):
    assert arguments.checked_labels(labels, 3, 2) == [2, 2]
    assert arguments.checked_labels(None, None, 2) is None


@pytest.mark.parametrize("labels", ["2", 2.0, [1.5], True, {1}, [[1], [2]], ["a"], {}])
def test_what_is_no_label_is_refused(labels):
    with pytest.raises(BadInput, match="class_labels is .*whole numbers from 0 to 2"):
        arguments.checked_labels(labels, 3, 2)


@pytest.mark.parametrize("labels", [-1, 3, [0, 3]])
def test_labels_out_of_range_are_refused(labels):
    with pytest.raises(BadInput, match="class_labels run from .*allowed: 0 to 2"):
        arguments.checked_labels(labels, 3, 2)


@pytest.mark.parametrize("steps", [0, -1, 21, 2000, 2.0, "4", True, None, np.nan])
def test_steps_are_whole_and_no_more_than_timesteps(steps):
    with pytest.raises(BadInput, match="num_inference_steps is .*number, from 1 to 20"):
        arguments.checked_steps(steps, DDIM)
    assert arguments.checked_steps(np.int64(20), DDIM) == 20


@pytest.mark.parametrize("scheduler", [None, "ddim", FlowMatchEulerDiscreteScheduler()])
def test_what_cannot_be_stepped_through_is_refused(scheduler):
    with pytest.raises(BadInput, match="which has no .*scale_model_input"):
        arguments.checked_scheduler(scheduler)
    arguments.checked_scheduler(DDIM)


@pytest.mark.parametrize("scale", [-1, np.nan, np.inf, "3", True, [3.0], None])
def test_guidance_is_a_finite_number(scale):
    with pytest.raises(BadInput, match="guidance_scale is .*finite number, at least 0"):
        arguments.checked_guidance(scale)
    assert arguments.checked_guidance(np.float32(2)) == 2.0


def test_guidance_of_unconditional_members_is_refused():
    with pytest.raises(
        BadInput, match="guidance_scale is 3, but the members are uncond"
    ):
        arguments.require_use_of_guidance(3, None)
    arguments.require_use_of_guidance(1, None)
    arguments.require_use_of_guidance(3, 10)


@pytest.mark.parametrize("eta", [-0.1, 1.1, 5.0, np.nan, "1", True, None])
def test_eta_is_from_0_to_1(eta):
    with pytest.raises(BadInput, match="eta is .*a finite number, from 0 to 1"):
        arguments.checked_eta(eta, DDIM)
    assert arguments.checked_eta(1, DDIM) == 1.0


def test_eta_without_effect_is_refused():
    with pytest.raises(
        BadInput, match=r"eta is 0\.5, but DDPMScheduler does not take it"
    ):
        arguments.checked_eta(0.5, DDPMScheduler())
    assert arguments.checked_eta(0.0, DDPMScheduler()) == 0.0


@pytest.mark.parametrize(
    "output_type", ["jpg", None, ["pil"], 3, np.array(["pil", "np"])]
)
def test_an_unknown_output_type_is_refused(output_type):
    with pytest.raises(BadInput, match="output_type is .*allowed: pil, np, pt, latent"):
        arguments.checked_output_type(output_type)


def test_a_callback_is_given_what_it_asks_for():
    assert arguments.checked_callback(print, ["latents"]) == ["latents"]
    assert arguments.checked_callback(print, []) == []
    own = SimpleNamespace(tensor_inputs=["noise"])
    with pytest.raises(BadInput, match="callback_on_step_end is .*allowed: a function"):
        arguments.checked_callback(own, ["latents"])
    for wrong in ("latents", ["noise"], None, [3], ["latents", "noise"]):
        with pytest.raises(BadInput, match="tensor_inputs has .*allowed: latents"):
            arguments.checked_callback(print, wrong)


def test_a_callback_may_return_nothing_or_changed_latents():
    latents = torch.zeros(2, 1, 8, 8)
    assert arguments.changed_latents(None, latents) is latents
    assert arguments.changed_latents({}, latents) is latents
    changed = torch.ones(2, 1, 8, 8)
    assert arguments.changed_latents({"latents": changed}, latents) is changed


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(2, 1, 8, 8), "returned a Tensor .*allowed: nothing, or a dict"),
        ({"noise": 1}, "returned .*allowed: nothing, or a dict"),
        (
            {"latents": torch.zeros(1, 1, 8, 8)},
            r"returned latents .*shape \(2, 1, 8, 8\)",
        ),
        ({"latents": None}, "returned latents None"),
        (
            {"latents": torch.full((2, 1, 8, 8), torch.nan)},
            "the latents are not finite",
        ),
    ],
)
def test_what_else_a_callback_returns_is_refused(answer, message):
    with pytest.raises(BadInput, match=message):
        arguments.changed_latents(answer, torch.zeros(2, 1, 8, 8))


def test_states_that_are_not_finite_name_scheduler_and_step():
    states = torch.zeros(3, 1, 2, 2)
    arguments.require_finite(states, DDIM, 0, 4, torch.tensor(15))
    states[1, 0, 0, 1] = torch.inf
    message = r"Image 1 .*step 1 of 4 \(timestep 15\) of DDIMScheduler .*float32\. Use"
    with pytest.raises(BadInput, match=message):
        arguments.require_finite(states, DDIM, 0, 4, torch.tensor(15))
    arguments.require_finite(states.to("meta"), DDIM, 0, 4, 15)


def test_what_is_long_is_cut():
    assert len(arguments.shown("x" * 1000)) < 90
    assert arguments.shown(torch.zeros(2)) == "a Tensor of torch.float32, shape (2,)"
