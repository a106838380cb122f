"""Curvature of the training loss, layer by layer, as Kronecker products.

With J the derivative of the prediction by the weights and D the number of predicted
values, the Gauss-Newton matrix of the mean squared error is

    H = E[(2/D) JᵀJ],    over training images, timesteps and noise together.

For one layer a row of J is a sum of products b_r ⊗ a_r (layers.py), and H is taken for
the product of two small matrices, A = E[a aᵀ] and B = E[b bᵀ] (K-FAC; Martens & Grosse
2015, arXiv 1503.05671). In the eigenbases of A and B the diagonal of H can then be
measured itself (EK-FAC; George et al. 2018, arXiv 1806.03884). Weights of different
layers count as independent; a layer's bias belongs to its weights.

A pseudo-target is a random prediction error that has the covariance of the loss: pulled
back, it gives an unbiased sample of H (as in arXiv 2410.13850).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from ensemble.models.conditioning import Condition
from ensemble.scorers.curvature.layers import (
    Gradients,
    LayerInputs,
    Layers,
    OutputGradients,
    RecordedForward,
    forward,
)
from splits.errors import BadInput

APPROXIMATIONS = ("ekfac", "kfac", "diagonal")
TARGETS = ("sampled", "exact", "observed")
SHARINGS = ("expand", "reduce")
# Columns of a symmetric matrix that are filled at once; what is above is left out.
TRIANGLE = 64
# Directions of what a layer is given, and of what comes back to it, as columns.
Bases = tuple[Float[Tensor, "inputs inputs"], Float[Tensor, "outputs outputs"]]


@dataclass(frozen=True, eq=False)
class Sample:
    """Noisy images to measure curvature at; each row is a draw of its own.

    Attributes:
        noisy: What the network is run on.
        timestep: Of the diffusion.
        condition: What the network is told of each draw.
        target: What the loss compares the prediction with.
        pseudo_target_noise: Standard normal; makes the pseudo-targets.
    """

    noisy: Float[Tensor, "draws channels height width"]
    timestep: Int64[Tensor, " draws"]
    condition: Condition
    target: Float[Tensor, "draws channels height width"]
    pseudo_target_noise: Float[Tensor, "draws channels height width"]

    def at(self, draws: slice) -> "Sample":
        """Some of the draws."""
        return Sample(
            self.noisy[draws],
            self.timestep[draws],
            self.condition[draws],
            self.target[draws],
            self.pseudo_target_noise[draws],
        )


@dataclass(frozen=True, eq=False)
class Spectrum:
    """One layer's curvature: directions, and how curved the loss is along each.

    Attributes:
        bases: The directions; None: the weights' own axes.
        eigenvalues: Curvature along each pair of directions.
    """

    bases: Bases | None
    eigenvalues: Float[Tensor, "outputs inputs"]


@dataclass(frozen=True, eq=False)
class Inverse:
    """One layer's damped curvature, ready to divide by.

    Attributes:
        spectrum: The curvature, as the network's weights are stored.
        damping: Added to every eigenvalue.
    """

    spectrum: Spectrum
    damping: float

    def solve(
        self, gradient: Float[Tensor, "images outputs inputs"]
    ) -> Float[Tensor, "images outputs inputs"]:
        """(H + damping)⁻¹ gradient, for each image.

        Q_B [(Q_Bᵀ G Q_A) / (Λ + damping)] Q_Aᵀ
        """
        divisor = self.spectrum.eigenvalues + self.damping
        if self.spectrum.bases is None:
            return gradient / divisor
        inputs, outputs = self.spectrum.bases
        return outputs @ ((outputs.T @ gradient @ inputs) / divisor) @ inputs.T


@dataclass(frozen=True, eq=False)
class DampedCurvature:
    """The damped curvature of one network.

    Attributes:
        layers: Of each layer that takes part.
        ignored: Modules that take no part, and why.
    """

    layers: dict[str, Inverse]
    ignored: dict[str, str]

    def solve(self, gradients: Gradients) -> Gradients:
        """(H + damping)⁻¹ gradients, layer by layer."""
        return {
            name: self.layers[name].solve(gradient)
            for name, gradient in gradients.items()
        }

    def facts(self) -> dict[str, Any]:
        """For the sidecar: what damping is relative to, and what was ignored."""
        means = {
            name: float(layer.spectrum.eigenvalues.mean())
            for name, layer in self.layers.items()
        }
        return {"mean_eigenvalue": means, "ignored": self.ignored}


@dataclass(frozen=True)
class Curvature:
    """How to approximate the curvature.

    Attributes:
        approximation: `ekfac`; `kfac`, without measured eigenvalues; or `diagonal`, the
            diagonal in the weights' own axes.
        targets: `sampled`: one pseudo-target a draw. `exact`: the expectation over
            them, one backward pass for every predicted value, for tiny models.
            `observed`: the loss's own gradients, which is the empirical Fisher matrix.
        sharing: What K-FAC makes of weights used at many positions: `expand` sums
            products over positions, `reduce` multiplies sums (Eschenhagen et al. 2023,
            arXiv 2311.00636).
        damping: Added to the eigenvalues, in units of each layer's mean eigenvalue.
        n_draws: (timestep, noise) draws of each training image in each of the two
            passes, for directions and for eigenvalues.
        seed: Draws them, and the pseudo-targets.
    """

    approximation: str = "ekfac"
    targets: str = "sampled"
    sharing: str = "expand"
    damping: float = 0.1
    n_draws: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("approximation", self.approximation, APPROXIMATIONS)
        _one_of("targets", self.targets, TARGETS)
        _one_of("sharing", self.sharing, SHARINGS)
        if not 0 <= self.damping < float("inf"):
            raise BadInput(
                f"damping is {self.damping}; allowed: from 0 up, in units of a layer's "
                "mean eigenvalue. 0.1 is the default."
            )
        if self.n_draws < 1:
            raise BadInput(f"n_draws is {self.n_draws}; at least 1 is needed.")
        if self.approximation == "diagonal" and self.sharing != "expand":
            raise BadInput(
                f"sharing={self.sharing!r} has no effect on a diagonal, which is not "
                "made of factors. Leave it out, or choose ekfac or kfac."
            )

    def measure(
        self,
        network: nn.Module,
        layers: Layers,
        samples: Callable[[int], Iterable[Sample]],
    ) -> dict[str, Spectrum]:
        """Measure the curvature of a network, layer by layer.

        Args:
            network: In eval mode.
            layers: Those that take part.
            samples: What to run it on: in pass 0 for the directions, in pass 1 for the
                curvature along them.
        """
        spectra = {
            name: Spectrum(None, _zeros(*layers.shape(name))) for name in layers.modules
        }
        if self.approximation != "diagonal":
            factors = self._factors(network, layers, samples(0))
            spectra = {name: _product(*pair) for name, pair in factors.items()}
        if self.approximation == "kfac":
            return spectra
        return self._measured(network, layers, spectra, samples(1))

    def damp(
        self, spectra: dict[str, Spectrum], layers: Layers, like: Tensor
    ) -> DampedCurvature:
        """Add the damping; what divides gradients is stored like another tensor.

        Raises:
            BadInput: If nothing is added and a direction is flat.
        """
        return self.path(spectra, layers, like, [self.damping])[0]

    def path(
        self,
        spectra: dict[str, Spectrum],
        layers: Layers,
        like: Tensor,
        dampings: Sequence[float],
    ) -> list[DampedCurvature]:
        """The same curvature with each damping; what they divide by is shared.

        Raises:
            BadInput: If nothing is added and a direction is flat.
        """
        stored = {
            name: Spectrum(_like(spectrum.bases, like), spectrum.eigenvalues.to(like))
            for name, spectrum in spectra.items()
        }
        found = []
        for relative in dampings:
            inverses = {
                name: Inverse(stored[name], _damping(name, spectrum, relative, like))
                for name, spectrum in spectra.items()
            }
            found.append(DampedCurvature(inverses, layers.ignored))
        return found

    def _factors(
        self, network: nn.Module, layers: Layers, samples: Iterable[Sample]
    ) -> dict[str, tuple[Float64[Tensor, "..."], Float64[Tensor, "..."]]]:
        """A and B of every layer, averaged over draws."""
        inputs, outputs = {}, {}
        for name in layers.modules:
            n_outputs, n_inputs = layers.shape(name)
            inputs[name] = _zeros(n_inputs, n_inputs)
            outputs[name] = _zeros(n_outputs, n_outputs)
        n_draws = 0
        for sample in samples:
            recorded = _forward(network, layers, sample)
            n_draws += len(sample.noisy)
            for number, cotangent in enumerate(self._cotangents(recorded, sample)):
                for name, layer_input, output_gradient in recorded.pull_back(cotangent):
                    layer_input, output_gradient = self._shared(
                        layer_input, output_gradient
                    )
                    outputs[name] += _gram(output_gradient)
                    # What a layer is given depends on no target.
                    if number == 0:
                        inputs[name] += _gram(layer_input) / layer_input.shape[1]
        return {
            name: (inputs[name] / n_draws, outputs[name] / n_draws)
            for name in layers.modules
        }

    def _shared(
        self, layer_input: LayerInputs, output_gradient: OutputGradients
    ) -> tuple[
        Float[Tensor, "draws groups inputs"], Float[Tensor, "draws groups outputs"]
    ]:
        if self.sharing == "expand":
            return layer_input, output_gradient
        return layer_input.mean(dim=1, keepdim=True), output_gradient.sum(
            dim=1, keepdim=True
        )

    def _measured(
        self,
        network: nn.Module,
        layers: Layers,
        spectra: dict[str, Spectrum],
        samples: Iterable[Sample],
    ) -> dict[str, Spectrum]:
        """Eigenvalues E[(Q_Bᵀ G Q_A)²], entry by entry, G the gradient of one draw."""
        total = {name: _zeros(*layers.shape(name)) for name in layers.modules}
        # In the network's own type, so that they are not converted again and again.
        like = next(network.parameters())
        bases = {
            name: _like(spectrum.bases, like) for name, spectrum in spectra.items()
        }
        n_draws = 0
        for sample in samples:
            recorded = _forward(network, layers, sample)
            n_draws += len(sample.noisy)
            for cotangent in self._cotangents(recorded, sample):
                for name, layer_input, output_gradient in recorded.pull_back(cotangent):
                    total[name] += _squares(layer_input, output_gradient, bases[name])
        return {
            name: Spectrum(spectra[name].bases, squares / n_draws)
            for name, squares in total.items()
        }

    def _cotangents(
        self, recorded: RecordedForward, sample: Sample
    ) -> Iterator[Float[Tensor, "draws channels height width"]]:
        """Directions at the prediction whose outer products average to (2/D) I."""
        n_values = recorded.prediction[0].numel()
        if self.targets == "observed":
            yield 2 / n_values * (recorded.prediction.detach() - sample.target)
        elif self.targets == "sampled":
            yield (2 / n_values) ** 0.5 * sample.pseudo_target_noise
        else:
            for value in range(n_values):
                cotangent = torch.zeros_like(sample.pseudo_target_noise)
                cotangent.view(len(cotangent), -1)[:, value] = (2 / n_values) ** 0.5
                yield cotangent


def _damping(name: str, spectrum: Spectrum, relative: float, like: Tensor) -> float:
    """What is added to a layer's eigenvalues."""
    eigenvalues = spectrum.eigenvalues
    mean = float(eigenvalues.mean())
    # A layer that nothing ever comes back to has gradients of zero as well; any damping
    # keeps them so.
    damping = relative * mean if mean > 0 else 1.0
    smallest = torch.finfo(like.dtype).eps * eigenvalues.max()
    flat = int((eigenvalues + damping < smallest).sum())
    if flat:
        raise BadInput(
            f"The loss is flat along {flat} of {eigenvalues.numel()} directions of "
            f"layer {name}, and damping={relative:g} adds less than rounding errors to "
            "a curvature that is divided by. Use a greater damping, or more draws."
        )
    return damping


