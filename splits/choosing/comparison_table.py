"""The comparison of designs as a table of text, with a recommendation below it."""

from splits.choosing import compare
from splits.choosing.compare import Found, Requirements, Row


def table(
    rows: list[Row], requirements: Requirements, images: int, weights_bytes: int
) -> str:
    """The rows as text, what the letters mean, and which design to take.

    Args:
        rows: What `compare` found.
        requirements: What it was asked.
        images: Images that training shows to one member.
        weights_bytes: Size of one member on disk.
    """
    lines = [_HEAD] + [_line(row, images, weights_bytes) for row in rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(_HEAD))]
    text = [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join(
        [_title(requirements), "", *text, "", _LEGEND, "", _advice(rows, requirements)]
    )


_HEAD = (
    "design",
    "needs",
    "members",
    "share",
    "worst",
    "mean",
    "nobody",
    "also lost",
    "split",
    "collateral",
    "Welch",
    "images",
    "disk",
)
_LEGEND = """needs       members that certainly meet the requirements, at least; - if no number does
share       of the sources that a member trains on
worst, mean members that are left; nobody: the chance that none is
also lost   other sources that nobody is left of, on average
split       sources that a member trains on, least to most
collateral  mean squared correlation of two codes; Welch: the least possible
b bound, proven   a counted, all choices   s counted, sample   l law of random codes"""


def _title(requirements: Requirements) -> str:
    return (
        f"{requirements.n_sources:,} sources, any {requirements.remove} removed together, {requirements.keep} "
        f"members left, {requirements.budget} members at most"
    )


def _line(row: Row, images: int, weights_bytes: int) -> tuple[str, ...]:
    return (
        row.design,
        "-" if row.needed is None else f"{row.needed:,}",
        f"{row.n_members:,}",
        f"{100 * row.share:.3g} %",
        _format(row.worst),
        _format(row.mean),
        _format(row.nobody),
        _format(row.also_lost),
        _span(row.split_min, row.split_max),
        _format(row.collateral),
        f"{row.welch:.3g}",
        f"{row.n_members * images:.3g}",
        f"{row.n_members * weights_bytes / 2**20:,.0f} MB",
    )


def _span(least: Found, most: Found) -> str:
    low, high = f"{least.value:,.0f}", f"{most.value:,.0f}"
    return f"{low if low == high else f'{low}-{high}'} {least.how[0]}"


def _format(found: Found) -> str:
    return f"{found.value:.3g} {found.how[0]}"


def _advice(rows: list[Row], requirements: Requirements) -> str:
    best = compare.recommend(rows, requirements)
    if best is not None:
        options = {"design": best.design, "n_members": best.n_members, **best.options}
        section = ", ".join(f"{key}: {value}" for key, value in options.items())
        return f"Recommended: splits: {{{section}}}"
    needed = [(row.needed, row.design) for row in rows if row.needed is not None]
    least, design = min(needed)
    return (
        f"No design meets these requirements with {requirements.budget} members. The fewest that do are "
        f"{least}, with {design!r}."
    )
