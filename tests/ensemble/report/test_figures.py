"""Every number of a figure can be read back from it."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from ensemble.report import figures


def pixels(address: str) -> np.ndarray:
    head, _, text = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def path(svg: str, name: str) -> list[float]:
    """Heights of the steps of a path, in the units of the SVG."""
    found = re.search(rf'<path class="{name}" d="(M[^"]*)"', svg)
    assert found is not None
    return [float(height) for height in re.findall(r"V([\d.]+)", found[1])]


def test_a_grey_picture_keeps_its_levels_and_clips_what_is_beyond():
    image = np.array([[[-1.5, -1.0, 0.0, 1.0, 1.5]]], dtype=np.float32)
    assert pixels(figures.picture(image)).tolist() == [[0, 0, 128, 255, 255]]


def test_a_colour_picture_keeps_its_channels():
    image = np.array([1.0, -1.0, 0.0], dtype=np.float32).reshape(3, 1, 1)
    assert pixels(figures.picture(image)).tolist() == [[[255, 0, 128]]]


@pytest.mark.parametrize(("longest", "size"), [(96, (96, 48)), (192, (192, 96))])
def test_a_large_picture_is_shrunk_in_proportion(longest, size):
    image = np.zeros((3, 200, 400), dtype=np.float32)
    assert pixels(figures.picture(image, longest)).shape == (size[1], size[0], 3)


def test_a_difference_is_blue_below_zero_white_at_it_and_orange_above():
    difference = np.array([[[-0.5, 0.0, 0.5, 9.0]]], dtype=np.float32)
    blue, white, orange, beyond = pixels(
        figures.difference_picture(difference, limit=0.5)
    )[0].tolist()
    assert blue == figures.DARKER.tolist()
    assert white == figures.SAME.tolist()
    assert orange == beyond == figures.BRIGHTER.tolist()


def test_a_difference_of_colours_is_their_mean():
    difference = np.array([0.6, 0.0, 0.0], dtype=np.float32).reshape(3, 1, 1)
    grey = np.full((1, 1, 1), 0.2, dtype=np.float32)
    assert figures.difference_picture(difference, 1.0) == figures.difference_picture(
        grey, 1.0
    )


def test_the_code_book_has_a_row_for_each_source_and_a_column_for_each_member():
    bits = np.array([[1, 0, 1], [0, 1, 1]], dtype=bool)
    shown = pixels(figures.code_book_picture(bits))
    assert np.array_equal((shown == figures.SEEN).all(axis=-1), bits)
    assert np.array_equal((shown == figures.UNSEEN).all(axis=-1), ~bits)


def test_bars_and_outline_are_shares_of_sources_and_of_placebos():
    displacement = np.array([0.12, 0.12, 0.92, 1.2], dtype=np.float32)
    placebo = np.array([0.12, 0.92], dtype=np.float32)
    above = np.array([False, False, False, True])
    svg = figures.histogram(displacement, placebo, above, "source", "title")
    floor = figures.HEIGHT - figures.BOTTOM
    bars = [floor - height for height in path(svg, "bars")]
    outline = [floor - height for height in path(svg, "placebo")]
    # Half of the sources, a quarter, a quarter; half of the placebos, half of them.
    assert bars[2] == pytest.approx(outline[2], abs=0.11)
    assert bars[18] == pytest.approx(bars[2] / 2, abs=0.11)
    assert bars[23] == pytest.approx(bars[2] / 2, abs=0.11)
    assert outline[18] == pytest.approx(outline[2], abs=0.11)
    assert sum(bars) == pytest.approx(sum(outline), abs=0.5)


def test_each_source_above_placebo_has_a_triangle_where_its_displacement_is():
    displacement = np.array([0.5, 1.0, 0.25], dtype=np.float32)
    above = np.array([True, True, False])
    svg = figures.histogram(displacement, displacement, above, "source", "title")
    places = [float(x) for x in re.findall(r'class="above" d="M([\d.]+)', svg)]
    middle = (figures.LEFT + figures.WIDTH - figures.RIGHT) / 2
    assert places[:2] == [middle, figures.WIDTH - figures.RIGHT]
    assert len(places) == 3  # the third is in the legend


def test_a_picture_that_nothing_moves_has_a_histogram_too():
    still = np.zeros(3, dtype=np.float32)
    svg = figures.histogram(still, still[:0], still > 1, "group", "title")
    assert "Displacements of 3 groups, 0.000 to 0.000" in svg
    assert "no placebo. Above placebo: 0 groups." in svg


def test_the_loss_axis_is_logarithmic():
    curve = {"steps": [1, 2, 3], "loss": [1.0, 0.1, 0.01]}
    svg = figures.loss_curves([curve], "title")
    found = re.search(r'points="([^"]*)"', svg)
    assert found is not None
    heights = [float(point.split(",")[1]) for point in found[1].split()]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.11)


def test_every_member_has_a_line_with_its_ends_and_few_points():
    long = {
        "steps": list(range(1, 5001)),
        "loss": [1 / step for step in range(1, 5001)],
    }
    svg = figures.loss_curves([long, long], "title")
    lines = re.findall(r'points="([^"]*)"', svg)
    assert len(lines) == 2
    assert len(lines[0].split()) == figures.POINTS_PER_CURVE
    assert lines[0].split()[-1].startswith(f"{figures.WIDTH - figures.RIGHT}.0,")
    assert "<title>member 1</title>" in svg


def test_a_title_cannot_break_out_of_a_figure():
    curve = {"steps": [1], "loss": [0.5]}
    svg = figures.loss_curves([curve], '"><script>')
    assert "<script>" not in svg
    assert "&#34;&gt;&lt;script&gt;" in svg
