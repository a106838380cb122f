"""A config is complete, checked and replayable, or refused with what to change."""

import dataclasses
import hashlib
import itertools
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.run.config import (
    Config,
    DataConfig,
    ModelConfig,
    SamplingConfig,
    SplitsConfig,
    TrainingConfig,
)
from ensemble.run.config_file import differences, from_dict, load, to_dict, to_yaml
from splits.errors import BadInput

SECTIONS = {
    "data": DataConfig,
    "splits": SplitsConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "sampling": SamplingConfig,
}
OPTIONS = [
    (section, option.name)
    for section, cls in SECTIONS.items()
    for option in dataclasses.fields(cls)
]

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
COUNT = st.integers(1, 10**9)
SEED = st.integers(0, 2**63)
SHARE = st.floats(0, 1, exclude_max=True)
# Numbers that are not finite are refused (below).
AT_LEAST_ZERO = st.floats(0, allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)


def or_null(strategy):
    return st.none() | strategy


@st.composite
def channels(draw):
    groups = draw(st.integers(1, 64))
    multiples = draw(st.lists(st.integers(1, 64), min_size=1, max_size=5))
    return {
        "norm_num_groups": groups,
        "block_out_channels": [groups * multiple for multiple in multiples],
    }


DATA = st.builds(
    DataConfig,
    kind=st.sampled_from(["digits", "folder", "shards"]),
    path=TEXT,
    size=or_null(COUNT),
    channels=st.sampled_from([None, 1, 3]),
    source=TEXT,
    label=or_null(TEXT),
    classes=st.sampled_from([None, 2, 10, ["cat", "dog"]]),
    n_images=or_null(COUNT),
)
SPLITS = st.builds(
    SplitsConfig,
    design=TEXT,
    n_members=COUNT,
    weight=or_null(COUNT),
    seed=SEED,
    removable=or_null(COUNT),
)
MODEL = st.builds(
    lambda channels, **others: ModelConfig(**channels, **others),
    channels=channels(),
    prediction_type=st.sampled_from(["epsilon", "v_prediction"]),
    schedule=st.sampled_from(["linear", "cosine"]),
    class_conditional=st.booleans(),
    down_block_types=or_null(st.lists(TEXT)),
    attention_head_dim=or_null(COUNT),
    dropout=SHARE,
    act_fn=TEXT,
)
TRAINING = st.builds(
    TrainingConfig,
    steps=COUNT,
    learning_rate=POSITIVE,
    weight_decay=AT_LEAST_ZERO,
    max_grad_norm=POSITIVE,
    ema_decay=or_null(SHARE),
    mixed_precision=st.sampled_from(["no", "bf16", "fp16"]),
    label_dropout=SHARE,
    flip=st.booleans(),
    seed=SEED,
    processes=or_null(COUNT),
)
SAMPLING = st.builds(
    SamplingConfig,
    scheduler=st.sampled_from(["ddim", "ddpm", "dpmsolver++", "euler"]),
    n_steps=st.integers(1, 1000),
    guidance_scale=AT_LEAST_ZERO,
)
CONFIGS = st.builds(
    Config,
    run=TEXT,
    data=DATA,
    splits=SPLITS,
    model=MODEL,
    training=TRAINING,
    sampling=SAMPLING,
)


@pytest.fixture
def write(tmp_path):
    def to_file(text):
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to_file


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    return tmp_path_factory.mktemp("resolved") / "config.yaml"


def with_option(section, key, value):
    return {"run": "runs/a", section: {key: value}}


def test_what_a_file_leaves_out_is_the_default(write):
    assert load(write("run: runs/a")) == Config("runs/a")


def test_what_a_file_says_replaces_the_default(write):
    path = write("run: runs/a\ntraining: {steps: 7, ema_decay: 0.5}")
    assert load(path).training == TrainingConfig(steps=7, ema_decay=0.5)


@settings(max_examples=40)
@given(CONFIGS)
def test_a_resolved_config_loads_back_equal(resolved, config):
    resolved.write_text(to_yaml(config), encoding="utf-8")
    assert load(resolved) == config


def test_a_resolved_config_names_every_option():
    tree = to_dict(Config("runs/a"))
    assert [
        (section, name) for section in SECTIONS for name in tree[section]
    ] == OPTIONS


@pytest.mark.parametrize(("section", "name"), OPTIONS)
def test_every_option_has_its_sentence(section, name):
    assert re.search(rf"^ +{name}: \S", SECTIONS[section].__doc__, re.MULTILINE)


