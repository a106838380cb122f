"""A folder that somebody else wrote runs no code, and is refused in one message."""

import json
import shutil
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, SchedulerMixin

from ensemble.models import safe_loading
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.run.folder import WEIGHTS
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.schedulers import SCHEDULERS
from splits.errors import BadInput
from tests import tiny

EVIL = "import pathlib; pathlib.Path({marker!r}).touch()\nclass Evil: pass\nEvilPipe = X = Evil\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "saved"
    tiny.ensemble(2).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "folder"))


def changed(path, **entries):
    """Change a JSON file; entries that are None are left out."""
    content = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_a_folder_of_this_project_is_loaded(folder):
    pipe = EnsemblePipeline.from_pretrained(folder)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert pipe.config["num_inference_steps"] == 4
    assert pipe.config["_name_or_path"] == str(folder)


CASES = [
    ({"_class_name": ["evil", "EvilPipe"]}, {}),
    ({"_class_name": "EvilPipe"}, {}),
    ({"_class_name": ["pipeline", "EvilPipe"]}, {}),
    ({"_class_name": None}, {}),
    ({"_class_name": "DDIMPipeline"}, {}),
    ({"_class_name": "EvilPipe"}, {"custom_pipeline": "pipeline"}),
    ({}, {"custom_pipeline": "FOLDER"}),
    ({}, {"custom_pipeline": "evil", "trust_remote_code": True}),
    ({}, {"trust_remote_code": True}),
    ({"scheduler": ["evil", "Evil"]}, {}),
    ({"scheduler": ["scheduler.evil", "Evil"]}, {}),
    ({"scheduler": ["evilmod", "X"]}, {}),
    ({"scheduler": ["pipeline", "Evil"]}, {}),
    ({"scheduler": ["diffusers", "Evil"]}, {}),
    ({"scheduler": ["diffusers", "utils"]}, {}),
    ({"scheduler": ["diffusers", "__class__"]}, {}),
    ({"scheduler": ["diffusers", "UNet2DModel"]}, {}),
    ({"scheduler": ["diffusers", "SchedulerMixin"]}, {}),
    ({"scheduler": ["diffusers", "DDIMPipeline"]}, {}),
    ({"scheduler": ["diffusers.schedulers", "DDIMScheduler"]}, {}),
    ({"scheduler": ["transformers", "AutoModel"]}, {}),
    ({"scheduler": ["diffusers", "DDIMScheduler", "evil"]}, {}),
    ({"scheduler": {"auto_map": {"x": "evil.Evil"}}}, {}),
    ({"scheduler": "DDIMScheduler"}, {}),
    ({"scheduler": [[], []]}, {}),
    ({"members": ["evil", "Evil"]}, {}),
    ({"members": ["diffusers", "UNet2DModel"]}, {}),
    ({"safety_checker": ["evil", "Evil"]}, {}),
    ({"scheduler_type": "evil"}, {}),
]


@pytest.mark.parametrize(("index", "options"), CASES, ids=str)
def test_no_class_and_no_file_of_a_folder_is_loaded(
    folder, tmp_path, monkeypatch, index, options
):
    marker = tmp_path / "ran"
    for name in ("evil", "pipeline", "evilmod", "members/evil", "scheduler/evil"):
        (folder / f"{name}.py").write_text(EVIL.format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(folder))
    changed(folder / safe_loading.INDEX, **index)
    if options.get("custom_pipeline") == "FOLDER":
        options = {"custom_pipeline": str(folder)}
    with pytest.raises(BadInput, match=r"[Aa]llowed|has no option"):
        EnsemblePipeline.from_pretrained(folder, **options)
    assert not marker.exists()
    assert not {"evil", "evilmod", "scheduler.evil"} & set(sys.modules)


