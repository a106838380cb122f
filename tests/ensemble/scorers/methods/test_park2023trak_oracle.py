"""TRAK against the package of its authors, end to end."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.func import functional_call

from ensemble.scorers.gradients import per_example
from ensemble.scorers.gradients.kernel import decompose
from ensemble.scorers.methods.park2023trak import Trak
from tests.ensemble.scorers import tiny_context
from tests.ensemble.scorers.tiny_context import DRAWS, WHOLE

trak = pytest.importorskip("trak", reason="traker is an oracle: pip install traker")
DAMPING = 0.5


def in_float32(context):
    """The package knows no other precision."""

    def single(examples):
        return dataclasses.replace(examples, images=examples.images.float())

    return dataclasses.replace(
        context,
        networks=[network.float() for network in context.networks],
        train=single(context.train),
        queries=single(context.queries),
    )


def batch_of(context, examples):
    states = per_example.draw_states(context.objective, examples, DRAWS)
    return [states.noisy, states.target]


class MeanLoss(trak.modelout_functions.AbstractModelOutput):
    """The loss of one image, averaged over its draws; its derivative by itself is 1."""

    def __init__(self):
        pass

    @staticmethod
    def get_output(network, weights, buffers, noisy, wanted):
        levels = torch.zeros(len(noisy), dtype=torch.int64)
        found = functional_call(network, (weights, buffers), (noisy, levels))
        return (found.sample - wanted).square().mean()

    @staticmethod
    def get_out_to_loss_grad(network, weights, buffers, batch):
        return torch.ones(len(batch[0]), 1)


def their_scores(context, folder, projector, damping):
    """Scores by the package, (queries, images); λ is absolute there."""
    network = context.networks[0]
    traker = trak.TRAKer(
        model=network,
        task=MeanLoss(),
        train_set_size=len(context.train),
        save_dir=str(folder),
        device="cpu",
        projector=projector,
        proj_dim=projector.proj_dim,
        use_half_precision=False,
        lambda_reg=damping,
        logging_level="ERROR",
    )
    traker.load_checkpoint(network.state_dict(), model_id=0)
    train = batch_of(context, context.train)
    traker.featurize(batch=train, num_samples=len(context.train))
    traker.finalize_features()
    traker.start_scoring_checkpoint(
        "queries", network.state_dict(), 0, len(context.queries)
    )
    queries = batch_of(context, context.queries)
    traker.score(batch=queries, num_samples=len(context.queries))
    return traker.finalize_scores(exp_name="queries").T


def up_to_a_factor(scores):
    """The package divides by the mean entry of an inverse."""
    return scores / np.linalg.norm(scores)


@pytest.fixture
def context(tmp_path):
    plain = tiny_context.context(tmp_path / "ours")
    return in_float32(tiny_context.of_reference(plain))


@pytest.mark.oracle
def test_with_their_projection_scores_are_theirs(context, tmp_path):
    """Differences up to 2e-7 of the scores' length were measured, in float32."""
    network = context.networks[0]
    n_weights = sum(weights.numel() for weights in network.parameters())
    theirs = trak.projectors.BasicProjector(
        n_weights, 128, seed=0, proj_type="normal", device="cpu"
    )
    matrix = theirs.project(torch.eye(n_weights), model_id=0).numpy()
    train, queries = (
        per_example.gradient_sums(
            network,
            per_example.draw_states(context.objective, examples, DRAWS),
            "loss",
            WHOLE.projection,
            examples.keys.tolist(),
        ).numpy()
        / len(DRAWS)
        @ matrix
        / np.sqrt(n_weights)
        for examples in (context.train, context.queries)
    )
    level = DAMPING * np.square(train).sum(axis=1).mean()
    found = their_scores(context, tmp_path / "theirs", theirs, float(level))
    ours = decompose(train, 100).solve(queries, DAMPING) @ train.T
    np.testing.assert_allclose(
        up_to_a_factor(ours), up_to_a_factor(found), rtol=1e-4, atol=1e-6
    )


@pytest.mark.oracle
def test_without_projection_trak_is_theirs(context, tmp_path):
    network = context.networks[0]
    n_weights = sum(weights.numel() for weights in network.parameters())
    whole = trak.projectors.NoOpProjector(n_weights, n_weights, device="cpu")
    ours = Trak(WHOLE, DAMPING).score(context)
    train = per_example.gradient_sums(
        network,
        per_example.draw_states(context.objective, context.train, DRAWS),
        "loss",
        WHOLE.projection,
        context.train.keys.tolist(),
    ) / len(DRAWS)
    level = DAMPING * float(train.square().sum(dim=1).mean()) / n_weights
    found = their_scores(context, tmp_path / "theirs", whole, level)
    np.testing.assert_allclose(
        up_to_a_factor(ours), up_to_a_factor(found), rtol=1e-4, atol=1e-6
    )
