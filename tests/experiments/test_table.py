"""Intervals of the tables: Student's t, listed up to five values, of many values without them."""

import pytest

from weft.experiments.dynamic.table import line_of


def test_an_interval_of_many_values_is_students_t_and_lists_none():
    line = line_of("right", "shift", [0.0, 1.0] * 20)
    assert line.shown == "0.500 ± 0.162"  # 2.0227 * sqrt(10 / 39 / 40)
    six = line_of("right", "shift", [0.0, 1.0] * 3).shown
    assert float(six.split("± ")[1]) == pytest.approx(2.571 * (1.5 / 5 / 6) ** 0.5, abs=0.01)
    assert line_of("right", "shift", [0.5, 0.5]).shown == "0.500 ± 0.000 (0.500, 0.500)"
    assert line_of("right", "shift", [0.5]).shown == "0.500"
    assert line_of("p", "shift", [6.04e-7]).shown == "6e-07"
    assert line_of("p", "shift", [0.0]).shown == "0.000"