def test_every_scheduler_of_diffusers_may_be_named_and_nothing_else():
    schedulers, others = [], []
    for name in dir(diffusers):
        (schedulers if safe_loading._is_scheduler(name) else others).append(name)
    assert {kind.__name__ for kind in SCHEDULERS.values()} <= {*schedulers}
    assert "HeunDiscreteScheduler" in schedulers
    assert len(schedulers) > 20
    assert {"UNet2DModel", "SchedulerMixin", "DiffusionPipeline"} <= {*others}
    for name in schedulers:
        assert issubclass(getattr(diffusers, name), SchedulerMixin)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_that_a_run_can_have_is_read_as_it_was_written(folder, name):
    written = tiny.ensemble(1, scheduler=name).scheduler
    written.save_pretrained(folder / "scheduler")
    changed(
        folder / safe_loading.INDEX, scheduler=["diffusers", type(written).__name__]
    )
    found = EnsemblePipeline.from_pretrained(folder).scheduler
    assert type(found) is type(written)
    options = [one for one in written.config if not one.startswith("_")]
    assert "num_train_timesteps" in options
    for option in options:
        assert np.all(found.config[option] == written.config[option]), option


def test_every_scheduler_of_diffusers_is_read_with_its_defaults(folder):
    """All but those that need packages that are not here, or options without one."""
    n_read = 0
    for name in filter(safe_loading._is_scheduler, dir(diffusers)):
        try:
            getattr(diffusers, name)().save_pretrained(folder / "scheduler")
        except (ImportError, TypeError):
            continue
        changed(folder / safe_loading.INDEX, scheduler=["diffusers", name])
        index = safe_loading.read_index(folder, {"EnsemblePipeline"})
        assert type(safe_loading.read_scheduler(folder, index)).__name__ == name
        n_read += 1
    assert n_read > 20


def test_a_scheduler_that_is_given_takes_the_place_of_one_that_may_not_be_loaded(
    folder,
):
    changed(folder / safe_loading.INDEX, scheduler=["my_module", "MyScheduler"])
    with pytest.raises(BadInput, match=r"names the scheduler \['my_module', 'MySche"):
        EnsemblePipeline.from_pretrained(folder)
    own = tiny.ensemble(1, scheduler="euler").scheduler
    assert EnsemblePipeline.from_pretrained(folder, scheduler=own).scheduler is own


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"_class_name": "DDPMScheduler"},
            "is of 'DDPMScheduler', but model_index.json",
        ),
        ({"_class_name": ["evil", "Evil"]}, r"is of \['evil', 'Evil'\], but"),
        (
            {"num_train_timesteps": 10**12},
            "num_train_timesteps: 1000000000000; allowed",
        ),
        ({"beta_end": float("nan")}, "beta_end: nan; allowed: finite numbers"),
        ({"beta_schedule": "evil"}, "does not fit DDIMScheduler: NotImplementedError"),
        ({"num_train_timesteps": "evil"}, "does not fit DDIMScheduler: "),
        ({"trained_betas": [0.1, 10**9]}, "trained_betas: 1000000000; allowed"),
    ],
)
def test_a_scheduler_whose_config_does_not_fit_is_refused(folder, entries, message):
    changed(folder / safe_loading.SCHEDULER, **entries)
    with pytest.raises(BadInput, match=message):
        EnsemblePipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"_class_name": "AutoModel"}, "is of 'AutoModel'; allowed: UNet2DModel"),
        (
            {"auto_map": {"AutoModel": "evil.X"}},
            "has 'auto_map', which UNet2DModel does",
        ),
        ({"quantization_config": {"x": 1}}, "has 'quantization_config', which"),
        ({"block_out_channels": [8, 10**9]}, "block_out_channels: 1000000000; allowed"),
        ({"block_out_channels": [8, 999_968]}, "config.json asks for"),
        (
            {"block_out_channels": [8, 16]},
            r"bias of shape \[8\], config.json asks for \[16\]",
        ),
        (
            {"down_block_types": ["Evil", "Evil"]},
            "Cannot load the member .*Evil",
        ),
        ({"layers_per_block": 2}, "of shape None, config.json asks for"),
    ],
)
def test_a_member_whose_config_does_not_fit_is_refused(folder, entries, message):
    changed(folder / "members" / "000" / "config.json", **entries)
    with pytest.raises(BadInput, match=message):
        EnsemblePipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    "file", [safe_loading.INDEX, safe_loading.SCHEDULER, "members/000/config.json"]
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a JSON object"),
        (b"[]", "it holds a list, not an object"),
        (b"\xff\xfe", "cannot be read as a JSON object"),
        (b"[" * 100_000, "cannot be read as a JSON object"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "it is larger than 1048576 bytes"),
    ],
)
def test_what_is_no_small_json_object_is_refused(folder, file, content, message):
    (folder / file).write_bytes(content)
    with pytest.raises(BadInput, match=f"{Path(file).name} {message}|{message}"):
        EnsemblePipeline.from_pretrained(folder)


