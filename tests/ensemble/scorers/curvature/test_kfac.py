"""Curvature against the Gauss-Newton matrix written out, and against curvlinops."""

import dataclasses

import pytest
import torch
from torch import nn

from ensemble.scorers.curvature import layers
from ensemble.scorers.curvature.kfac import Curvature
from splits.errors import BadInput
from tests.ensemble.scorers import denoisers
from tests.ensemble.scorers.denoisers import Denoiser


def fit(network, *samples, **options):
    found = layers.find(network)
    curvature = Curvature(**options)
    spectra = curvature.measure(network, found, lambda _: samples)
    fitted = curvature.damp(spectra, found, next(network.parameters()))
    return fitted, denoisers.as_matrix(fitted, found)


def blocks(matrix, network):
    """The matrix without its entries between different layers."""
    found = layers.find(network)
    sizes = [rows * columns for rows, columns in map(found.shape, found.modules)]
    masks = [torch.ones(size, size, dtype=torch.float64) for size in sizes]
    return matrix * torch.block_diag(*masks)


@pytest.mark.parametrize("approximation", ["kfac", "ekfac"])
@pytest.mark.parametrize("network", [denoisers.linear(), denoisers.deep_linear()])
def test_without_nonlinearity_kfac_is_the_gauss_newton_matrix(network, approximation):
    sample = denoisers.sample(20, 1, 2, 2)
    _, matrix = fit(network, sample, approximation=approximation, targets="exact")
    expected = blocks(denoisers.gauss_newton(network, sample), network)
    torch.testing.assert_close(matrix, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("approximation", ["kfac", "ekfac"])
def test_for_a_single_linear_layer_solving_is_the_exact_inverse(approximation):
    network, sample = denoisers.linear(), denoisers.sample(20, 1, 2, 2)
    fitted, _ = fit(network, sample, approximation=approximation, targets="exact")
    gradient = torch.randn(3, 4, 5, dtype=torch.float64)
    matrix = denoisers.gauss_newton(network, sample)
    damped = matrix + fitted.layers["body.1"].damping * torch.eye(20).double()
    as_weights = torch.cat([gradient[..., :-1].flatten(1), gradient[..., -1]], dim=1)
    solved = torch.linalg.solve(damped, as_weights.T).T
    expected = torch.cat([solved[:, :16].reshape(3, 4, 4), solved[:, 16:, None]], -1)
    actual = fitted.solve({"body.1": gradient})["body.1"]
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_the_diagonal_is_the_gauss_newton_matrixs_own():
    network, sample = denoisers.convolutional(), denoisers.sample(6, 1, 4, 4)
    _, matrix = fit(network, sample, approximation="diagonal", targets="exact")
    expected = denoisers.gauss_newton(network, sample).diagonal()
    torch.testing.assert_close(matrix, torch.diag(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_measured_eigenvalues_have_the_gauss_newton_matrixs_trace(sharing):
    network, sample = denoisers.convolutional(), denoisers.sample(6, 1, 4, 4)
    _, matrix = fit(network, sample, targets="exact", sharing=sharing)
    expected = denoisers.gauss_newton(network, sample).trace()
    torch.testing.assert_close(matrix.trace(), expected, rtol=1e-12, atol=0.0)


def test_measured_eigenvalues_come_closer_to_the_gauss_newton_matrix_than_kfac():
    network, sample = denoisers.convolutional(), denoisers.sample(30, 1, 4, 4)
    expected = blocks(denoisers.gauss_newton(network, sample), network)
    error = {}
    for approximation in ("diagonal", "kfac", "ekfac"):
        _, matrix = fit(network, sample, approximation=approximation, targets="exact")
        error[approximation] = float((matrix - expected).norm())
    assert error["ekfac"] < error["kfac"]
    assert error["ekfac"] < error["diagonal"]


def test_pseudo_targets_average_to_the_exact_curvature():
    network, sample = denoisers.linear(), denoisers.sample(4, 1, 2, 2)
    many = [denoisers.sample(4, 1, 2, 2, seed=seed) for seed in range(200)]
    sampled = [
        dataclasses.replace(sample, pseudo_target_noise=other.pseudo_target_noise)
        for other in many
    ]
    _, exact = fit(network, sample, targets="exact", approximation="diagonal")
    _, found = fit(network, *sampled, approximation="diagonal")
    # 800 samples, each the square of a normal: five standard errors are 0.25.
    torch.testing.assert_close(found, exact, rtol=0.25, atol=1e-9)


def test_the_observed_diagonal_is_the_mean_squared_gradient_of_the_loss():
    network, sample = denoisers.convolutional(), denoisers.sample(6, 1, 4, 4)
    _, matrix = fit(network, sample, targets="observed", approximation="diagonal")
    derivative = denoisers.jacobian(network, sample)
    prediction = network(sample.noisy, sample.timestep).sample
    error = (prediction - sample.target).detach().flatten(1)
    gradients = 2 / 16 * torch.einsum("ndp,nd->np", derivative, error)
    torch.testing.assert_close(matrix.diagonal(), gradients.square().mean(dim=0))


def test_expanding_and_reducing_agree_where_there_is_one_position():
    network, sample = denoisers.deep_linear(), denoisers.sample(6, 1, 2, 2)
    _, expanded = fit(network, sample, approximation="kfac")
    _, reduced = fit(network, sample, approximation="kfac", sharing="reduce")
    torch.testing.assert_close(expanded, reduced, rtol=1e-12, atol=1e-14)


def test_expanding_and_reducing_differ_for_a_convolution():
    network, sample = denoisers.convolutional(), denoisers.sample(6, 1, 4, 4)
    _, expanded = fit(network, sample, approximation="kfac")
    _, reduced = fit(network, sample, approximation="kfac", sharing="reduce")
    assert (expanded - reduced).norm() > 0.1 * expanded.norm()


@pytest.mark.parametrize("approximation", ["kfac", "ekfac", "diagonal"])
@pytest.mark.parametrize("targets", ["sampled", "exact", "observed"])
def test_the_curvature_does_not_depend_on_how_draws_are_batched(approximation, targets):
    network, sample = denoisers.convolutional(), denoisers.sample(6, 1, 4, 4)
    halves = [sample.at(slice(0, 1)), sample.at(slice(1, 6))]
    options = {"approximation": approximation, "targets": targets}
    _, whole = fit(network, sample, **options)
    _, parts = fit(network, *halves, **options)
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-12)


def test_damping_counts_in_units_of_each_layers_mean_eigenvalue():
    network, sample = denoisers.convolutional(), denoisers.sample(6, 1, 4, 4)
    fitted, _ = fit(network, sample, damping=0.25)
    for layer in fitted.layers.values():
        assert layer.damping == pytest.approx(
            0.25 * float(layer.spectrum.eigenvalues.mean())
        )


def test_great_damping_leaves_the_gradient_divided_by_it():
    network, sample = denoisers.convolutional(), denoisers.sample(6, 1, 4, 4)
    fitted, _ = fit(network, sample, damping=1e12)
    gradients = {
        name: torch.randn(2, *layer.spectrum.eigenvalues.shape, dtype=torch.float64)
        for name, layer in fitted.layers.items()
    }
    for name, solved in fitted.solve(gradients).items():
        expected = gradients[name] / fitted.layers[name].damping
        torch.testing.assert_close(solved, expected, rtol=1e-6, atol=0.0)


def test_a_layer_that_nothing_comes_back_to_moves_nothing():
    network = denoisers.deep_linear()
    network.body[3].weight.data.zero_()
    fitted, _ = fit(network, denoisers.sample(6, 1, 2, 2))
    solved = fitted.solve({"body.1": torch.zeros(1, 5, 5, dtype=torch.float64)})
    assert torch.equal(solved["body.1"], torch.zeros_like(solved["body.1"]))


def test_what_was_damped_and_what_was_ignored_is_on_record():
    network = Denoiser(nn.GroupNorm(1, 1), nn.Flatten(), nn.Linear(4, 4))
    fitted, _ = fit(network, denoisers.sample(6, 1, 2, 2))
    facts = fitted.facts()
    assert facts["ignored"] == {"body.0": "is a GroupNorm"}
    relative = fitted.layers["body.2"].damping / facts["mean_eigenvalue"]["body.2"]
    assert relative == pytest.approx(Curvature().damping)


@pytest.mark.parametrize(("damping", "shown"), [(0.0, "0"), (1e-18, "1e-18")])
def test_too_little_damping_along_flat_directions_is_refused(damping, shown):
    sample = denoisers.sample(2, 1, 2, 2)
    with pytest.raises(BadInput, match=rf"flat along \d+ of 20 .*damping={shown} adds"):
        fit(denoisers.linear(), sample, damping=damping, targets="exact")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"approximation": "kron"}, "approximation is 'kron'; allowed: ekfac"),
        ({"targets": "mc"}, "targets is 'mc'; allowed: sampled"),
        ({"sharing": "sum"}, "sharing is 'sum'; allowed: expand"),
        ({"damping": -1.0}, "damping is -1.0; allowed: from 0 up"),
        ({"damping": float("nan")}, "damping is nan; allowed: from 0 up"),
        ({"n_draws": 0}, "n_draws is 0; at least 1"),
        ({"approximation": "diagonal", "sharing": "reduce"}, "no effect on a diagonal"),
    ],
)
def test_options_out_of_range_or_without_effect_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        Curvature(**options)


