"""From a plan to trained members, resumable at any instant."""

from ensemble import old_names
from splits import renamed

__getattr__ = renamed.attributes(
    __name__,
    "ensemble.training.trainer",
    "ensemble.training.members",
    "ensemble.training.process",
    "ensemble.training.optimization",
    "ensemble.training.description",
    "ensemble.run.folder",
    names=old_names.NAMES,
)
