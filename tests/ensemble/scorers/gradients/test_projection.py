"""Projections keep inner products on average, at the promised variance."""

import math

import pytest
import torch

from ensemble.scorers.gradients.projection import Projection
from splits.errors import BadInput


def projected(rows, projection, pieces=(1.0,)):
    """All rows, as one parameter after the other, cut at shares of the weights."""
    out = rows.new_zeros(len(rows), projection.width(rows.shape[1]))
    first = 0
    for number, share in enumerate(pieces):
        last = min(rows.shape[1], first + math.ceil(share * rows.shape[1]))
        projection.add(out, rows[:, first:last], f"parameter {number}", first)
        first = last
    return out


def vectors(n_weights=300):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, n_weights, generator=generator, dtype=torch.float64)
    return torch.stack([noise[0], 0.7 * noise[0] + noise[1]])


def test_inner_products_are_right_on_average_and_as_far_off_as_promised():
    """400 seeds; mean within 4 sigma, variance within 30 % (7 % is one sigma)."""
    g, h = vectors()
    k = 32
    found = torch.stack(
        [
            torch.prod(projected(torch.stack([g, h]), Projection(k, seed)), dim=0).sum()
            for seed in range(400)
        ]
    )
    both = g.square().sum() * h.square().sum() + (g @ h).square()
    variance = (both - 2 * (g * h).square().sum()) / k
    assert abs(found.mean() - g @ h) < 4 * (variance / 400).sqrt()
    assert found.var() / variance == pytest.approx(1, abs=0.3)


def test_squared_length_is_kept_on_average():
    """400 seeds, 4 sigma of Var = 2/k (|g|⁴ - Σ g⁴)."""
    g = vectors()[:1]
    lengths = torch.stack(
        [projected(g, Projection(16, seed)).square().sum() for seed in range(400)]
    )
    square = g.square().sum()
    sigma = (2 / 16 * (square**2 - g.pow(4).sum()) / 400).sqrt()
    assert abs(lengths.mean() - square) < 4 * sigma


def test_rows_do_not_depend_on_each_other():
    rows = vectors()
    projection = Projection(16)
    alone = torch.cat([projected(row[None], projection) for row in rows])
    assert torch.equal(projected(rows, projection), alone)


def test_parameters_may_come_in_any_order():
    rows, projection = vectors(), Projection(16)
    forth, back = rows.new_zeros(2, 16), rows.new_zeros(2, 16)
    projection.add(forth, rows[:, :100], "first", 0)
    projection.add(forth, rows[:, 100:], "second", 100)
    projection.add(back, rows[:, 100:], "second", 100)
    projection.add(back, rows[:, :100], "first", 0)
    torch.testing.assert_close(forth, back, rtol=1e-12, atol=1e-12)


def test_every_weight_lands_in_one_lane_with_a_sign():
    landed = projected(torch.eye(200), Projection(16))
    assert ((landed != 0).sum(dim=1) == 1).all()
    assert (landed.abs().sum(dim=1) == 1).all()
    assert 60 < (landed.sum(dim=1) > 0).sum() < 140


def test_parameters_of_other_names_and_other_seeds_are_drawn_anew():
    eye = torch.eye(200)
    first = projected(eye, Projection(16))
    assert not torch.equal(first, projected(eye, Projection(16, seed=1)))
    renamed = torch.zeros(200, 16)
    Projection(16).add(renamed, eye, "another", 0)
    assert not torch.equal(first, renamed)


def test_tiny_gradients_do_not_vanish():
    rows = vectors().float()
    tiny = projected(rows * 1e-20, Projection(16))
    torch.testing.assert_close(tiny * 1e20, projected(rows, Projection(16)))


def test_without_dimensions_gradients_are_kept_whole():
    rows = vectors()
    assert torch.equal(projected(rows, Projection(None), (0.3, 0.5, 0.2)), rows)


def test_a_projection_onto_nothing_is_refused():
    with pytest.raises(BadInput, match="n_dimensions is 0"):
        Projection(0)


def test_a_seed_without_a_projection_is_refused():
    with pytest.raises(BadInput, match="has no effect"):
        Projection(None, seed=3)
