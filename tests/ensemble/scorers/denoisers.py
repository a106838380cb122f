"""Denoisers so small that everything about them can be written out."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from ensemble.models.conditioning import UNCONDITIONAL
from ensemble.scorers.curvature.kfac import DampedCurvature, Sample
from ensemble.scorers.curvature.layers import Layers


class Denoiser(nn.Module):
    """Any network from images to images of the same shape, in float64."""

    def __init__(self, *body: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.body = nn.Sequential(*body).double().eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) / 2)

    def forward(
        self, noisy: Tensor, timestep: Tensor, class_labels: Tensor | None = None
    ) -> SimpleNamespace:
        return SimpleNamespace(sample=self.body(noisy).reshape(noisy.shape))


def linear(n_pixels: int = 4) -> Denoiser:
    """One linear layer."""
    return Denoiser(nn.Flatten(), nn.Linear(n_pixels, n_pixels))


def deep_linear(n_pixels: int = 4) -> Denoiser:
    """Linear layers without anything between them."""
    return Denoiser(
        nn.Flatten(), nn.Linear(n_pixels, 5), nn.Linear(5, 3), nn.Linear(3, n_pixels)
    )


def convolutional() -> Denoiser:
    """Two convolutions, one with a stride, and a linear layer: 4x4 grey images."""
    return Denoiser(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(3, 2, 3, stride=2, padding=1, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 16),
    )


def sample(n_draws: int, *shape: int, seed: int = 0) -> Sample:
    """Random noisy images and targets, in float64."""
    generator = torch.Generator().manual_seed(seed)
    noisy, target, pseudo_target_noise = torch.randn(
        3, n_draws, *shape, generator=generator, dtype=torch.float64
    )
    timestep = torch.zeros(n_draws, dtype=torch.int64)
    return Sample(noisy, timestep, UNCONDITIONAL, target, pseudo_target_noise)


def as_matrix(fitted: DampedCurvature, layers: Layers) -> Tensor:
    """The curvature written out, for weights in the order of `network.parameters()`."""
    blocks = []
    for name, inverse in fitted.layers.items():
        spectrum = inverse.spectrum
        n_outputs, n_inputs = layers.shape(name)
        basis = torch.eye(n_outputs * n_inputs, dtype=torch.float64)
        if spectrum.bases is not None:
            inputs, outputs = spectrum.bases
            basis = torch.kron(outputs, inputs)
        joint = basis @ torch.diag(spectrum.eigenvalues.flatten()) @ basis.T
        order = torch.arange(n_outputs * n_inputs).reshape(n_outputs, n_inputs)
        module = layers.modules[name]
        of_weights = order[:, : module.weight[0].numel()]
        if isinstance(module, nn.Conv2d):
            of_patch = (*module.kernel_size, module.in_channels)
            of_weights = of_weights.unflatten(1, of_patch).permute(0, 3, 1, 2)
        flat = of_weights.flatten()
        if module.bias is not None:
            flat = torch.cat([flat, order[:, -1]])
        blocks.append(joint[flat][:, flat])
    return torch.block_diag(*blocks)


def jacobian(network: nn.Module, sample: Sample) -> Tensor:
    """Derivative of every predicted value by every weight: (draws, values, weights)."""
    prediction = network(sample.noisy, sample.timestep).sample.flatten(1)
    weights = list(network.parameters())
    return torch.stack(
        [
            torch.stack(
                [
                    torch.cat(
                        [
                            part.flatten()
                            for part in torch.autograd.grad(
                                value, weights, retain_graph=True
                            )
                        ]
                    )
                    for value in of_draw
                ]
            )
            for of_draw in prediction
        ]
    )


def gauss_newton(network: nn.Module, sample: Sample) -> Tensor:
    """E[(2/D) JᵀJ], written out."""
    derivative = jacobian(network, sample)
    n_draws, n_values, _ = derivative.shape
    return (
        2 / (n_values * n_draws) * torch.einsum("ndp,ndq->pq", derivative, derivative)
    )
