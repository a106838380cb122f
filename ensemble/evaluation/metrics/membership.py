"""What members remember of the images that they saw, beside members that did not."""

import numpy as np
from jaxtyping import Bool, Float, Float64

Losses = Float[np.ndarray, "members images"]
Saw = Bool[np.ndarray, "members images"]


def memorisation(losses: Losses, saw: Saw) -> Float64[np.ndarray, " images"]:
    """How much lower the loss at an image is for having seen it.

    Mean loss of the members that did not see it minus that of those that did; above
    zero: remembered. Not a number where all members saw it, or none. (Feldman & Zhang
    2020, https://arxiv.org/abs/2008.03703)
    """
    n_with, n_without = saw.sum(axis=0), (~saw).sum(axis=0)
    known = (n_with > 0) & (n_without > 0)
    with_it = (losses * saw).sum(axis=0) / n_with.clip(min=1)
    without = (losses * ~saw).sum(axis=0) / n_without.clip(min=1)
    return np.where(known, without - with_it, np.nan)


def calibrated(losses: Losses) -> Float64[np.ndarray, "members images"]:
    """Loss minus the mean loss of the other members at the same image.

    Some images are harder than others; the other members, if any, say so. (Watson et al.
    2022, https://arxiv.org/abs/2111.08440)
    """
    n_members = len(losses)
    others = (losses.sum(axis=0) - losses) / max(1, n_members - 1)
    return losses - others


def audit_auc(
    losses: Float[np.ndarray, " pairs"], saw: Bool[np.ndarray, " pairs"]
) -> float:
    """Chance that a seen image has a lower loss than an unseen one; 0.5 is guessing.

    The area under the curve of a membership audit that calls low losses seen.
    """
    ranks = np.searchsorted(np.sort(losses), losses, side="left")
    ranks = (ranks + np.searchsorted(np.sort(losses), losses, side="right")) / 2
    n_seen, n_unseen = int(saw.sum()), int((~saw).sum())
    # Sum of the unseen ones' ranks, less what they have among themselves.
    above = ranks[~saw].sum() - n_unseen**2 / 2
    return float(above / (n_seen * n_unseen))


def audit_hits(
    losses: Float[np.ndarray, " pairs"],
    saw: Bool[np.ndarray, " pairs"],
    false_alarms: float = 0.01,
) -> float:
    """Share of seen images that are found at a given share of false alarms.

    (Carlini et al. 2022, https://arxiv.org/abs/2112.03570)
    """
    threshold = np.quantile(losses[~saw], false_alarms, method="lower")
    return float((losses[saw] < threshold).mean())
