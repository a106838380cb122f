"""What was found and promised, in a few sentences."""

import datetime
from collections.abc import Sequence
from typing import Any

from ensemble.report import audit_verdict, page
from ensemble.report.findings import Influence
from ensemble.report.page import counted
from ensemble.report.verification import Verification


def exactness(proof: Verification) -> str:
    """What may be said of every ablated picture."""
    if proof.proven and not proof.reasons:
        return "The new picture owes nothing to that source."
    if proof.proven:
        return "The new picture owes nothing to that source, unless its row says so."
    if proof.state == "fails":
        return (
            "The certificate of this run does not hold, so the new picture may still owe "
            "something to that source."
        )
    return (
        "It is meant to owe nothing to that source; whether that is so in this folder has "
        "not been checked."
    )


def sentences(
    manifest: dict[str, Any],
    n_queries: int,
    tables: Sequence[Influence],
    held_out: bool,
) -> str:
    """What was found, in a few sentences."""
    counts = ", ".join(
        [
            counted(manifest["n_members"], "member"),
            counted(manifest["n_sources"], "source"),
            counted(n_queries, "picture"),
        ]
    )
    if not tables:
        given = (
            "These are given pictures, and no noise leads to them: there is none of "
        )
        given += "them without a source, and no displacement."
        return f"{counts}. {given if held_out else 'Nothing has been ablated yet.'}"
    first, *others = [_found(table, n_queries) for table in tables]
    return " ".join(
        [f"{counts}: {first}", *(text[0].upper() + text[1:] for text in others)]
    )


def _found(table: Influence, n_queries: int) -> str:
    if table.objection:
        return f"{_removed(table)} was approximated. {table.objection}"
    n_attributable = n_queries - len(table.info["unattributable"])
    found = (
        f"for {n_attributable} of {n_queries} pictures, removing {_any_of(table)} "
        "changes the picture more than placebo removals do."
    )
    if table.info["smallest_p"] > table.info["threshold"]:
        n_placebos = counted(table.info["n_placebos"], "placebo")
        found += (
            f" With {n_placebos} no corrected p-value can be below "
            f"{table.info['smallest_p']:.2g}, so nothing could have been found."
        )
    elif n_attributable:
        by_chance = audit_verdict.by_chance(table.info, n_queries)
        found += f" By chance it would be up to {by_chance:.2g} of them."
    return found


def _any_of(table: Influence) -> str:
    """Those of whom one is enough, in words."""
    names = table.info["unit_names"]
    if names is None:
        return "at least one source"
    return names[0] if len(names) == 1 else f"at least one of {len(names)} groups"


def _removed(table: Influence) -> str:
    """What was removed, in words."""
    names = table.info["unit_names"]
    if names is None:
        return "the removal of every source"
    if len(names) == 1:
        return f"the removal of {names[0]}"
    return f"the removal of {len(names)} groups"


def promises(promised: dict[str, Any]) -> list[str]:
    """What splits/guarantees.py counted, in words."""
    weight = page.span(promised["weight_min"], promised["weight_max"])
    split = page.span(promised["split_min"], promised["split_max"])
    n_sharing, n_stuck = promised["sources_sharing_a_code"], promised["never_ablated"]
    said = [
        f"Each source is seen by {weight} of the {promised['n_members']} members.",
        f"Each member trains on {split} of the {promised['n_sources']:,} sources.",
        f"Without any one source at least {promised['survivors_of_one_min']} members "
        f"stay, {promised['survivors_of_one_mean']:.1f} on average; without any two at "
        f"least {promised['survivors_of_two_min']}, "
        f"{promised['survivors_of_two_mean']:.1f} on average.",
        f"The codes of two sources differ in at least {promised['distance_min']} "
        f"members, {promised['distance_mean']:.1f} on average.",
        f"{counted(n_sharing, 'source')} share a code with another, and no ablation "
        "can tell them apart."
        if n_sharing
        else "No two sources share a code.",
    ]
    if n_stuck:
        said.append(f"{counted(n_stuck, 'source')} cannot be ablated: nobody stays.")
    if promised["pairs"] == "sampled":
        n_pairs = counted(promised["n_pairs"], "pair")
        said.append(f"Pairs were counted within a sample of {n_pairs}.")
    return said


def training(members: Sequence[dict[str, Any]]) -> str:
    """How long training took: of all members together, and by the clock."""
    seconds = sum(member["seconds"] for member in members)
    spent = f"{page.duration(seconds)} of training in all"
    if not all("finished" in member for member in members):
        return f"{spent}; when it began and ended was not recorded."
    ends = [datetime.datetime.fromisoformat(one["finished"]) for one in members]
    begins = [
        end - datetime.timedelta(seconds=one["seconds"])
        for end, one in zip(ends, members, strict=True)
    ]
    by_clock = (max(ends) - min(begins)).total_seconds()
    return (
        f"{spent}, the members' times added up; {page.duration(by_clock)} by the clock "
        "from the first member's beginning to the last one's end, pauses included."
    )
