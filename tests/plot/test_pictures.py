from dataclasses import replace

import pytest

from weft.errors import SaveError
from weft.evaluate.intervals import Interval
from weft.experiments.merging.page import Point
from weft.plot.bars import Bar, draw_bars
from weft.plot.merging import draw_merging

POINTS = [
    Point(way, size, 3, Interval(right, right - 0.05, right + 0.05), Interval(1.0, 0.9, 1.1))
    for way, fall in (("own adapter", 0.0), ("routed", 0.01), ("base", 0.2), ("ties", 0.1))
    for size, right in ((1, 0.9), (2, 0.9 - fall), (4, 0.9 - 3 * fall))
]
BARS = [
    Bar("oracle", Interval(0.9, 0.85, 0.95), "the task"),
    Bar("nearest", Interval(0.8, 0.7, 0.9), "wording"),
]


@pytest.mark.parametrize(
    "draw",
    [lambda path: draw_merging(POINTS, path), lambda path: draw_bars(BARS, path, label="exact match")],
    ids=["curve", "bars"],
)
def test_a_picture_is_a_png_and_always_the_same(draw, tmp_path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_other_values_make_another_picture(tmp_path):
    draw_bars(BARS, tmp_path / "a.png", label="exact match")
    draw_bars(
        [BARS[0], BARS[1]._replace(value=replace(BARS[1].value, mean=0.3))],
        tmp_path / "b.png",
        label="exact match",
    )
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_bar_below_zero_is_shown(tmp_path):
    for name, low in (("a", -0.3), ("b", -0.2)):
        below = Bar("another's", Interval(low, low - 0.1, low + 0.1), "text")
        draw_bars([BARS[0], below], tmp_path / f"{name}.png", label="share of the gap")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_picture_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError):
        draw_bars(BARS, tmp_path / "file" / "a.png", label="exact match")