def test_a_whole_number_serves_where_a_number_is_wanted():
    rate = from_dict(with_option("training", "learning_rate", 1)).training.learning_rate
    assert isinstance(rate, float)
    assert rate == 1.0


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        BadInput, match=r"Cannot read the config .*absent\.yaml: .*No su"
    ):
        load(tmp_path / "absent.yaml")


def test_a_file_that_is_no_text_is_refused(write):
    with pytest.raises(BadInput, match="Cannot read the config .*utf-8"):
        load(write(b"run: \xff\xfe"))


@pytest.mark.parametrize("text", ["run: [", "run: 2024-02-31", "run: \x00"])
def test_a_file_that_is_not_yaml_is_refused(write, text):
    with pytest.raises(BadInput, match=r"config\.yaml is not valid YAML: "):
        load(write(text))


@pytest.mark.parametrize("text", ["", "- run", "runs/a"])
def test_a_file_without_options_is_refused(write, text):
    with pytest.raises(BadInput, match="holds no options. Write `run: runs/NAME`"):
        load(write(text))


def test_a_key_that_stands_twice_is_refused(write):
    path = write("run: r\ntraining: {steps: 3}\ntraining: {steps: 4}\n")
    with pytest.raises(BadInput, match="(?s)the key 'training' stands twice.*line 3"):
        load(path)


@pytest.mark.parametrize("text", ["data: {size: 8}", "run:", "run: ''"])
def test_a_run_folder_must_be_named(write, text):
    with pytest.raises(BadInput, match="The config has no `run`: write the run folder"):
        load(write(text))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"traning": {}}, "The config has no key 'traning'. Did you mean 'training'?"),
        ({"splits": {"n_member": 3}}, "'splits' has no key 'n_member'. Did you mean"),
        ({"splits": {"n_member": 3}}, "Did you mean 'n_members'?"),
        (
            {"data": {"xyz": 3}},
            "Known: kind, path, size, channels, source, separator, near, owner,",
        ),
        ({"splits": {7: 3}}, "Section 'splits' has no key '7'."),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tree, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        from_dict({"run": "runs/a", **tree})


@pytest.mark.parametrize("value", [None, 3, "text", [1]])
def test_a_section_must_have_keys(value):
    with pytest.raises(BadInput, match="splits is .*: a section with keys is wanted"):
        from_dict({"run": "runs/a", "splits": value})


