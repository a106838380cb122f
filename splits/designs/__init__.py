"""Ways to draw a code book, one file for each family."""

from splits import renamed

__getattr__ = renamed.attributes(
    __name__,
    "splits.designs.registry",
    "splits.designs.dealing",
    "splits.designs.constant_weight",
    "splits.designs.products",
    "splits.designs.keyed",
    "splits.designs.free_codes",
)
