"""Per-example gradients, their projections and kernels, kept on disk."""

from splits import renamed

__getattr__ = renamed.attributes(
    __name__,
    "ensemble.scorers.gradients.per_example",
    "ensemble.scorers.gradients.layer_rules",
    "ensemble.scorers.gradients.trainable",
)
