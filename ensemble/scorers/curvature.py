"""Curvature of the training loss, layer by layer, as Kronecker products.

With J the derivative of the prediction by the weights and D the number of predicted
values, the Gauss-Newton matrix of the mean squared error is

    H = E[(2/D) JᵀJ],    over training images, timesteps and noise together.

For one layer a column of J is a sum of products b_r ⊗ a_r (layers.py), and H is taken
for the product of two small matrices, A = E[a aᵀ] and B = E[b bᵀ] (K-FAC; Martens &
Grosse 2015, arXiv 1503.05671). In the eigenbases of A and B the diagonal of H can then
be measured itself (EK-FAC; George et al. 2018, arXiv 1806.03884). Weights of different
layers count as independent, a layer's bias belongs to its weights.

A pseudo-target is a random prediction error that has the covariance of the loss: pulled
back, it gives an unbiased sample of H (arXiv 2410.13850, section 2).

Before: layers.py. After: mlodozeniec2025influence.py and whoever divides by curvature.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ensemble.scorers.layers import (
    Given,
    Gradients,
    Layers,
    Passage,
    Returned,
    forward,
)
from splits.errors import BadInput

APPROXIMATIONS = ("ekfac", "kfac", "diagonal")
TARGETS = ("sampled", "exact", "observed")
SHARINGS = ("expand", "reduce")
# Directions of what a layer is given, and of what comes back to it, as columns.
Bases = tuple[Float64[Tensor, "inputs inputs"], Float64[Tensor, "outputs outputs"]]


@dataclass(frozen=True, eq=False)
class States:
    """Noisy images that the network is run on, and what it should have predicted.

    Attributes:
        noisy: The inputs.
        timestep: Of the diffusion.
        condition: Labels, for conditional networks.
        wanted: What the loss compares the prediction with.
        chance: Standard normal; makes the pseudo-targets.
    """

    noisy: Float[Tensor, "draws channels height width"]
    timestep: Tensor
    condition: Tensor | None
    wanted: Float[Tensor, "draws channels height width"]
    chance: Float[Tensor, "draws channels height width"]


@dataclass(frozen=True, eq=False)
class LayerCurvature:
    """One layer's curvature: directions, and how curved the loss is along each.

    Attributes:
        inputs: Directions of what the layer is given, as columns; None: its axes.
        outputs: Directions of what comes back to it, as columns; None: its axes.
        eigenvalues: Curvature along each pair of directions, without damping.
        damping: Added to every eigenvalue.
    """

    inputs: Float[Tensor, "inputs inputs"] | None
    outputs: Float[Tensor, "outputs outputs"] | None
    eigenvalues: Float[Tensor, "outputs inputs"]
    damping: float

    def solve(
        self, gradient: Float[Tensor, "images outputs inputs"]
    ) -> Float[Tensor, "images outputs inputs"]:
        """(H + damping)⁻¹ gradient, for each image.

        Q_B [(Q_Bᵀ G Q_A) / (Λ + damping)] Q_Aᵀ
        """
        return self._along(self._turned(gradient) / (self.eigenvalues + self.damping))

    def _turned(self, gradient: Tensor) -> Tensor:
        if self.inputs is None or self.outputs is None:
            return gradient
        return self.outputs.T @ gradient @ self.inputs

    def _along(self, coefficients: Tensor) -> Tensor:
        if self.inputs is None or self.outputs is None:
            return coefficients
        return self.outputs @ coefficients @ self.inputs.T


@dataclass(frozen=True, eq=False)
class Fitted:
    """The curvature of one network.

    Attributes:
        layers: Curvature of each layer that takes part.
        ignored: Modules that take no part, and why.
    """

    layers: dict[str, LayerCurvature]
    ignored: dict[str, str]

    def solve(self, gradients: Gradients) -> Gradients:
        """(H + damping)⁻¹ gradients, layer by layer."""
        return {
            name: self.layers[name].solve(gradient)
            for name, gradient in gradients.items()
        }

    def facts(self) -> dict[str, Any]:
        """What a sidecar should say: damping of each layer, and what was ignored."""
        damping = {name: layer.damping for name, layer in self.layers.items()}
        return {"damping": damping, "ignored": self.ignored}


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
    """

    approximation: str = "ekfac"
    targets: str = "sampled"
    sharing: str = "expand"
    damping: float = 0.1

    def __post_init__(self) -> None:
        _one_of("approximation", self.approximation, APPROXIMATIONS)
        _one_of("targets", self.targets, TARGETS)
        _one_of("sharing", self.sharing, SHARINGS)
        if not 0 <= self.damping < float("inf"):
            raise BadInput(
                f"damping is {self.damping}; allowed: from 0 up, in units of a layer's "
                "mean eigenvalue. 0.1 is the default."
            )
        if self.approximation == "diagonal" and self.sharing != "expand":
            raise BadInput(
                f"sharing={self.sharing!r} has no effect on a diagonal, which is not "
                "made of factors. Leave it out, or choose ekfac or kfac."
            )

    def fit(
        self,
        network: nn.Module,
        layers: Layers,
        states: Callable[[int], Iterable[States]],
    ) -> Fitted:
        """Measure the curvature of a network.

        Args:
            network: In eval mode.
            layers: Those that take part.
            states: What to run it on: in pass 0 for the directions, in pass 1 for the
                curvature along them.
        """
        bases: dict[str, Bases | None] = dict.fromkeys(layers.modules)
        eigenvalues: dict[str, Tensor] = {}
        if self.approximation != "diagonal":
            factors = self._factors(network, layers, states(0))
            for name, (inputs, outputs) in factors.items():
                input_values, input_basis = torch.linalg.eigh(inputs)
                output_values, output_basis = torch.linalg.eigh(outputs)
                bases[name] = (input_basis, output_basis)
                eigenvalues[name] = torch.outer(
                    output_values.clamp(0), input_values.clamp(0)
                )
        if self.approximation != "kfac":
            eigenvalues = self._measured(network, layers, bases, states(1))
        like = next(network.parameters())
        return Fitted(
            {
                name: self._layer(name, bases[name], eigenvalues[name], like)
                for name in layers.modules
            },
            layers.ignored,
        )

    def _factors(
        self, network: nn.Module, layers: Layers, states: Iterable[States]
    ) -> dict[str, tuple[Float64[Tensor, "..."], Float64[Tensor, "..."]]]:
        """A and B of every layer, averaged over draws."""
        inputs, outputs = {}, {}
        for name in layers.modules:
            n_outputs, n_inputs = layers.shape(name)
            inputs[name] = _zeros(n_inputs, n_inputs)
            outputs[name] = _zeros(n_outputs, n_outputs)
        n_draws = 0
        for batch in states:
            passage = _forward(network, layers, batch)
            n_draws += len(batch.noisy)
            for number, pull in enumerate(self._pulls(passage, batch)):
                for name, given, returned in passage.back(pull):
                    given, returned = self._shared(given, returned)
                    outputs[name] += _gram(returned)
                    # What a layer is given depends on no target.
                    if number == 0:
                        inputs[name] += _gram(given) / given.shape[1]
        return {
            name: (inputs[name] / n_draws, outputs[name] / n_draws)
            for name in layers.modules
        }

    def _shared(self, given: Tensor, returned: Tensor) -> tuple[Tensor, Tensor]:
        if self.sharing == "expand":
            return given, returned
        return given.mean(dim=1, keepdim=True), returned.sum(dim=1, keepdim=True)

    def _measured(
        self,
        network: nn.Module,
        layers: Layers,
        bases: dict[str, Bases | None],
        states: Iterable[States],
    ) -> dict[str, Float64[Tensor, "outputs inputs"]]:
        """E[(Q_Bᵀ G Q_A)²], entry by entry, with G the gradient of one draw."""
        total = {name: _zeros(*layers.shape(name)) for name in layers.modules}
        n_draws = 0
        for batch in states:
            passage = _forward(network, layers, batch)
            n_draws += len(batch.noisy)
            for pull in self._pulls(passage, batch):
                for name, given, returned in passage.back(pull):
                    total[name] += _squares(given, returned, bases[name])
        return {name: squares / n_draws for name, squares in total.items()}

    def _pulls(self, passage: Passage, batch: States) -> Iterator[Tensor]:
        """Directions at the prediction whose outer products average to (2/D) I."""
        n_values = passage.prediction[0].numel()
        if self.targets == "observed":
            yield 2 / n_values * (passage.prediction.detach() - batch.wanted)
        elif self.targets == "sampled":
            yield (2 / n_values) ** 0.5 * batch.chance
        else:
            for value in range(n_values):
                pull = torch.zeros_like(batch.chance)
                pull.view(len(pull), -1)[:, value] = (2 / n_values) ** 0.5
                yield pull

    def _layer(
        self, name: str, bases: Bases | None, eigenvalues: Tensor, like: Tensor
    ) -> LayerCurvature:
        mean = float(eigenvalues.mean())
        # A layer that nothing ever comes back to has gradients of zero as well; any
        # damping keeps them so.
        damping = self.damping * mean if mean > 0 else 1.0
        smallest = torch.finfo(like.dtype).eps * eigenvalues.max()
        flat = int((eigenvalues + damping < smallest).sum())
        if flat:
            raise BadInput(
                f"The loss is flat along {flat} of {eigenvalues.numel()} directions of "
                f"layer {name}, and damping=0 divides by its curvature. Use a damping "
                "above 0, or more draws."
            )
        inputs, outputs = (None, None) if bases is None else bases
        return LayerCurvature(
            None if inputs is None else inputs.to(like),
            None if outputs is None else outputs.to(like),
            eigenvalues.to(like),
            damping,
        )


