"""The report: one page that shows what was measured, and computes nothing.

Everything on it comes from tables that other stages saved; ranks, placebos and p-values
are theirs. The page holds its own style and pictures, has no scripts, and asks the
network for nothing.
"""

import base64
import datetime
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from markupsafe import Markup

from ensemble.data.datasets import TrainingImages
from ensemble.report import (
    audit_verdict,
    outdated,
    page,
    verification,
)
from ensemble.report import (
    figures as figures,
)
from ensemble.report import (
    findings as findings,
)
from ensemble.report.findings import (
    Finding,
    Influence,
)
from ensemble.report.page import counted
from ensemble.report.verification import Verification
from ensemble.run import (
    config_file,
    files,
    records,
    removal_log,
    table_records,
)
from ensemble.run.folder import Run
from ensemble.run.voters import Membership
from splits.naming import SourceNames

N_CODES = 512
N_LOSSES = 5


@dataclass(frozen=True)
class Card:
    """A query and what was found out about it.

    Attributes:
        number: Its place in the tables.
        seed: Of its noise.
        label: What the members were told to draw; empty if nothing.
        small: Its picture by the full ensemble.
        large: The same, larger.
        findings: One for each kind of ablation.
    """

    number: int
    seed: int
    label: str
    small: str
    large: str
    findings: list[Finding]


