"""Members are built from keys alone, and loaded only whole."""

import pytest
import torch

from ensemble.models import safe_loading
from ensemble.models.denoisers import build_member, load_member
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.models.objective import objective_of
from ensemble.report import model_card
from ensemble.run import files
from splits.errors import BadInput
from tests import tiny


def settings(**model):
    return tiny.config("none", model=model).model


def test_fresh_weights_follow_from_the_seed_alone():
    torch.manual_seed(0)
    first = build_member(settings(), (1, 8, 8), None, 5).state_dict()
    torch.manual_seed(1)
    again = build_member(settings(), (1, 8, 8), None, 5).state_dict()
    other = build_member(settings(), (1, 8, 8), None, 6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_building_a_member_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build_member(settings(), (1, 8, 8), None, 0)
    assert torch.equal(torch.rand(2), expected)


def test_images_that_cannot_be_halved_are_refused():
    with pytest.raises(BadInput, match="9x8 cannot be halved 1 times.*multiple of 2"):
        build_member(settings(), (1, 9, 8), None, 0)


def test_blocks_that_do_not_exist_are_refused():
    with pytest.raises(BadInput, match="UNet2DModel refuses this config"):
        build_member(settings(down_block_types=["No", "No"]), (1, 8, 8), None, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": [8, 12]},
        {"layers_per_block": 2},
        {"add_attention": True},
        {"norm_num_groups": 2},
        {"act_fn": "relu"},
        {"resnet_time_scale_shift": "scale_shift"},
        {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]},
        {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"]},
    ],
)
def test_every_option_of_the_architecture_reaches_the_member(change):
    plain = build_member(settings(), (1, 8, 8), None, 0)
    changed = build_member(settings(**change), (1, 8, 8), None, 0)
    assert dict(plain.config) != dict(changed.config)


def test_options_of_the_noise_reach_the_schedule():
    plain = objective_of(settings())
    cosine = objective_of(settings(schedule="cosine"))
    short = objective_of(settings(n_timesteps=100))
    assert tiny.different(plain.schedule.alphas_cumprod, cosine.schedule.alphas_cumprod)
    assert len(short.schedule.alphas_cumprod) == 100
    assert not plain.scheduler_config["clip_sample"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run, _ = tiny.trained(tmp_path_factory.mktemp("model") / "run")
    return run


@pytest.mark.parametrize("position", [0, 200, -1])
def test_a_damaged_weight_file_is_named_with_both_digests(trained, position):
    path = trained.member(1) / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[position] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(
        BadInput, match=r"001/.*safetensors is damaged: expected sha256"
    ):
        EnsembleModel.from_pretrained(trained.members)
    path.write_bytes(whole)
    EnsembleModel.from_pretrained(trained.members)


def test_weights_without_a_record_are_still_checked_by_their_reader(trained, tmp_path):
    load_member(trained.member(0)).save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="Cannot load the member in"):
        load_member(tmp_path)


def test_the_model_card_says_what_the_run_is(trained):
    text = model_card.model_card(trained)
    manifest = files.read_json(trained.manifest)
    assert "4 diffusion models" in text
    assert manifest["code_book_digest"] in text
    assert manifest["data_fingerprint"] in text
    assert (trained.path / "README.md").read_text() == text
    assert model_card.member_seconds(trained) > 0


def test_a_member_of_a_run_has_a_record(tmp_path):
    run, _ = tiny.trained(tmp_path / "run")
    (run.member(1) / "member.json").unlink()
    with pytest.raises(BadInput, match=r"001/member\.json is missing"):
        load_member(run.member(1))
    with pytest.raises(BadInput, match=r"001/member\.json is missing"):
        run.member_records()


def test_weights_are_never_unpickled(trained, tmp_path):
    network = load_member(trained.member(0))
    network.save_pretrained(tmp_path, safe_serialization=False)
    assert list(tmp_path.glob("*.bin"))
    with pytest.raises(BadInput, match="Cannot load the member in"):
        load_member(tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory to read the member in"),
        (
            RuntimeError("can't allocate memory"),
            "Its files are those that were written",
        ),
    ],
)
def test_a_member_whose_files_are_whole_is_not_to_be_deleted(
    trained, monkeypatch, error, message
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(safe_loading, "load_file", fail)
    with pytest.raises(BadInput, match=message) as said:
        load_member(trained.member(0))
    assert "elete" not in str(said.value)
