"""Training images: where they come from, how they are decoded and batched."""

from ensemble import old_names
from splits import renamed

__getattr__ = renamed.attributes(
    __name__, "ensemble.data.datasets", names=old_names.NAMES
)