def _forward(network: nn.Module, layers: Layers, sample: Sample) -> RecordedForward:
    return forward(network, layers, sample.noisy, sample.timestep, sample.condition)


def _gram(rows: Float[Tensor, "draws positions values"]) -> Float[Tensor, "v v"]:
    """Products of values, summed over draws and positions; only its lower triangle."""
    rows = rows.flatten(0, 1)
    gram = rows.new_zeros(rows.shape[1], rows.shape[1])
    for first in range(0, len(gram), TRIANGLE):
        some = slice(first, first + TRIANGLE)
        gram[some, : first + TRIANGLE] = rows[:, some].T @ rows[:, : first + TRIANGLE]
    return gram.cpu()


def _product(
    inputs: Float64[Tensor, "inputs inputs"],
    outputs: Float64[Tensor, "outputs outputs"],
) -> Spectrum:
    """Directions and eigenvalues of B ⊗ A; both are read below the diagonal alone."""
    input_values, input_basis = torch.linalg.eigh(inputs)
    output_values, output_basis = torch.linalg.eigh(outputs)
    eigenvalues = torch.outer(output_values.clamp(0), input_values.clamp(0))
    return Spectrum((input_basis, output_basis), eigenvalues)


def _squares(
    layer_input: LayerInputs, output_gradient: OutputGradients, bases: Bases | None
) -> Float[Tensor, "outputs inputs"]:
    """Squared gradients of single draws, turned into the bases, summed over draws."""
    # The larger basis meets whatever has fewer rows: positions, or outputs.
    turn_given = layer_input.shape[1] <= output_gradient.shape[2]
    if bases is not None:
        output_gradient = output_gradient @ bases[1]
    if bases is not None and turn_given:
        layer_input = layer_input @ bases[0]
    if layer_input.shape[1] == 1:
        # One position: the square of a product is a product of squares.
        return (output_gradient[:, 0].square().T @ layer_input[:, 0].square()).cpu()
    gradient = output_gradient.transpose(1, 2) @ layer_input
    if bases is not None and not turn_given:
        gradient = gradient @ bases[0]
    return gradient.square().sum(dim=0).cpu()


def _like(bases: Bases | None, like: Tensor) -> Bases | None:
    return None if bases is None else (bases[0].to(like), bases[1].to(like))


def _zeros(*shape: int) -> Float64[Tensor, "..."]:
    """Sums are kept in float64 by the processor, whatever the network's type."""
    return torch.zeros(shape, dtype=torch.float64)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadInput(f"{name} is {value!r}; allowed: {', '.join(allowed)}.")
