"""The report: one page that shows what was measured, and computes nothing.

Everything on it comes from tables that other stages saved; ranks, placebos and p-values
are theirs. The page holds its own style and pictures, has no scripts, and asks the
network for nothing.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from markupsafe import Markup

from ensemble.data.datasets import TrainingImages
from ensemble.report import (
    audit_verdict,
    commands,
    figures,
    findings,
    outdated,
    page,
    saved_tables,
    summary,
    verification,
)
from ensemble.report.findings import Finding, Influence
from ensemble.report.verification import Verification
from ensemble.run import config_file, files, records, removal_log, table_records
from ensemble.run.folder import Run
from ensemble.run.voters import Membership

N_CODES = 512


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
    known, of = Membership.read(run.path), table_records.read_query_facts(run, name)
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
        summary=summary.sentences(manifest, len(cards), tables, asked["held_out"]),
        certificate=_certificate(run, proof),
        exactness=summary.exactness(proof),
        tables=tables,
        coverage=[
            f"{audit_verdict.coverage(table.info, len(cards))} {audit_verdict.promise(table.info)}"
            for table in tables[:1]
        ],
        cards=cards,
        colour=data.images.shape[1] > 1,
        sampling=asked,
        losses=saved_tables.of_losses(run, name, known) if asked["held_out"] else [],
        code_book=_code_book(known.codes.bits),
        promises=summary.promises(manifest["promises"]),
        members=members,
        training=summary.training(members),
        curves=_curves(members),
        manifest=manifest,
        commands=commands.to_repeat(
            run,
            name,
            data,
            [card.seed for card in cards],
            tables,
            asked["held_out"],
        ),
        options=config_file.to_yaml(run.config),
        scores=saved_tables.read(run, name, run.scores(name), ".npy"),
        evaluation=saved_tables.read(run, name, run.evaluation, ".csv"),
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
    images = records.checked_array(folder, "info.json", "images.npy")
    seeds = records.checked_array(folder, "info.json", "seeds.npy")
    labels = [""] * len(seeds)
    if "conditions.npy" in files.read_json(folder / "info.json")["files"]:
        conditions = records.checked_array(folder, "info.json", "conditions.npy")
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


def _require_scores(run: Run, name: str, known: Membership, of: dict[str, Any]) -> None:
    """Refuse scores of other queries, or by other members, than are reported on."""
    for path in records.list_records(run.scores(name), ".npy"):
        record = files.read_json(path)
        known.require_made(path, record)
        table_records.require_same(path, record, of, "Delete it, and score again.")


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


def _curves(members: Sequence[dict[str, Any]]) -> Markup:
    if not members:
        return Markup("")
    curves = [member["loss_curve"] for member in members]
    return figures.loss_curves(curves, "Loss of every member")
