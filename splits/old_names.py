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

# What has another name now, by the old one.
NAMES = {
    "splits.comparison.Wish": "splits.choosing.compare.Requirements",
    "splits.comparison.keeps": "splits.choosing.compare.meets",
    "splits.comparison.recommended": "splits.choosing.compare.recommend",
    "splits.layout.by_code": "splits.shard_order.order_by_code",
    "splits.layout.least": "splits.shard_order.mean_lower_bound",
    "splits.layout.reading": "splits.shard_order.measure_reading",
    "splits.levels.levelled": "splits.designs.balancing.balance_loads",
    "splits.streams.permuted": "splits.designs.keyed.permute",
    "splits.streams.restored": "splits.designs.keyed.invert_permutation",
    "splits.words.packed": "splits.designs.packed_combinadics.pack_words",
}
