"""Features are written once, go on where they were, and know what decides them."""

import dataclasses

import numpy as np
import pytest
import torch

from ensemble.run import cache
from ensemble.scorers.gradients import batch_size, features, per_example
from ensemble.scorers.gradients.features import Feature
from ensemble.scorers.gradients.per_example import Draws
from ensemble.scorers.gradients.projection import Projection
from ensemble.scorers.interface import all_of
from ensemble.scorers.methods.park2023trak import Trak
from splits.errors import BadInput
from tests.ensemble.scorers import references, tiny_context
from tests.ensemble.scorers.tiny_context import DRAWS, FEATURE, WHOLE


def taken(context, feature=FEATURE, network=0):
    train = all_of(context.train)
    return features.load_or_compute(context, feature, context.networks[network], train)


@pytest.fixture
def context(tmp_path):
    return tiny_context.context(tmp_path)


def test_features_are_mean_gradients(context):
    wanted = references.features(
        context, context.networks[0], context.train, "loss", DRAWS
    )
    np.testing.assert_allclose(taken(context, WHOLE), wanted, rtol=1e-9, atol=1e-15)


def test_unit_draws_are_averaged_at_length_one(context):
    wanted = references.features(
        context, context.networks[0], context.train, "loss", DRAWS, unit=True
    )
    found = taken(context, dataclasses.replace(WHOLE, unit_draws=True))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit_draws", [False, True])
@pytest.mark.parametrize("at_once", [1, 2, 7, 1000])
def test_features_do_not_depend_on_what_is_done_at_once(
    context, tmp_path, monkeypatch, at_once, unit_draws
):
    feature = dataclasses.replace(FEATURE, unit_draws=unit_draws)
    wanted = np.array(taken(context, feature))
    monkeypatch.setattr(batch_size, "ENOUGH", at_once)
    another = dataclasses.replace(context, folder=tmp_path / "another")
    np.testing.assert_allclose(taken(another, feature), wanted, rtol=1e-9, atol=1e-12)


def test_features_are_taken_once(context, monkeypatch):
    first = np.array(taken(context))
    seconds = context.work.seconds_before
    assert seconds == 0
    monkeypatch.setattr(per_example, "gradient_sums", None)
    assert np.array_equal(taken(context), first)
    assert context.work.seconds_before > 0
    assert context.work.gradients == 2 * 12 * 3


def test_an_interrupted_scorer_goes_on_where_it_was(context, tmp_path, monkeypatch):
    wanted = np.array(taken(context))
    another = dataclasses.replace(context, folder=tmp_path / "another")
    monkeypatch.setattr(batch_size, "ENOUGH", 9)
    calls, real = [], per_example.gradient_sums

    def failing(network, states, *rest):
        calls.append(len(states.noisy))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(network, states, *rest)

    monkeypatch.setattr(per_example, "gradient_sums", failing)
    with pytest.raises(KeyboardInterrupt):
        taken(another)
    assert np.allclose(taken(another), wanted, rtol=1e-9)
    assert calls == [3, 3, 3, 3, 3]


def test_whatever_decides_a_feature_gives_it_a_file_of_its_own(context):
    changes = [
        dataclasses.replace(FEATURE, output="mean"),
        dataclasses.replace(FEATURE, draws=Draws(n_timesteps=2)),
        dataclasses.replace(FEATURE, draws=dataclasses.replace(DRAWS, seed=1)),
        dataclasses.replace(FEATURE, draws=dataclasses.replace(DRAWS, n_noises=2)),
        dataclasses.replace(
            FEATURE, draws=dataclasses.replace(DRAWS, shared_noise=True)
        ),
        dataclasses.replace(FEATURE, projection=Projection(63)),
        dataclasses.replace(FEATURE, projection=Projection(64, seed=1)),
        dataclasses.replace(FEATURE, unit_draws=True),
    ]
    found = [taken(context, feature) for feature in [FEATURE, *changes]]
    found.append(taken(context, network=1))
    velocity = dataclasses.replace(
        context, objective=tiny_context.objective("v_prediction")
    )
    found.append(taken(velocity))
    fewer = dataclasses.replace(
        context,
        train=context.train[:11],
        saw=context.saw[:, :11],
        source_of=context.source_of[:11],
    )
    found.append(taken(fewer))
    names = [path for path in context.folder.glob("*.npy") if path.suffixes == [".npy"]]
    assert len(names) == len(found)
    for another in found[1:]:
        alike = another.shape == found[0].shape and np.allclose(another, found[0])
        assert not alike


def test_float32_networks_give_float32_features(context):
    single = dataclasses.replace(
        context,
        networks=[network.float() for network in context.networks],
        train=dataclasses.replace(context.train, images=context.train.images.float()),
        queries=dataclasses.replace(
            context.queries, images=context.queries.images.float()
        ),
    )
    assert taken(single).dtype == np.float32
    assert np.isfinite(Trak(FEATURE).score(single)).all()


def test_projected_scores_are_close_to_those_of_whole_gradients(context):
    """300 lanes for 77 weights; rank correlation 0.99 was measured."""
    reference = tiny_context.of_reference(context)
    wide = dataclasses.replace(FEATURE, projection=Projection(300))
    first = Trak(WHOLE).score(reference).ravel()
    second = Trak(wide).score(reference).ravel()
    assert np.corrcoef(first, second)[0, 1] > 0.95


def test_blocks_of_training_images_cover_each_once(context, monkeypatch):
    rows = next(features.of_networks(context, WHOLE))
    small = dataclasses.replace(rows, max_memory_mb=0)
    covered = [index for block in small.blocks() for index in rows.seen[block]]
    assert covered == rows.seen.tolist()
    assert len(list(small.blocks())) == len(rows.seen)
    kernel = Trak(WHOLE).score(context)
    monkeypatch.setattr(
        features.Rows, "blocks", lambda rows: (slice(i, i + 1) for i in range(12))
    )
    np.testing.assert_allclose(Trak(WHOLE).score(context), kernel, rtol=1e-5)


def test_scores_in_the_making_leave_no_file(context):
    table = features.table(context)
    table += 1
    assert (table == 1).all()
    assert list(context.folder.iterdir()) == []


def test_an_unknown_output_is_refused():
    with pytest.raises(BadInput, match="output is 'los'; known: loss"):
        Feature(output="los")


def test_features_beyond_the_disk_are_refused(context, monkeypatch):
    monkeypatch.setattr(
        cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})
    )
    with pytest.raises(BadInput, match="Make room, or project to fewer"):
        taken(context)


def test_unit_rows_have_length_one_and_zeros_stay():
    rows = features.unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]])


def test_features_move_with_their_images(context):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    turned = dataclasses.replace(context, train=context.train[order])
    whole = taken(context)
    np.testing.assert_allclose(taken(turned), whole[order.numpy()], rtol=1e-9)


@pytest.mark.parametrize("damage", ["row", "header", "another shape"])
def test_a_damaged_row_is_taken_again(context, damage):
    first = np.array(taken(context))
    (path,) = (
        path for path in context.folder.glob("*.npy") if path.suffixes == [".npy"]
    )
    content = bytearray(path.read_bytes())
    content[{"row": -3, "header": 8, "another shape": -3}[damage]] ^= 1
    path.write_bytes(bytes(content))
    if damage == "another shape":
        np.save(path, first[:-1])
    assert np.array_equal(taken(context), first)
