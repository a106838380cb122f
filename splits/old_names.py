"""What version 0.1 called the modules of this package; dropped with version 0.3."""

MODULES: dict[str, str | tuple[str, ...]] = {
    "splits.algebraic": "splits.designs.algebraic",
    "splits.candidates": "splits.choosing.candidates",
    "splits.capacity": "splits.designs.capacity",
    "splits.chances": "splits.choosing.expectations",
    "splits.comparison": (
        "splits.choosing.compare",
        "splits.choosing.comparison_table",
    ),
    "splits.layout": "splits.shard_order",
    "splits.levels": "splits.designs.balancing",
    "splits.ranks": "splits.designs.combinadics",
    "splits.streams": "splits.designs.keyed",
    "splits.words": "splits.designs.packed_combinadics",
}