def test_a_config_that_is_missing_or_a_folder_is_refused(folder):
    (folder / safe_loading.SCHEDULER).unlink()
    with pytest.raises(BadInput, match=r"scheduler_config\.json is missing"):
        EnsemblePipeline.from_pretrained(folder)
    (folder / safe_loading.SCHEDULER).mkdir()
    with pytest.raises(BadInput, match=r"scheduler_config\.json is missing"):
        EnsemblePipeline.from_pretrained(folder)


def test_weights_that_an_index_names_elsewhere_are_not_read(folder):
    member = folder / "members" / "000"
    torch.save({"conv_in.bias": torch.zeros(8)}, member / "pickled.bin")
    (member / WEIGHTS).unlink()
    index = {"weight_map": {"conv_in.bias": "pickled.bin"}, "metadata": {}}
    (member / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="Cannot load the member in .*is missing"):
        EnsemblePipeline.from_pretrained(folder)


def test_members_of_two_kinds_are_refused(folder):
    other = tiny.ensemble(1, act_fn="relu")
    other.members.member_ids = [1]
    other.members.save_pretrained(folder / "members")
    with pytest.raises(
        BadInput, match="Members 0 and 1 .* differ in act_fn: silu and relu"
    ):
        EnsembleModel.from_pretrained(folder / "members")
    EnsembleModel.from_pretrained(folder / "members", [1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"custom_pipeline": "x"}, "has no option 'custom_pipeline'; allowed: dtype, "),
        ({"varient": "fp16"}, "Did you mean 'variant'"),
        ({"device_map": "cpu"}, r"has no option 'device_map'.*pipe\.to\(device\)"),
        ({"use_safetensors": False}, "weights are read from safetensors only"),
    ],
)
def test_options_that_would_be_passed_over_are_refused(folder, options, message):
    with pytest.raises(BadInput, match=message):
        EnsemblePipeline.from_pretrained(folder, **options)


def test_options_that_change_nothing_are_taken(folder):
    EnsemblePipeline.from_pretrained(
        folder, local_files_only=True, low_cpu_mem_usage=False, use_safetensors=True
    )


def test_what_is_given_takes_the_place_of_what_the_folder_says(folder):
    pipe = EnsemblePipeline.from_pretrained(
        folder, num_inference_steps=7, guidance_scale=2.0
    )
    assert pipe.config["num_inference_steps"] == 7
    assert pipe.config["guidance_scale"] == 2.0


class Renamed(EnsemblePipeline):
    """A pipeline of one's own that is built on this one."""


def test_a_pipeline_of_ones_own_loads_its_folders_and_those_of_this_project(folder):
    assert isinstance(Renamed.from_pretrained(folder), Renamed)
    changed(folder / safe_loading.INDEX, _class_name="Renamed")
    assert isinstance(Renamed.from_pretrained(folder), Renamed)
    with pytest.raises(
        BadInput, match="is of the pipeline 'Renamed'; allowed: Ensemble"
    ):
        EnsemblePipeline.from_pretrained(folder)
