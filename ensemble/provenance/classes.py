"""Classes: whose labels decide how many classes conditional members know.

A conditional member has one embedding for each class, and draws its first weights in
one stream. If the classes are read off the labels that images have, a source that alone
has one of them changes that table, and with it every first weight of every member,
those that never see the source included. Classes that `data.classes` names cannot be
changed by any source.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ensemble.provenance.plans import Plan
from ensemble.run.config import Config

# Sources that are named one by one before the rest is counted.
MOST_NAMED = 5


def follow_from_labels(config: Config) -> bool:
    """Whether members know exactly the classes that some training image has."""
    return config.model.class_conditional and config.data.classes is None


def only_of(plan: Plan, sources: Sequence[int]) -> list[str]:
    """The labels that no image of any other source has.

    Args:
        plan: Sources that were removed have no labels any more.
        sources: Rows of the code book, taken together.
    """
    if plan.data.labels is None:
        return []
    there = ~np.isin(plan.source_of, plan.removed)
    theirs = there & np.isin(plan.source_of, list(sources))
    lost = np.setdiff1d(plan.data.labels[theirs], plan.data.labels[there & ~theirs])
    return [plan.data.label_names[label] for label in lost.tolist()]


def by_single_source(plan: Plan) -> dict[int, list[str]]:
    """The labels that only one source has, by that source."""
    labels = plan.data.labels
    if labels is None:
        return {}
    there = np.flatnonzero(~np.isin(plan.source_of, plan.removed))
    pairs = np.unique(
        np.stack([labels[there], plan.source_of[there].astype(np.int64)]), axis=1
    )
    known, first, n_sources = np.unique(pairs[0], return_index=True, return_counts=True)
    found: dict[int, list[str]] = {}
    for place in np.flatnonzero(n_sources == 1).tolist():
        source = int(pairs[1, first[place]])
        found.setdefault(source, []).append(plan.data.label_names[known[place]])
    return found


def of_nobody(plan: Plan) -> list[str]:
    """The labels that no image has any more: removed sources alone had them."""
    if plan.data.labels is None:
        return []
    there = ~np.isin(plan.source_of, plan.removed)
    known = set(plan.data.labels[there].tolist())
    return [
        name for label, name in enumerate(plan.data.label_names) if label not in known
    ]


def named(plan: Plan, found: dict[int, list[str]]) -> str:
    """Sources and the labels that they alone have, the first few by name."""
    shown = [
        f"source {plan.called.called(source)} alone has "
        f"{', '.join(repr(label) for label in labels)}"
        for source, labels in list(found.items())[:MOST_NAMED]
    ]
    more = len(found) - len(shown)
    return "; ".join(shown) + (f"; and {more} more sources" if more else "")


def warnings(config: Config, plan: Plan) -> Iterator[str]:
    """What to say before anything is trained, for people."""
    found = by_single_source(plan) if follow_from_labels(config) else {}
    if found:
        yield (
            "Warning: data.classes is null, so the members know the classes that the "
            f"images have, and {named(plan, found)}. Without such a source every member "
            "would know another set of classes and begin with other weights: no "
            "ablation and no removal of it gives what a run would be that never held "
            "it. Name all classes in data.classes before you train."
        )
