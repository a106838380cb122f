"""The derivative of a picture by the members' votes, by forward mode."""

import contextlib
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ensemble.ablation import coupled
from ensemble.ablation.coupled import Pictures
from ensemble.ablation.first_order import Sensitivity
from ensemble.models.conditioning import Condition
from ensemble.models.ensemble_model import EnsembleModel
from ensemble.sampling.pipeline import EnsemblePipeline
from ensemble.sampling.queries import Queries
from ensemble.sampling.trajectory import Sampling


def tangents(pipe: EnsemblePipeline, queries: Queries) -> Sensitivity:
    """J by forward-mode derivatives, all members' directions along one trajectory.

        u_j' = p u_j + q [ ε_j(x) - mean ε(x) + mean over k of (∂ε_k/∂x) u_j ]

    Exact to rounding for samplers x' = p x + q ε (+ noise). One pass through a member
    carries all M directions and shares the undifferentiated part.
    """
    model, sampling = pipe.members, pipe.sampling()
    before, n_passes = model.n_forwards, 0

    def beside(
        scaled: Tensor, at_query: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor:
        nonlocal n_passes
        at, directions = scaled[:, 0], (scaled[:, 1:] - scaled[:, :1]).transpose(0, 1)
        mean = at_query.mean(dim=1, keepdim=True)
        carried = torch.zeros_like(scaled[:, 1:])
        for member in range(model.n_members):
            carried += _carried(
                model, sampling, member, at, directions, timestep, condition
            )
            n_passes += len(at) * model.n_members
        return mean + (at_query - mean) + carried / model.n_members

    pictures, moved = coupled.stepped_beside(pipe, queries, model.n_members, beside)
    moved = (moved - pictures[:, None]).flatten(2).cpu().double().numpy()
    return Sensitivity(
        jacobian=moved.transpose(0, 2, 1),
        member_forwards=model.n_forwards - before,
        derivative_passes=n_passes,
        road="tangents",
    )


def _carried(
    model: EnsembleModel,
    sampling: Sampling,
    member: int,
    states: Pictures,
    directions: Float[Tensor, "members queries channels height width"],
    timestep: Tensor,
    condition: Condition,
) -> Float[Tensor, "queries members channels height width"]:
    """One member's Jacobian at the states, applied to every direction."""

    def predicted(at: Tensor) -> Tensor:
        return coupled.guided_member(model, sampling, member, at, timestep, condition)

    def along(direction: Tensor) -> Tensor:
        return torch.func.jvp(predicted, (states,), (direction,))[1]

    with forward_mode(model.networks[member]):
        return torch.vmap(along)(directions).transpose(0, 1)


@contextlib.contextmanager
def forward_mode(network: nn.Module) -> Iterator[None]:
    """Within it, forward-mode derivatives of a member exist.

    Group normalisation has one only of contiguous inputs, and the fused attention
    kernels have none.
    """
    norms = [one for one in network.modules() if isinstance(one, nn.GroupNorm)]
    hooks = [norm.register_forward_pre_hook(_contiguous) for norm in norms]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _contiguous(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(),)
