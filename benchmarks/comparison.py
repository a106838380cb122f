"""The page that compares all methods: docs/comparison.md, from what benchmarks.lds found.

    python -m benchmarks.comparison

Every number of the page stands in `results/lds.json` or `results/lds_mnist.json`.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks import record

PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"
SETTINGS = {"lds": "Digits, 8x8", "lds_mnist": "MNIST, 14x14"}
QUERIES = {
    "held_out": "held-out images",
    "generated": "generated images",
    "generated-displacement": "generated images: displacement in place of loss",
}
HEAD = """# Which methods tell what a source does

Written by `python -m benchmarks.comparison`; the numbers are those of `python -m
benchmarks.lds`. The linear datamodeling score (LDS) is the rank correlation between what a
method predicts and the losses of models that were really trained on halves of the
sources ([how](evaluation.md#lds)). Intervals are 95 %, over subsets and queries.

- **raw**: scores as they are; **signed²**: squared, with their sign.
- **ceiling**: raw LDS over what a perfect predictor would reach, for retraining is noisy.
- **damping chosen**: for methods that have one, best of raw with the damping that one
  half of the subsets chooses, on the other half.
- **seconds** for all queries on the machine of the record, with those of features that
  methods before it left; of a posterior without its priors'.
- **displacement**: how far from the query the picture lies that a model samples from the
  same noise. Scores are the same as for the loss: what makes a model good at a picture is
  to make it draw that picture. `posterior_displacement` asks what members draw, where
  `posterior` asks for their loss.
- **MB**: most memory held at once while it scored, with Python, PyTorch and the ensemble
  (about 500); where it is missing, it was not measured apart.
- `-reference`: one model of everything is looked at; without it, the ensemble, whose
  gradients are averaged. `_16`, `_32`, `first_16`: only so many members.
"""


def page(results: dict[str, dict[str, Any]]) -> str:
    """The whole page, from results by their name."""
    parts = [HEAD]
    for name, title in SETTINGS.items():
        if name not in results:
            continue
        found = results[name]["results"]
        sizes = found["sizes"]
        parts.append(
            f"\n## {title}\n\n{sizes['n_images']} images, each a source; "
            f"{sizes['n_members']} members of {sizes['steps']} steps; "
            f"{sizes['n_subsets']} halves with {sizes['n_seeds']} seeds.\n"
        )
        for queries, meaning in QUERIES.items():
            if queries not in found:
                continue
            parts.append(f"\n### {sizes['n_queries']} {meaning}\n\n")
            parts.append(section(found[queries]))
    return "".join(parts)


def section(table: dict[str, Any]) -> str:
    """One set of queries: reliability, every method, and the comparison with the best."""
    lines = [
        f"Reliability of one seed {interval(table['reliability'])}, ceiling "
        f"{interval(table['ceiling'])}.\n",
        "| method | raw | signed² | ceiling | damping chosen | seconds | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [row_of(table, method) for method in order(table)]
    if table["against_best"]:
        best = table["against_best"][0]
        at = "" if best["damping"] is None else f", damping {best['damping']:g}"
        lines += [
            f"\nAgainst the best single scorer, chosen on these very subsets: "
            f"{best['best_single']}, {best['readout']}{at}: {best['best_single_lds']:.3f}.\n",
            "| method | LDS | ceiling | difference |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row['method']} | {interval(row['lds'])} "
            f"| {percent(row.get('share_of_ceiling'))} | {interval(row['difference'])} |"
            for row in table["against_best"]
        ]
    return "\n".join(lines) + "\n"


def order(table: dict[str, Any]) -> list[str]:
    """Methods, those with the greatest raw LDS first."""
    raw = [row for row in table["rows"] if row["readout"] == "raw"]
    raw.sort(key=lambda row: -row["lds"]["value"])
    return [row["method"] for row in raw]


def row_of(table: dict[str, Any], method: str) -> str:
    """A method's line."""
    by_readout = {
        row["readout"]: row for row in table["rows"] if row["method"] == method
    }
    raw, signed = by_readout["raw"], by_readout.get("signed_squared")
    chosen = [
        row
        for row in table["dampings"]
        if row["method"] == method and row["readout"] == "raw"
    ]
    cells = [
        method,
        interval(raw["lds"]),
        f"{signed['lds']['value']:.3f}" if signed else "",
        percent(raw.get("share_of_ceiling")),
        f"{interval(chosen[0]['lds'])} at {chosen[0]['damping']:g}" if chosen else "",
        f"{raw['seconds']:.0f}" if raw.get("seconds") is not None else "",
        f"{peak / 2**20:.0f}" if (peak := raw.get("peak_memory_bytes")) else "",
    ]
    return f"| {' | '.join(cells)} |"


def interval(found: dict[str, float]) -> str:
    """A value and its interval."""
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def percent(share: dict[str, float] | None) -> str:
    """A share, if there is one."""
    return "" if share is None else f"{100 * share['value']:.0f} %"


def results() -> dict[str, dict[str, Any]]:
    """What is on record, by name."""
    files = {name: record.RESULTS / f"{name}.json" for name in SETTINGS}
    return {
        name: json.loads(file.read_text(encoding="utf-8"))
        for name, file in files.items()
        if file.exists()
    }


def main() -> None:
    PAGE.write_text(page(results()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
