"""The page of what changes while it runs: intervals over seeds, and what its pictures show."""

import pytest

from weft.experiments.dynamic.page import PICTURED, TITLES, dynamic_page, pictured
from weft.experiments.dynamic.table import Line


def test_three_seeds_have_the_interval_of_students_t():
    line = Line("answers right, streams of 2", "shift", (0.9, 1.0, 0.8))
    # 4.303 * 0.1 / sqrt(3)
    assert line.half == pytest.approx(0.2484, abs=3e-4)
    assert line.interval.low == pytest.approx(0.9 - line.half)
    assert line.shown == "0.900 ± 0.248 (0.900, 1.000, 0.800)"
    alone = Line("answers right, streams of 2", "oracle", (0.9,))
    assert (alone.half, alone.shown) == (0.0, "0.900")


def test_a_picture_shows_one_measure_after_the_other():
    lines = [
        Line("questions right, pairs", "context alone", (0.3,)),
        Line("levels used", "context alone", (0.1,)),
        Line("questions right, triples", "context alone", (0.7,)),
        Line("questions right, pairs", "mix", (0.1,)),
        Line("questions right, triples", "mix", (0.4,)),
    ]
    assert [line.mean for line in pictured("mix", lines)] == [0.3, 0.1, 0.7, 0.4]
    page = dynamic_page({"mix": lines}, command="weft experiment", pictures={"mix": "s.png"})
    assert "](s.png)\n\n| measured |" in page
    assert "| levels used | context alone | 0.100 |" in page
    assert PICTURED.keys() | {"words", "stack"} == TITLES.keys()  # these have curves, not bars