@dataclass(frozen=True)
class Table:
    """A table of a JSON file, and the figures that belong to it."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[Any]]
    figures: list[str]


def write(run: Run, name: str, data: TrainingImages) -> Path:
    """Write the report on a set of queries into the run folder.

    Args:
        run: The run folder.
        name: The set of queries.
        data: The run's training images, for the sources' thumbnails.

    Returns:
        The path of `report.html`.

    Raises:
        BadInput: If a table that the report needs is missing or damaged, or is of other
            queries or members.
    """
    # Before anything else is read: what is removed meanwhile, the page does not know of.
    n_removals = len(removal_log.requests(run.path))
    asked = {"held_out": False, **files.read_json(run.queries(name) / "info.json")}
    known, of = Membership.read(run.path), table_records.of_queries(run, name)
    if not asked["held_out"]:
        known.require_made(run.queries(name), asked)
    tables = findings.saved(run, name, known)
    proof = verification.read(run)
    cards = _cards(run, name, data, tables, known, proof)
    _require_scores(run, name, known, of)
    manifest = files.read_json(run.manifest)
    members = run.member_records()
    text = page.render(
        title=run.path.resolve().name,
        n_removals=n_removals,
        name=name,
        summary=_summary(manifest, len(cards), tables, asked["held_out"]),
        certificate=_certificate(run, proof),
        exactness=_exactness(proof),
        tables=tables,
        coverage=[
            f"{audit_verdict.coverage(table.info, len(cards))} {audit_verdict.promise(table.info)}"
            for table in tables[:1]
        ],
        cards=cards,
        colour=data.images.shape[1] > 1,
        sampling=asked,
        losses=_losses(run, name, known) if asked["held_out"] else [],
        code_book=_code_book(known.codes.bits),
        promises=_promises(manifest["promises"]),
        members=members,
        training=_training(members),
        curves=_curves(members),
        manifest=manifest,
        commands=_commands(run, name, data, cards, tables, asked["held_out"]),
        options=config_file.to_yaml(run.config),
        scores=_saved_tables(run, name, run.scores(name), ".npy"),
        evaluation=_saved_tables(run, name, run.evaluation, ".csv"),
    )
    path = run.path / outdated.REPORT
    files.write_text(path, text)
    outdated.mark(run)
    return path


def _cards(
    run: Run,
    name: str,
    data: TrainingImages,
    tables: Sequence[Influence],
    known: Membership,
    proof: Verification,
) -> list[Card]:
    folder = run.queries(name)
    info = files.read_json(folder / "info.json")
    if not info.get("held_out"):
        known.require_made(folder, info)
    images = records.sealed_array(folder, "info.json", "images.npy")
    seeds = records.sealed_array(folder, "info.json", "seeds.npy")
    labels = [""] * len(seeds)
    if "conditions.npy" in files.read_json(folder / "info.json")["files"]:
        conditions = records.sealed_array(folder, "info.json", "conditions.npy")
        labels = [data.label_names[condition] for condition in conditions]
    units = [findings.Units(run, data, table, proof) for table in tables]
    return [
        Card(
            number=query,
            seed=int(seeds[query]),
            label=labels[query],
            small=figures.picture(image),
            large=figures.picture(image, figures.LARGE),
            findings=[
                findings.find(table, units_of_table, query, image)
                for table, units_of_table in zip(tables, units, strict=True)
            ],
        )
        for query, image in enumerate(images)
    ]


def _certificate(run: Run, proof: Verification) -> dict[str, Any]:
    """The certificate's state, for the page's first screen."""
    command = f"python attribute.py {shlex.quote(str(run.path))} verify"
    first, *others = proof.said(command)
    return {"state": proof.state, "first": first, "others": others}


def _exactness(proof: Verification) -> str:
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


def _losses(run: Run, name: str, known: Membership) -> list[Table]:
    """Whose removal raises the loss of given pictures most, if that was measured."""
    table = findings.losses(run, name, known)
    if table is None:
        return []
    names = files.read_json(run.path / "sources.json")["names"]
    rows = [
        [query, *(_loss(row, names, int(one)) for one in np.argsort(row)[:N_LOSSES])]
        for query, row in enumerate(table)
    ]
    columns = ["query", *(f"source {place}" for place in range(1, len(rows[0])))]
    note = (
        "For each picture, the sources whose removal raises the ensemble's denoising "
        "loss at it most, and by how much. This is exact for every source; it is not "
        "compared with placebos."
    )
    return [Table("Loss without a source", note, columns, rows, [])]


def _loss(row: Float32[np.ndarray, " sources"], names: list[str], source: int) -> str:
    name = "" if names[source] == str(source) else f" ({names[source]})"
    return f"{source}{name}: {-row[source]:+.4f}"


def _require_scores(run: Run, name: str, known: Membership, of: dict[str, Any]) -> None:
    """Refuse scores of other queries, or by other members, than are reported on."""
    for path in records.records(run.scores(name), ".npy"):
        record = files.read_json(path)
        known.require_made(path, record)
        table_records.require_same(path, record, of, "Delete it, and score again.")


def _summary(
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


def _code_book(bits: Bool[np.ndarray, "sources members"]) -> dict[str, Any]:
    """The code book's picture and its size: bits get wide and low to fit the page."""
    shown = bits[:N_CODES]
    n_shown, n_members = shown.shape
    return {
        "address": figures.code_book_picture(shown),
        "width": n_members * min(16, max(1, 320 // n_members)),
        "height": n_shown * min(16, max(1, 512 // n_shown)),
        "n_shown": n_shown,
        "n_sources": len(bits),
        "n_members": n_members,
    }


def _promises(promised: dict[str, Any]) -> list[str]:
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


def _training(members: Sequence[dict[str, Any]]) -> str:
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


def _curves(members: Sequence[dict[str, Any]]) -> Markup:
    if not members:
        return Markup("")
    curves = [member["loss_curve"] for member in members]
    return figures.loss_curves(curves, "Loss of every member")


def _commands(
    run: Run,
    name: str,
    data: TrainingImages,
    cards: Sequence[Card],
    tables: Sequence[Influence],
    held_out: bool,
) -> list[str]:
    """What to type to make all of it again."""
    attribute = f"python attribute.py {shlex.quote(str(run.path))}"
    named = f"--name {shlex.quote(name)}"
    generated = [
        f"{attribute} generate {named} --n {len(cards)} --seed {cards[0].seed}"
    ]
    if held_out:
        generated = [f"# {run.queries(name)} holds given pictures: keep a copy of it"]
    return [
        f"python train.py {shlex.quote(str(run.path / 'config.yaml'))}",
        *generated,
        *(
            f"{attribute} ablate {named} --method {table.info['method']}"
            f"{_asked_for(run, table.info, data)}{_options(table.info)}"
            for table in tables
        ),
        f"{attribute} report {named}",
    ]


def _options(info: dict[str, Any]) -> str:
    """The options that made a table, as far as they are on record."""
    options = info.get("options", {"placebos": info["n_placebos"]})
    flags = {"placebos": "--placebos", "accuracy": "--accuracy"}
    said = [
        f" {flag} {options[name]}" for name, flag in flags.items() if name in options
    ]
    return "".join(said)


def _asked_for(run: Run, info: dict[str, Any], data: TrainingImages) -> str:
    """The option that made these units."""
    if info["units"] == "sources":
        return ""
    for column, values in data.columns.items():
        if info["unit_names"] == [f"{column} {value}" for value in sorted(set(values))]:
            return f" --groups {shlex.quote(column)}"
    named = files.read_json(run.path / "sources.json")
    called = SourceNames(len(named["names"]), named["names"], named.get("owners", {}))
    return f" --sources {called.written(info['group_sources'][0])}"


def _saved_tables(run: Run, name: str, folder: Path, kind: str) -> list[Table]:
    """Whatever tables a folder's JSON files hold, as they are.

    Raises:
        BadInput: If one is damaged, or was made with other queries of this name.
    """
    found = records.records(folder, kind)
    about = table_records.of_queries(run, name) if found else {}
    for path in found:
        if folder == run.scores(name) or path.stem.endswith(f"-{name}"):
            kept = files.read_json(path)
            identity = kept.get("identity", kept)
            made_with = identity.get("truth", identity)
            table_records.require_same(
                path, made_with, about, "Delete it, and make it again."
            )
    return [_table(path) for path in found]


def _table(path: Path) -> Table:
    content = files.read_json(path)
    title = content.pop("title", path.stem)
    note = content.pop("note", "")
    drawings = [path.parent / file for file in content.pop("figures", [])]
    if "rows" in content:
        lines = content["rows"]
        columns = list(dict.fromkeys(column for line in lines for column in line))
        rows = [[line.get(column) for column in columns] for line in lines]
    else:
        columns, rows = ["fact", "value"], [list(fact) for fact in content.items()]
    return Table(title, note, columns, rows, [_svg_address(path) for path in drawings])


def _svg_address(path: Path) -> str:
    """An SVG file as a `data:` address; as an image it can neither run nor load."""
    text = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:image/svg+xml;base64,{text}"
