"""Figures for the report: PNG and SVG text from arrays that are already measured.

Every function is pure: arrays in, a `data:` address or SVG markup out. An SVG takes
its colours from the page's style sheet, so that it follows the reader's dark mode.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32
from markupsafe import Markup
from PIL import Image

from ensemble.report.page import counted

# Pixels of the longer side; larger pictures are shrunk, or the page would not load.
SMALL, LARGE = 96, 192
POINTS_PER_CURVE = 200
N_BINS = 24

DARKER = np.array([33, 102, 172])
SAME = np.array([247, 247, 245])
BRIGHTER = np.array([191, 87, 0])
SEEN = np.array([40, 62, 89])
UNSEEN = np.array([224, 228, 233])

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 20, 50, 44

Ticks = Sequence[tuple[float, str]]


def picture(
    image: Float32[np.ndarray, "channels height width"], longest: int = SMALL
) -> str:
    """A PNG of an image in [-1, 1], grey or RGB, as a `data:` address."""
    levels = np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8)
    grey = len(levels) == 1
    shown = Image.fromarray(levels[0] if grey else levels.transpose(1, 2, 0))
    shown.thumbnail((longest, longest))
    return _png(shown)


def difference_picture(
    difference: Float32[np.ndarray, "channels height width"], limit: float
) -> str:
    """A PNG of a difference: blue below zero, near white at zero, orange above.

    Args:
        difference: Its mean over the channels is shown.
        limit: The difference, above or below zero, that gets the strongest colour.
    """
    share = np.clip(difference.mean(axis=0) / limit, -1, 1)[..., None]
    end = np.where(share < 0, DARKER, BRIGHTER)
    colour = SAME + np.abs(share) * (end - SAME)
    shown = Image.fromarray(colour.round().astype(np.uint8))
    shown.thumbnail((SMALL, SMALL))
    return _png(shown)


def code_book_picture(bits: Bool[np.ndarray, "sources members"]) -> str:
    """A PNG with one pixel a bit: a row is a code, a column is a member's split."""
    colour = np.where(bits[..., None], SEEN, UNSEEN)
    return _png(Image.fromarray(colour.astype(np.uint8)))


def histogram(
    displacement: Float[np.ndarray, " units"],
    placebo: Float[np.ndarray, " placebos"],
    above: Bool[np.ndarray, " units"],
    unit: str,
    title: str,
) -> Markup:
    """An SVG of how far ablations move a picture: bars; and placebos: an outline.

    Args:
        displacement: Of every unit.
        placebo: Displacement of every placebo, in the same bins; there may be none.
        above: Units that stand out from the placebos; each gets a triangle.
        unit: What one of them is: `source` or `group`.
        title: What a screen reader calls the figure.
    """
    longest = float(np.concatenate([displacement, placebo]).max()) or 1.0
    edges = np.linspace(0, longest, N_BINS + 1)
    bars, outline = (
        100 * np.histogram(values, edges)[0] / max(1, len(values))
        for values in (displacement, placebo)
    )
    frame = _Frame(0.0, longest, 0.0, 1.1 * float(max(bars.max(), outline.max())))
    body = [
        _axes(frame, _ticks(0.0, longest), _ticks(0.0, frame.top)),
        f'<path class="bars" d="{_steps(frame, edges, bars)}"/>',
        f'<path class="placebo" d="{_steps(frame, edges, outline)}"/>',
        *(
            _triangle(frame.x(value), frame.y(0.0))
            for value in displacement[above].tolist()
        ),
        _labels("displacement", "share of each, in %"),
        _histogram_legend(
            counted(len(displacement), unit),
            counted(len(placebo), "placebo"),
            above.any(),
        ),
    ]
    description = (
        f"Displacements of {_described(displacement, unit)}, and of "
        f"{_described(placebo, 'placebo')}. Above placebo: "
        f"{counted(int(above.sum()), unit)}."
    )
    return _svg(body, title, description)