def _forward(network: nn.Module, layers: Layers, batch: States) -> Passage:
    return forward(network, layers, batch.noisy, batch.timestep, batch.condition)


def _gram(rows: Float[Tensor, "draws positions values"]) -> Float64[Tensor, "v v"]:
    rows = rows.flatten(0, 1)
    return (rows.T @ rows).cpu().double()


def _squares(
    given: Given, returned: Returned, bases: Bases | None
) -> Float64[Tensor, "outputs inputs"]:
    """Squared gradients of single draws, turned into the bases, summed over draws."""
    if given.shape[1] == 1:
        # One position: the square of a product is a product of squares.
        given, returned = given[:, 0], returned[:, 0]
        if bases is not None:
            given, returned = given @ bases[0].to(given), returned @ bases[1].to(given)
        return (returned.square().T @ given.square()).cpu().double()
    gradient = returned.transpose(1, 2) @ given
    if bases is not None:
        gradient = bases[1].to(given).T @ gradient @ bases[0].to(given)
    return gradient.square().sum(dim=0).cpu().double()


def _zeros(*shape: int) -> Float64[Tensor, "..."]:
    """Sums are kept in float64, beside the processor, whatever the network's type."""
    return torch.zeros(shape, dtype=torch.float64)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadInput(f"{name} is {value!r}; allowed: {', '.join(allowed)}.")
