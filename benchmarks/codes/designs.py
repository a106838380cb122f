"""Pictures of every code book, and what drawing and comparing designs takes.

    python -m benchmarks.codes.designs pictures     # docs/designs/NAME.png
    python -m benchmarks.codes.designs [N_SOURCES]  # seconds to draw, collateral, loads

A picture has a row for each source and a column for each member; dark: trains on it.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import record
from splits.choosing import expectations
from splits.choosing.candidates import CANDIDATES, fits
from splits.choosing.compare import Requirements, compare
from splits.designs.registry import DESIGNS, draw

PICTURES = Path(__file__).parents[2] / "docs" / "designs"
CELL = 8
# (sources, members, options) that show what is typical of a design.
SHOWN: dict[str, tuple[int, int, dict[str, Any]]] = {
    "balanced": (24, 16, {}),
    "sparse": (24, 16, {"removable": 3, "survivors": 4}),
    "pairs_safe": (24, 16, {}),
    "leave_one_out": (16, 16, {}),
    "partition": (24, 16, {}),
    "hybrid": (24, 16, {"removable": 3, "survivors": 2}),
    "reed_solomon": (25, 15, {}),
    "hadamard": (15, 16, {}),
    "random_subsets": (24, 16, {}),
    "product": (24, 16, {"owner_of": np.arange(24) // 4}),
    "numbered": (24, 16, {}),
    "named": (24, 16, {}),
    "rendezvous": (24, 16, {"weight": 6}),
}


def picture(design: str) -> Image.Image:
    """The code book of a design: white lines between cells, dark where a bit is set."""
    n_sources, n_members, options = SHOWN[design]
    bits = draw(design, n_sources, n_members, **options).bits
    cell = np.full((CELL, CELL), 255, dtype=np.uint8)
    cell[:-1, :-1] = 0
    dark = np.kron(bits, cell == 0)
    light = np.kron(~bits, cell == 0)
    shades = np.full(dark.shape, 255, dtype=np.uint8)
    shades[dark], shades[light] = 40, 225
    return Image.fromarray(shades)


def draw_pictures() -> None:
    PICTURES.mkdir(exist_ok=True)
    for design in DESIGNS:
        picture(design).save(PICTURES / f"{design}.png", optimize=True)


def drawing(n_sources: int, n_members: int = 64) -> dict[str, Any]:
    """For every design with codes for so many sources: time, loads, collateral."""
    found = {}
    for design, candidate in CANDIDATES.items():
        options = candidate.asked(n_members, 3, 2)
        if not fits(design, n_sources, n_members, options):
            continue
        began = time.process_time()
        codes = draw(
            design,
            n_sources,
            n_members,
            options.get("weight"),
            0,
            options.get("removable"),
            options.get("survivors"),
        )
        seconds = time.process_time() - began
        loads = codes.bits.sum(axis=0)
        found[design] = {
            "cpu_seconds": seconds,
            "codes_a_second": n_sources / seconds,
            "split_min": int(loads.min()),
            "split_max": int(loads.max()),
            "mean_squared_correlation": expectations.mean_squared_correlation(codes),
            "welch": expectations.welch(n_sources, n_members),
        }
    return found


def comparing() -> dict[str, float]:
    """CPU seconds of `train.py --plan --remove 3 ...` without the data."""
    seconds = {}
    for n_sources in (20, 1000, 10**9):
        began = time.process_time()
        compare(Requirements(n_sources, 3, 2, 32))
        seconds[f"{n_sources}_sources"] = time.process_time() - began
    return seconds


if __name__ == "__main__":
    if sys.argv[1:] == ["pictures"]:
        draw_pictures()
    else:
        n = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
        results = {"n_sources": n, "drawing": drawing(n), "comparing": comparing()}
        record.write("designs", [0], results)
