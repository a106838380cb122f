"""Exact ablation is sampling again, source by source: the fast way must agree."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ensemble.ablation import exact
from ensemble.ablation.measurements import MEASUREMENTS, displacement
from ensemble.models.denoisers import build_member
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.run import config_file, files
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries, ablated_pictures
from ensemble.sampling.schedulers import SCHEDULERS, sampler
from ensemble.system import seeding
from splits.codes import ablated_votes
from splits.designs import registry
from splits.errors import BadInput
from tests import tiny


def queries_of(pipe, n_queries=3, labels=None) -> Queries:
    seeds = np.arange(10, 10 + n_queries)
    images = pipe(seeds=seeds, class_labels=labels, output_type="latent").images
    conditions = None if labels is None else np.array(labels)
    return Queries(seeds, conditions, images.float().numpy())


def one_by_one(pipe, queries, votes) -> np.ndarray:
    """The naive twin: every query and every vote vector on its own."""
    rows = []
    for query, seed in enumerate(queries.seeds.tolist()):
        label = None if queries.conditions is None else int(queries.conditions[query])
        rows.append(
            [
                pipe(
                    seeds=[seed], votes=row, class_labels=label, output_type="latent"
                ).images[0]
                for row in votes
            ]
        )
    return torch.stack([torch.stack(row) for row in rows]).numpy()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_landscape_is_resampling_source_by_source(scheduler, tmp_path):
    pipe = tiny.ensemble(scheduler=scheduler, codes=tiny.codes())
    queries = queries_of(pipe)
    votes = np.stack([ablated_votes(pipe.codes, [source]) for source in range(6)])
    found = exact.landscape(pipe, queries, votes, MEASUREMENTS, tmp_path / "work")
    naive = one_by_one(pipe, queries, votes)
    expected = np.sqrt(np.square(naive - queries.images[:, None]).mean(axis=(2, 3, 4)))
    np.testing.assert_allclose(found.displacement, expected, rtol=1e-5)
    bright = naive.clip(-1, 1).mean(axis=(2, 3, 4))
    np.testing.assert_allclose(found.measured["brightness"], bright, atol=1e-6)


def test_conditions_and_guidance_are_kept(tmp_path):
    pipe = tiny.ensemble(n_classes=3, codes=tiny.codes())
    pipe.register_to_config(guidance_scale=2.0)
    queries = queries_of(pipe, labels=[2, 0, 1])
    votes = np.stack([ablated_votes(pipe.codes, [source]) for source in range(3)])
    found = exact.landscape(pipe, queries, votes, {}, tmp_path / "work")
    naive = one_by_one(pipe, queries, votes)
    expected = np.sqrt(np.square(naive - queries.images[:, None]).mean(axis=(2, 3, 4)))
    np.testing.assert_allclose(found.displacement, expected, rtol=1e-5)


def test_ablating_nothing_displaces_nothing(tmp_path):
    pipe = tiny.ensemble()
    votes = np.full((1, 4), 0.25)
    found = exact.landscape(pipe, queries_of(pipe), votes, {}, tmp_path / "work")
    assert found.displacement.max() < 1e-6


def test_leave_one_out_leaves_each_members_own_picture(tmp_path):
    codes = registry.draw("leave_one_out", 4, 4)
    pipe = tiny.ensemble(4, codes=codes)
    queries = queries_of(pipe, 2)
    votes = np.stack([ablated_votes(codes, [source]) for source in range(4)])
    assert np.array_equal(votes, np.eye(4))
    pictures = ablated_pictures(pipe, queries, np.zeros(4, dtype=np.int64), votes)
    for member in range(4):
        own = pipe(seeds=[10], votes=np.eye(4)[member], output_type="latent").images[0]
        torch.testing.assert_close(pictures[member], own)


def test_equal_vote_vectors_and_the_first_step_are_computed_once(tmp_path):
    pipe = tiny.ensemble()
    queries = queries_of(pipe, 2)
    votes = np.repeat([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], 5, axis=0)
    found = exact.landscape(pipe, queries, votes, {}, tmp_path / "work")
    n_steps, n_queries, n_distinct, n_voting, n_members = 4, 2, 2, 2, 4
    first = n_queries * n_members
    rest = (n_steps - 1) * n_queries * n_distinct * n_voting
    assert found.member_forwards == first + rest
    assert np.array_equal(found.displacement[:, :1], found.displacement[:, 1:2])


def test_an_interrupted_landscape_goes_on_where_it_was(tmp_path, monkeypatch):
    pipe = tiny.ensemble(codes=tiny.codes())
    queries = queries_of(pipe)
    votes = np.stack([ablated_votes(pipe.codes, [source]) for source in range(6)])
    monkeypatch.setattr(exact, "block_size", lambda *_: 4)
    whole = exact.landscape(pipe, queries, votes, MEASUREMENTS, tmp_path / "whole")
    real, calls = exact.ablated_pictures, []

    def dies_at_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(exact, "ablated_pictures", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        exact.landscape(pipe, queries, votes, MEASUREMENTS, tmp_path / "parts")
    parts = exact.landscape(pipe, queries, votes, MEASUREMENTS, tmp_path / "parts")
    assert len(calls) == 6
    assert np.array_equal(parts.displacement, whole.displacement)
    assert np.array_equal(parts.measured["contrast"], whole.measured["contrast"])
    assert parts.member_forwards == whole.member_forwards


def test_other_votes_do_not_continue_old_blocks(tmp_path):
    pipe = tiny.ensemble()
    queries = queries_of(pipe, 1)
    work = tmp_path / "work"
    one = exact.landscape(pipe, queries, np.eye(4)[:2], {}, work)
    other = exact.landscape(pipe, queries, np.eye(4)[2:], {}, work)
    assert tiny.different(one.displacement, other.displacement)


def test_other_queries_do_not_continue_old_blocks(tmp_path):
    pipe = tiny.ensemble()
    queries, others = queries_of(pipe, 2), queries_of(pipe, 3)
    others = Queries(others.seeds[1:], None, others.images[1:])
    work = tmp_path / "work"
    one = exact.landscape(pipe, queries, np.eye(4), {}, work)
    other = exact.landscape(pipe, others, np.eye(4), {}, work)
    assert np.array_equal(other.displacement[0], one.displacement[1])
    assert tiny.different(other.displacement[1], one.displacement[1])


def test_less_memory_means_smaller_blocks_and_the_same_result(tmp_path):
    pipe = tiny.ensemble(codes=tiny.codes())
    activations, state = exact.picture_bytes(pipe)
    assert activations > state == 8 * 64
    queries = queries_of(pipe)
    votes = np.stack([ablated_votes(pipe.codes, [source]) for source in range(6)])
    much = exact.landscape(pipe, queries, votes, {}, tmp_path / "much")
    assert pipe.members.forward_batch > 10
    little = exact.landscape(pipe, queries, votes, {}, tmp_path / "little", 1)
    assert pipe.members.forward_batch < 10
    np.testing.assert_allclose(much.displacement, little.displacement, rtol=1e-6)


def test_displacement_is_the_root_mean_square():
    noise = torch.randn(2, 1, 4, 4, generator=seeding.generator(0, "test"))
    moved = noise.clone()
    moved[1, 0, 0, 0] += 4
    assert displacement(noise, moved).tolist() == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("damage", ["values", "shape", "gone"])
def test_what_an_interrupted_landscape_left_is_checked(tmp_path, damage):
    votes = np.eye(2)
    asked = Queries(np.arange(3), None, np.zeros((3, 1, 4, 4), np.float32))
    blocks = exact._Blocks(tmp_path, asked, votes, [], {})
    blocks.keep(np.arange(4, dtype=np.float32)[None], 7)
    again = exact._Blocks(tmp_path, asked, votes, [], {})
    assert again.done == 4
    again.keep(np.ones((1, 1), np.float32), 1)
    assert exact._Blocks(tmp_path, asked, votes, [], {}).done == 5
    path = tmp_path / "values.npy"
    if damage == "gone":
        path.unlink()
    else:
        shape = (1, 6) if damage == "values" else (1, 5)
        np.save(path, np.zeros(shape, np.float32))
    with pytest.raises(BadInput, match=r"values\.npy is (damaged: progress|missing)"):
        exact._Blocks(tmp_path, asked, votes, [], {})


def test_blocks_are_a_minutes_work_of_a_core(monkeypatch):
    pipe = tiny.ensemble(n_members=4)
    with FlopCounterMode(display=False) as counter:
        exact._one_forward(pipe)
    # Two of four members vote, in four steps.
    a_picture = counter.get_total_flops() * 4 * 2
    for speed, expected in ((a_picture / 60, 1), (a_picture / 6, 10), (1e18, 1024)):
        monkeypatch.setitem(exact.OPERATIONS_A_SECOND, "cpu", speed)
        assert exact.pictures_of_a_minute(pipe) == pytest.approx(expected, abs=1)
    conditional = tiny.ensemble(n_members=4, n_classes=3)
    conditional.register_to_config(guidance_scale=2.0)
    monkeypatch.setitem(exact.OPERATIONS_A_SECOND, "cpu", a_picture / 6)
    # With guidance each member is run twice.
    assert exact.pictures_of_a_minute(conditional) == pytest.approx(5, abs=1)


def test_a_block_has_the_size_with_which_it_was_begun(tmp_path, monkeypatch):
    pipe = tiny.ensemble()
    asked, votes = queries_of(pipe, 2), np.eye(4)
    monkeypatch.setattr(exact, "pictures_of_a_minute", lambda _: 3)
    begun = exact._Blocks(tmp_path, asked, votes, [], {})
    assert begun.size_of(pipe, 1024) == 3
    begun.keep(np.ones((1, 3), np.float32), 1)
    monkeypatch.setattr(exact, "pictures_of_a_minute", lambda _: 7)
    again = exact._Blocks(tmp_path, asked, votes, [], {})
    assert again.size_of(pipe, 1024) == 3
    # Less memory than it was begun with cannot be had otherwise.
    monkeypatch.setattr(exact, "block_size", lambda *_: 2)
    assert again.size_of(pipe, 1) == 2


def test_what_version_0_1_began_goes_on_with_its_own_blocks(tmp_path, monkeypatch):
    pipe = tiny.ensemble()
    asked, votes = queries_of(pipe, 2), np.eye(4)
    begun = exact._Blocks(tmp_path, asked, votes, [], {})
    begun.keep(np.ones((1, 3), np.float32), 1)
    kept = files.read_json(tmp_path / "progress.json")
    for new in ("seconds", "block_size"):
        del kept[new]
    del kept["key"]["seeds"]
    files.write_json(tmp_path / "progress.json", kept)
    monkeypatch.setattr(exact, "pictures_of_a_minute", lambda _: 1)
    again = exact._Blocks(tmp_path, asked, votes, [], {})
    assert (again.done, again.seconds) == (3, 0.0)
    assert again.size_of(pipe, 1024) == exact.block_size(pipe, 1024) > 1


def test_blocks_by_other_members_are_not_gone_on_with(tmp_path):
    asked = Queries(np.arange(3), None, np.zeros((3, 1, 4, 4), np.float32))
    one, other = {"weights_digest": "1"}, {"weights_digest": "2"}
    blocks = exact._Blocks(tmp_path, asked, np.eye(2), [], one)
    blocks.keep(np.ones((1, 2), np.float32), 1)
    assert exact._Blocks(tmp_path, asked, np.eye(2), [], one).done == 2
    assert exact._Blocks(tmp_path, asked, np.eye(2), [], other).done == 0


def test_the_demo_has_blocks_as_large_as_before():
    settings = config_file.load("configs/digits.yaml")
    network = build_member(settings.model, (1, 8, 8), None, 0)
    of_one = {k: v for k, v in network.config.items() if not k.startswith("_")}
    pipe = EnsemblePipeline(
        EnsembleModel(list(range(settings.splits.n_members)), of_one),
        sampler(settings.model, settings.sampling),
        settings.sampling.n_steps,
    )
    assert exact.pictures_of_a_minute(pipe) == exact.MOST_PICTURES
