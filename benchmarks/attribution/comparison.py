"""What compares all methods, from what benchmarks.attribution.lds found: a page, and a table.

    python -m benchmarks.attribution.comparison

Writes docs/comparison.md, and in README.md what stands between two marks. Every number
stands in `results/lds.json` or `results/lds_mnist.json`.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks import record

ROOT = Path(__file__).parents[2]
PAGE, README = ROOT / "docs" / "comparison.md", ROOT / "README.md"
MARKS = (
    "<!-- python -m benchmarks.attribution.comparison -->\n",
    "<!-- until here -->\n",
)


def _of_members(title: str, method: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Rows of a method with ever fewer members."""
    return (
        (f"{title}, 64 members", (method,)),
        ("the same, 32", (f"{method}-first-32",)),
        ("the same, 16", (f"{method}-first-16",)),
    )


# Rows of the table in the README, and the methods that they are of: the first that the
# queries have. Ablation of the loss is exact or differential.
ROWS = (
    *_of_members("`posterior_ensemble`", "posterior_ensemble"),
    *_of_members("`posterior`", "posterior"),
    *_of_members("`ekfac_all`", "ekfac_all"),
    *_of_members("`unlearning_all`", "unlearning_all"),
    *_of_members("`ekfac`", "ekfac"),
    *(
        (f"`{method}`", (f"{method}-reference",))
        for method in (
            "ekfac",
            "ekfac_elbo",
            "ekfac_norm",
            "kfac",
            "unlearning_ekfac",
            "unlearning",
            "das_vector",
            "das",
            "dtrak",
            "dtrak_mean",
            "dtrak_l1",
            "dtrak_l2",
            "dtrak_linf",
            "dtrak_weighted",
            "trak",
            "journey_trak",
            "relative_influence",
            "renormalised_influence",
            "tracin",
            "gas",
            "gradient_dot",
            "gradient_cosine",
        )
    ),
    ("`component_cosine`", ("component_cosine",)),
    ("`feature_cosine`", ("feature_cosine",)),
    ("`pixel_cosine`", ("pixel_cosine",)),
    ("`pixel_dot`", ("pixel_dot",)),
    *_of_members("`posterior` without priors", "members"),
    *_of_members("`ridge_datamodel`", "ridge_datamodel"),
    *_of_members("`lasso_datamodel`", "lasso_datamodel"),
    *_of_members("`empirical_influence`", "empirical_influence"),
    (
        "ablation of the loss, 64 members",
        ("ablation_loss", "differential_ablation_loss"),
    ),
    ("the same, 32", ("ablation_first_32_loss",)),
    ("the same, 16", ("ablation_first_16_loss",)),
    ("`random`", ("random",)),
    ("`constant`", ("constant",)),
    ("training again, once", ("control_exact_retraining",)),
)
SETTINGS = {"lds": "Digits, 8x8", "lds_mnist": "MNIST, 14x14"}
QUERIES = {
    "held_out": "held-out images",
    "generated": "generated images",
    "generated-displacement": "generated images: displacement in place of loss",
}
HEAD = """# Which methods tell what a source does

Written by `python -m benchmarks.attribution.comparison`; the numbers are those of `python -m
benchmarks.attribution.lds`. The linear datamodeling score (LDS) is the rank correlation between what a
method predicts and the losses of models that were really trained on halves of the
sources ([how](evaluation.md#lds)). Intervals are 95 %, over subsets and queries.

- **raw**: scores as they are; **signed²**: squared, with their sign.
- **ceiling**: raw LDS over what a perfect predictor would reach, for retraining is noisy.
- **damping chosen**: for methods that have one, best of raw with the damping that one
  half of the subsets chooses, on the other half.
- **seconds** for all queries on the machine of the record, with those of features that
  methods before it left; a posterior's count those of each prior, and what priors
  share for each.
- **displacement**: how far from the query the picture lies that a model samples from the
  same noise. Scores are the same as for the loss: what makes a model good at a picture is
  to make it draw that picture. `posterior_displacement` asks what members draw, where
  `posterior` asks for their loss.
- Losses are measured at 128 draws; by datamodels, empirical influence and differential
  ablation, at 32.
- **MB**: most memory held at once while it scored, with Python, PyTorch and the ensemble
  (about 500); where it is missing, it was not measured apart.
- `-reference`: one model of everything is looked at; without it, the ensemble, whose
  scores are averaged, for each image over the members that saw it (`ekfac_all` and
  `unlearning_all`: over all). `first-16`, `first_16`: only so many members.
- `posterior_ensemble` starts from what the reference and the members score, `posterior`
  from the reference's scores alone, `members` from nothing. What follows the name says
  what else is different: `prior_only` listens to the priors alone, `alone` fits every
  query by itself, `one_prior` knows only `trak`, `proportional` lets the variance go by
  the size of what is expected, `unlike` sees no likeness between sources and
  `alike_by_pixels` only that of pictures, `plain_weights` combines priors by plain least
  squares, `raw` takes them as they are.
- **best single**: of the scorers that look at no more models than the posterior, the
  best on these very subsets.
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


def short_table(results: dict[str, dict[str, Any]]) -> str:
    """Raw LDS of every method, a column for each setting and its queries."""
    columns = {
        f"{SETTINGS[name]}: {queries.replace('_', '-')}": found["results"][queries]
        for name, found in results.items()
        for queries in ("held_out", "generated")
    }
    last = list(columns.values())[-1]
    lines = [
        f"| LDS | {' | '.join(columns)} | seconds, MB |",
        "|---|" + "---|" * len(columns) + "---|",
    ]
    for title, names in ROWS:
        cells = [_cell(table, names) for table in columns.values()]
        lines.append(f"| {title} | {' | '.join(cells)} | {_price(last, names)} |")
    ceilings = [interval(table["ceiling"]) for table in columns.values()]
    lines.append(f"| what is possible at all | {' | '.join(ceilings)} | |")
    return "\n".join(lines) + "\n"


def _cell(table: dict[str, Any], names: tuple[str, ...]) -> str:
    found = _raw(table, names)
    return interval(found["lds"]) if found else ""


def _price(table: dict[str, Any], names: tuple[str, ...]) -> str:
    """Seconds, and memory where it was measured apart."""
    found = _raw(table, names) or {}
    parts = []
    if found.get("seconds") is not None:
        parts.append(f"{found['seconds']:.0f}")
    if found.get("peak_memory_bytes"):
        parts.append(f"{found['peak_memory_bytes'] / 2**20:.0f}")
    return ", ".join(parts)


def _raw(table: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any] | None:
    """The first of these methods that is in the table, as it is."""
    rows = {row["method"]: row for row in table["rows"] if row["readout"] == "raw"}
    return next((rows[name] for name in names if name in rows), None)


def with_table(readme: str, table: str) -> str:
    """The README with the table between its marks."""
    before, rest = readme.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return "".join([before, MARKS[0], table, MARKS[1], after])


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
        lines += [
            "\nAgainst the best single scorer, chosen with damping and read-out on these "
            "very subsets:\n",
            "| method | LDS | ceiling | best single | its LDS | difference |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['method']} | {interval(row['lds'])} "
            f"| {percent(row.get('share_of_ceiling'))} | {rival(row)} "
            f"| {row['best_single_lds']:.3f} | {interval(row['difference'])} |"
            for row in table["against_best"]
        ]
    return "\n".join(lines) + "\n"


def rival(row: dict[str, Any]) -> str:
    """The best single scorer, with its read-out and damping."""
    at = "" if row["damping"] is None else f", damping {row['damping']:g}"
    return f"{row['best_single']}, {row['readout']}{at}"


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
    found = results()
    readme = README.read_text(encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
    README.write_text(with_table(readme, short_table(found)), encoding="utf-8")
    print(PAGE, README, sep="\n")


if __name__ == "__main__":
    main()
