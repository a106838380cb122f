"""What a training promises and costs, before it starts."""

from ensemble.data.datasets import TrainingImages, require_classes
from ensemble.models.denoisers import build_member
from ensemble.provenance import extension
from ensemble.provenance.plans import Plan
from ensemble.run.config import Config
from ensemble.training import sisa
from splits import guarantees
from splits.designs import placebos


def weights_of_a_member(config: Config, data: TrainingImages) -> int:
    """How many weights one member has for these training images."""
    n_classes = require_classes(data) if config.model.class_conditional else None
    member = build_member(config.model, data.images.shape[1:], n_classes, 0)
    return sum(weight.numel() for weight in member.parameters())


def describe(config: Config, plan: Plan) -> str:
    """What training this plan promises and costs, as text."""
    settings = config.training
    n_weights = weights_of_a_member(config, plan.data)
    shown = settings.steps * settings.batch_size
    n_members = plan.codes.n_members
    n_trained = extension.n_trained(config, plan.codes)
    n_kept = 1 + (settings.steps - 1) // (settings.keep_every_steps or settings.steps)
    n_teams = max(1, (settings.processes or 1) // settings.processes_per_member)
    return "\n".join(
        [
            guarantees.describe(guarantees.count_guarantees(plan.codes)),
            "",
            *placebos.describe(plan.codes.bits),
            f"work          {n_trained} members x {settings.steps} steps x "
            f"{settings.batch_size} images = {n_trained * shown:,} images",
            f"weights       {n_weights:,} a member",
            f"disk          {n_members * n_kept * 4 * n_weights / 2**20:.1f} MB of weights",
            f"checkpoints   {n_teams} x {16 * n_weights / 2**20:.1f} MB while training",
            *sisa.describe(settings, n_members, n_weights),
        ]
    )