@pytest.mark.parametrize(("section", "name"), OPTIONS)
def test_every_option_refuses_a_wrong_type_by_its_name(section, name):
    with pytest.raises(BadInput, match=rf"{section}\.{name} is .*1.*: .* is wanted\."):
        from_dict(with_option(section, name, {"a": 1}))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("splits", "n_members", True, "True: a whole number is wanted."),
        ("splits", "n_members", 2.0, "2.0: a whole number is wanted."),
        ("splits", "n_members", None, "None: a whole number is wanted."),
        ("splits", "weight", "all", "'all': a whole number or null is wanted."),
        ("splits", "design", 3, "3: text is wanted."),
        ("training", "learning_rate", True, "True: a number is wanted."),
        ("training", "flip", 1, "1: true or false is wanted."),
        ("training", "mixed_precision", False, "False: text is wanted."),
        ("model", "block_out_channels", 8, "a list, each entry a whole number, is"),
        ("model", "block_out_channels", [8, "8"], "a list, each entry a whole number"),
    ],
)
def test_a_wrong_type_is_refused_with_what_is_wanted(section, key, value, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        from_dict(with_option(section, key, value))


@pytest.mark.parametrize(
    ("text", "number"), [("1e-4", "1.0e-4"), ("2E4", "2.0e+4"), ("1.25e3", "1.25e+3")]
)
def test_a_number_that_yaml_takes_for_text_is_shown_as_it_must_be_written(
    write, text, number
):
    with pytest.raises(BadInput, match=re.escape(f"it is a number: {number}.")):
        load(write(f"run: a\ntraining: {{learning_rate: {text}}}"))
    rate = load(write(f"run: a\ntraining: {{learning_rate: {number}}}")).training
    assert rate.learning_rate == float(text)


@pytest.mark.parametrize(
    ("key", "text"),
    [("learning_rate", "nan"), ("learning_rate", "fast"), ("steps", "1e3")],
)
def test_no_number_is_proposed_where_none_would_do(write, key, text):
    with pytest.raises(BadInput, match=rf"{key} is '{text}': a .*number is wanted\.$"):
        load(write(f"run: a\ntraining: {{{key}: {text}}}"))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (
            "data",
            "kind",
            "digit",
            "allowed: digits, folder, shards. Did you mean 'digi",
        ),
        ("data", "channels", 2, "2; allowed: null, 1, 3."),
        ("data", "size", 0, "0; it must be at least 1."),
        ("data", "n_images", 0, "at least 1."),
        ("splits", "n_members", 0, "at least 1."),
        ("splits", "weight", 0, "at least 1."),
        ("splits", "removable", 0, "at least 1."),
        ("splits", "survivors", 0, "at least 1."),
        ("splits", "seed", -1, "at least 0."),
        ("model", "prediction_type", "noise", "allowed: epsilon, v_prediction."),
        ("model", "schedule", "cos", "allowed: linear, cosine."),
        ("model", "n_timesteps", 1, "at least 2."),
        ("model", "layers_per_block", 0, "at least 1."),
        ("model", "norm_num_groups", 0, "at least 1."),
        ("model", "dropout", 1.0, "allowed: 0.0 up to, not with, 1.0."),
        ("model", "dropout", -0.1, "allowed: 0.0 up to, not with, 1.0."),
        ("training", "steps", 0, "at least 1."),
        ("training", "batch_size", 0, "at least 1."),
        ("training", "processes", 0, "at least 1."),
        ("training", "threads", 0, "at least 1."),
        ("training", "checkpoint_every_steps", 0, "at least 1."),
        ("training", "keep_every_steps", 0, "at least 1."),
        ("training", "log_every_steps", 0, "at least 1."),
        ("training", "warmup_steps", -1, "at least 0."),
        ("training", "seed", -1, "at least 0."),
        ("training", "weight_decay", -1e-9, "at least 0.0."),
        ("training", "learning_rate", 0.0, "it must be greater than 0.0."),
        ("training", "learning_rate", float("nan"), "is wanted. It must be finite."),
        ("training", "max_grad_norm", float("inf"), "is wanted. It must be finite."),
        ("training", "max_grad_norm", 0.0, "it must be greater than 0.0."),
        ("training", "ema_decay", 1.0, "allowed: 0.0 up to, not with, 1.0."),
        ("training", "label_dropout", 1.0, "allowed: 0.0 up to, not with, 1.0."),
        ("training", "mixed_precision", "fp61", "Did you mean 'fp16'?"),
        ("training", "lr_schedule", "step", "allowed: cosine, constant."),
        ("sampling", "scheduler", "ddimm", "Did you mean 'ddim'?"),
        ("sampling", "n_steps", 0, "at least 1."),
        ("sampling", "n_steps", 1001, "1001; at most model.n_timesteps (1000)"),
        ("sampling", "guidance_scale", -1.0, "at least 0.0."),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(
    section, key, value, message
):
    with pytest.raises(BadInput, match=rf"{section}\.{key} is .*{re.escape(message)}"):
        from_dict(with_option(section, key, value))


def test_more_sampling_steps_than_noise_levels_are_refused_before_training():
    expected = r"sampling.n_steps is 50; at most model.n_timesteps \(20\)"
    with pytest.raises(BadInput, match=expected):
        from_dict(with_option("model", "n_timesteps", 20))


def test_weights_are_not_kept_of_members_that_are_repaired_slice_by_slice():
    with pytest.raises(
        BadInput, match="keep_every_steps is 5 beside training.slices=2"
    ):
        TrainingConfig(keep_every_steps=5, slices=2)


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_images_from_elsewhere_need_a_path(kind):
    with pytest.raises(BadInput, match=f"data.path is missing: data.kind '{kind}' rea"):
        from_dict(with_option("data", "kind", kind))


def test_a_member_needs_a_resolution():
    with pytest.raises(
        BadInput, match="model.block_out_channels is empty: name at lea"
    ):
        from_dict(with_option("model", "block_out_channels", []))


@pytest.mark.parametrize("channels", [12, 0, -8])
def test_channels_must_fall_into_whole_groups(channels):
    with pytest.raises(
        BadInput, match=rf"has {channels}, which is no multiple of .*8\)"
    ):
        from_dict(with_option("model", "block_out_channels", [8, channels]))


def test_overrides_are_read_as_yaml_and_the_last_one_wins(write):
    config = load(
        write("run: runs/a\ntraining: {steps: 7}"),
        [
            "training.steps=8",
            "training.steps=9",
            "training.ema_decay=null",
            "model.block_out_channels=[8, 16]",
            "run=runs/b=c",
        ],
    )
    assert config.run == "runs/b=c"
    assert config.training == TrainingConfig(steps=9)
    assert config.model == ModelConfig(block_out_channels=[8, 16])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps", "has no '='. Write section.key=value"),
        ("run.steps=3", "'run' is not a section"),
        ("training.steps=[", "Override 'training.steps=[' is not valid YAML"),
        ("data.label=2024-02-31", "label=2024-02-31' is not valid YAML"),
        ("training.step=3", "Did you mean 'steps'?"),
        ("training.steps=", "training.steps is None: a whole number is wanted."),
        ("training.learning_rate=1e-4", "1.0e-4"),
        ("=3", "The config has no key ''"),
    ],
)
def test_a_wrong_override_is_refused(write, override, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        load(write("run: runs/a"), [override])


def test_a_config_differs_in_nothing_from_itself():
    tree = to_dict(Config("runs/a"))
    assert differences(tree, tree) == []


def test_each_difference_is_one_line_with_old_and_new():
    old = Config("runs/a", training=TrainingConfig(steps=7))
    new = Config("runs/b", model=ModelConfig(block_out_channels=[8]))
    assert differences(to_dict(old), to_dict(new)) == [
        "model.block_out_channels: [16, 32] -> [8]",
        "run: 'runs/a' -> 'runs/b'",
        "training.steps: 7 -> 1200",
    ]


def test_a_config_cannot_be_changed():
    config: Any = Config("runs/a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.run = "runs/b"


def test_a_salt_must_fit_the_digest_that_was_published():
    digest = hashlib.sha256(b"sea").hexdigest()
    promised = {"salt": "sea", "salt_sha256": digest}
    assert from_dict({"run": "a", "splits": promised}).splits.salt == "sea"
    for salt in ("rock", None):
        with pytest.raises(BadInput, match=f"promised {digest}"):
            from_dict({"run": "a", "splits": {**promised, "salt": salt}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "artist", "separator": ""}, "data.separator is empty"),
        ({"separator": ";"}, "data.source is 'image'"),
        ({"source": "near_duplicates", "separator": ";"}, "is 'near_duplicates'"),
        ({"source": "a", "separator": ";", "owner": "b"}, "leave one of them out"),
        ({"near": 1.0}, "data.near is 1.0"),
        ({"near": -0.1}, "data.near is -0.1"),
        ({"classes": 1}, "data.classes is 1; it must be at least 2"),
        ({"classes": 10**6}, "data.classes is 1000000; it must be at most 100000"),
        ({"classes": ["cat"]}, "data.classes is ['cat']: at least two classes"),
        ({"classes": ["cat", ""]}, "data.classes is ['cat', '']: at least two"),
        ({"classes": ["a", "b", "a"]}, "data.classes names 'a' twice"),
        ({"classes": [0, 1]}, "each entry text, or a whole number or null is wanted"),
        ({"classes": True}, "data.classes is True"),
    ],
)
def test_ways_to_group_images_that_contradict_each_other_are_refused(data, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        from_dict({"run": "a", "data": data})


LAUGHS = "\n".join(
    ["run: r", "a: &a [x, x]"]
    + [
        f"{new}: &{new} [*{old}, *{old}]"
        for old, new in itertools.pairwise("abcdefghi")
    ]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "no anchors, aliases or tags, here anchor"),
        ("run: &a [*a]", "no anchors, aliases or tags, here anchor"),
        ("run: *a", "no anchors, aliases or tags, here anchor"),
        ("run: !!python/object/apply:os.system [true]", "or tags, here tag"),
        ("run: !!timestamp x", "or tags, here tag"),
        ("run: !!int ''", "or tags, here tag"),
        ("run: r\n[a]: 1", "a key must be a word"),
        ("run: r\n? {}\n: 1", "a key must be a word"),
        ("run: r\nsplits: {seed: 0x" + "f" * 9000 + "}", "more than 64 bits"),
        ("run: r\nsplits: {seed: " + "9" * 9000 + "}", "is not valid YAML"),
        ("run: " + "[" * 16_000, "nested too deeply"),
        ("run: r\n" + "# all work\n" * 10_000, "is longer than 16384 bytes"),
        ('run: "a\\0b"', "run is 'a.x00b': no name has a zero in it"),
    ],
    ids=lambda text: str(text)[:40].replace("\n", " ").replace("\0", " "),
)
def test_what_no_config_needs_is_refused_at_once(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(BadInput, match=message):
        load(path)
    assert time.process_time() - began < 1


def test_an_override_is_read_like_a_config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("run: r")
    for text in ("&a [*a]", "!!int ''", "[" * 9000):
        with pytest.raises(BadInput, match=r"Override .* is not valid YAML"):
            load(path, [f"splits.seed={text}"])
    with pytest.raises(BadInput, match="'run' is not a section. Write section.key"):
        load(path, ["run.path=x"])
