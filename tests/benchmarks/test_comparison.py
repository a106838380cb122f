"""The page that compares methods says what the results on record say."""

import pytest

from benchmarks.attribution import comparison

INTERVAL = {"value": 0.5, "low": 0.25, "high": 0.75}
SIZES = {
    "n_images": 8,
    "n_members": 4,
    "steps": 3,
    "n_subsets": 6,
    "n_seeds": 2,
    "n_queries": 5,
}


def row(method, value, readout="raw", **more):
    lds = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {"method": method, "readout": readout, "lds": lds, **more}


TABLE = {
    "reliability": INTERVAL,
    "ceiling": INTERVAL,
    "rows": [
        row(
            "low",
            0.1,
            seconds=12.4,
            share_of_ceiling=INTERVAL,
            peak_memory_bytes=3 * 2**20,
        ),
        row("low", 0.3, "signed_squared", seconds=12.4),
        row("high", 0.4),
    ],
    "dampings": [
        {**row("low", 0.2), "damping": 0.01},
        {**row("low", 0.9, "squared"), "damping": 10.0},
    ],
    "against_best": [
        {
            **row("both", 0.6),
            "best_single": "low",
            "readout": "raw",
            "damping": None,
            "best_single_lds": 0.1,
            "difference": INTERVAL,
        }
    ],
}


def test_methods_stand_in_order_with_what_is_known_of_them():
    lines = comparison.section(TABLE).splitlines()
    methods = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert methods == ["method", "high", "low", "method", "both"]
    (low,) = [line for line in lines if line.startswith("| low")]
    assert [cell.strip() for cell in low.split("|")[2:-1]] == [
        "0.100 [0.000, 0.200]",
        "0.300",
        "50 %",
        "0.200 [0.100, 0.300] at 0.01",
        "12",
        "3",
    ]
    assert "| high | 0.400 [0.300, 0.500] |  |  |  |  |  |" in lines
    both = (
        "| both | 0.600 [0.500, 0.700] |  | low, raw | 0.100 | 0.500 [0.250, 0.750] |"
    )
    assert both in lines


def test_without_a_combination_nothing_is_compared_with_the_best():
    assert "difference" not in comparison.section({**TABLE, "against_best": []})


def test_a_setting_that_was_not_run_is_not_on_the_page():
    found = {"sizes": SIZES, "held_out": TABLE, "generated": TABLE}
    page = comparison.page({"lds": {"results": found}})
    assert "## Digits" in page
    assert "MNIST, 14x14" not in page
    assert page.count("### 5 ") == 2


def test_the_short_table_has_a_column_for_each_setting_and_query():
    table = {
        **TABLE,
        "rows": [
            row("posterior", 0.9, seconds=80.4, peak_memory_bytes=600 * 2**20),
            row("posterior", 0.3, "squared"),
            row("differential_ablation_loss", 0.4),
        ],
    }
    found = {"held_out": TABLE, "generated": table}
    lines = comparison.short_table({"lds": {"results": found}}).splitlines()
    assert lines[0].startswith("| LDS | Digits, 8x8: held-out | Digits, 8x8: generated")
    assert "| `posterior`, 64 members |  | 0.900 [0.800, 1.000] | 80, 600 |" in lines
    assert "| ablation of the loss, 64 members |  | 0.400 [0.300, 0.500] |  |" in lines
    assert lines[-1].startswith("| what is possible at all | 0.500 [0.250, 0.750]")
    assert len(lines) == 2 + len(comparison.ROWS) + 1


def test_the_table_takes_the_place_of_the_one_before():
    first, last = comparison.MARKS
    readme = comparison.with_table(f"a\n{first}old\n{last}b\n", "new\n")
    assert readme == f"a\n{first}new\n{last}b\n"


@pytest.mark.skipif(not comparison.results(), reason="nothing is on record yet")
def test_the_page_is_that_of_the_results_on_record():
    written = comparison.PAGE.read_text(encoding="utf-8")
    assert written == comparison.page(comparison.results())
    readme = comparison.README.read_text(encoding="utf-8")
    table = comparison.short_table(comparison.results())
    assert readme == comparison.with_table(readme, table)