@pytest.mark.oracle
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize(
    ("targets", "fisher"), [("exact", "type-2"), ("observed", "empirical")]
)
def test_kfac_agrees_with_curvlinops(targets, fisher, sharing):
    reason = "curvlinops is not installed"
    curvlinops = pytest.importorskip("curvlinops", reason=reason)
    network, sample = denoisers.convolutional(), denoisers.sample(6, 1, 4, 4)
    _, matrix = fit(
        network, sample, approximation="kfac", targets=targets, sharing=sharing
    )
    oracle = curvlinops.KFACLinearOperator(
        network.body,
        nn.MSELoss(),
        list(network.parameters()),
        [(sample.noisy, sample.target.flatten(1))],
        fisher_type=fisher,
        kfac_approx=sharing,
        separate_weight_and_bias=False,
    )
    expected = oracle @ torch.eye(len(matrix), dtype=torch.float64)
    # curvlinops' observed gradients are of the sum over the 16 values, not the mean.
    scale = 16 if targets == "observed" else 1
    torch.testing.assert_close(scale * matrix, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle
def test_ekfac_agrees_with_curvlinops():
    reason = "curvlinops is not installed"
    curvlinops = pytest.importorskip("curvlinops", reason=reason)
    network, sample = denoisers.convolutional(), denoisers.sample(200, 1, 4, 4)
    _, matrix = fit(network, sample, targets="observed")
    oracle = curvlinops.EKFACLinearOperator(
        network.body,
        nn.MSELoss(),
        list(network.parameters()),
        [(sample.noisy, sample.target.flatten(1))],
        fisher_type="empirical",
        separate_weight_and_bias=False,
    )
    expected = oracle @ torch.eye(len(matrix), dtype=torch.float64)
    torch.testing.assert_close(16 * matrix, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.oracle
def test_the_gauss_newton_matrix_of_these_tests_is_curvlinopss():
    reason = "curvlinops is not installed"
    curvlinops = pytest.importorskip("curvlinops", reason=reason)
    network, sample = denoisers.convolutional(), denoisers.sample(6, 1, 4, 4)
    matrix = denoisers.gauss_newton(network, sample)
    oracle = curvlinops.GGNLinearOperator(
        network.body,
        nn.MSELoss(),
        list(network.parameters()),
        [(sample.noisy, sample.target.flatten(1))],
    )
    expected = oracle @ torch.eye(len(matrix), dtype=torch.float64)
    torch.testing.assert_close(matrix, expected, rtol=1e-10, atol=1e-12)
