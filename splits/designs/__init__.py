"""Ways to draw a code book, one file for each family."""

from splits import renamed

__getattr__ = renamed.attributes(__name__, "splits.designs.registry")