def loss_curves(curves: Sequence[dict[str, list]], title: str) -> Markup:
    """An SVG with one line a member: loss, on a logarithmic axis, over steps.

    Args:
        curves: `steps` and `loss` (positive) of each member.
        title: What a screen reader calls the figure.
    """
    steps = [np.array(curve["steps"], dtype=np.float64) for curve in curves]
    losses = [np.log10(np.array(curve["loss"])) for curve in curves]
    last = max(float(step[-1]) for step in steps)
    ticks = _log_ticks(
        min(float(loss.min()) for loss in losses),
        max(float(loss.max()) for loss in losses),
    )
    frame = _Frame(0.0, last, ticks[0][0], ticks[-1][0])
    lines = []
    for member, (step, loss) in enumerate(zip(steps, losses, strict=True)):
        n_points = min(len(step), POINTS_PER_CURVE)
        kept = np.linspace(0, len(step) - 1, n_points).astype(int)
        points = " ".join(
            f"{frame.x(x):.1f},{frame.y(y):.1f}"
            for x, y in zip(step[kept].tolist(), loss[kept].tolist(), strict=True)
        )
        lines.append(
            f'<polyline class="curve" points="{points}"><title>member {member}'
            "</title></polyline>"
        )
    finals = [10 ** float(loss[-1]) for loss in losses]
    description = (
        f"Loss of {len(curves)} members over {last:.0f} steps. It ends between "
        f"{min(finals):.3g} and {max(finals):.3g}."
    )
    axes = _axes(frame, _ticks(0.0, last), ticks)
    labels = _labels("optimiser step", "training loss, logarithmic")
    return _svg([axes, *lines, labels], title, description)


@dataclass(frozen=True)
class _Frame:
    """The plotted ranges, and where their values lie in the SVG."""

    first: float
    last: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        share = (value - self.first) / (self.last - self.first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / (self.top - self.bottom)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _steps(
    frame: _Frame,
    edges: Float[np.ndarray, " edges"],
    heights: Float[np.ndarray, " bins"],
) -> str:
    path = f"M{frame.x(edges[0]):.1f} {frame.y(0.0):.1f}"
    for right, height in zip(edges[1:], heights, strict=True):
        path += f"V{frame.y(height):.1f}H{frame.x(right):.1f}"
    return path + f"V{frame.y(0.0):.1f}"


def _triangle(x: float, y: float) -> str:
    return f'<path class="above" d="M{x:.1f} {y - 9:.1f}l-5 -8h10z"/>'


def _described(values: Float[np.ndarray, " values"], noun: str) -> str:
    if not len(values):
        return f"no {noun}"
    return (
        f"{counted(len(values), noun)}, {values.min():.3f} to {values.max():.3f}, mean "
        f"{values.mean():.3f}"
    )


def _histogram_legend(units: str, placebos: str, above: np.bool_) -> str:
    legend = (
        '<rect class="bars" x="0" y="5" width="12" height="10"/>'
        f'<text x="17" y="14">{units}</text>'
        '<path class="placebo" d="M151 15v-9h12v9"/>'
        f'<text x="168" y="14">{placebos}</text>'
    )
    if above:
        legend += _triangle(307.0, 23.0)
        legend += '<text x="317" y="14">above placebo</text>'
    return legend


def _axes(frame: _Frame, x_ticks: Ticks, y_ticks: Ticks) -> str:
    left, right, floor = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value, label in y_ticks:
        y = frame.y(value)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(f'<text class="y" x="{left - 7}" y="{y + 4:.1f}">{label}</text>')
    parts.append(f'<path class="axis" d="M{left} {floor}H{right}"/>')
    for value, label in x_ticks:
        x = frame.x(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {floor}v4"/>')
        parts.append(f'<text class="x" x="{x:.1f}" y="{floor + 18}">{label}</text>')
    return "".join(parts)


def _labels(x_label: str, y_label: str) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    return (
        f'<text class="x name" x="{middle:.0f}" y="{HEIGHT - 6}">{x_label}</text>'
        f'<text class="name" x="0" y="{TOP - 14}">{y_label}</text>'
    )


def _ticks(first: float, last: float) -> Ticks:
    """About four round numbers between two values."""
    rough = (last - first) / 4
    power = 10 ** np.floor(np.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - rough))
    values = np.arange(np.ceil(first / step), np.floor(last / step + 1e-9) + 1) * step
    return [(float(value), f"{value:,.6g}") for value in values]


def _log_ticks(low: float, high: float) -> Ticks:
    """1, 2 and 5 times powers of ten, from below one logarithm to above another."""
    powers = range(int(np.floor(low)) - 1, int(np.ceil(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    ticks = [(float(np.log10(value)), f"{value:,.6g}") for value in values]
    first = max(number for number, tick in enumerate(ticks) if tick[0] < low)
    last = min(number for number, tick in enumerate(ticks) if tick[0] > high)
    return ticks[first : last + 1]


def _svg(body: Sequence[str], title: str, description: str) -> Markup:
    inside = Markup("".join(body))
    return Markup(
        '<svg role="img" viewBox="0 0 {} {}" aria-label="{}">'
        "<title>{}</title><desc>{}</desc>{}</svg>"
    ).format(WIDTH, HEIGHT, title, title, description, inside)


def _png(shown: Image.Image) -> str:
    file = io.BytesIO()
    shown.save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
