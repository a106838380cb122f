"""What the removal of sources does to images: exact, first-order, and how sure."""

from splits import renamed

__getattr__ = renamed.attributes(__name__, "ensemble.ablation.exact")
