"""What to type to make all of a report again."""

import shlex
from collections.abc import Sequence
from typing import Any

from ensemble.data.datasets import TrainingImages
from ensemble.report.findings import Influence
from ensemble.run import files
from ensemble.run.folder import Run
from splits.naming import SourceNames


def to_repeat(
    run: Run,
    name: str,
    data: TrainingImages,
    seeds: Sequence[int],
    tables: Sequence[Influence],
    held_out: bool,
) -> list[str]:
    """What to type to make all of a report again.

    Args:
        run: The run folder.
        name: The set of queries.
        data: The run's training images, whose columns name groups.
        seeds: Of the queries' noise.
        tables: The ablations on the report.
        held_out: Whether the queries are given pictures.
    """
    attribute = f"python attribute.py {shlex.quote(str(run.path))}"
    named = f"--name {shlex.quote(name)}"
    generated = [f"{attribute} generate {named} --n {len(seeds)} --seed {seeds[0]}"]
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
