"""Facts that are found again against the length of the text that they were pressed with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from weft.plot.page import figure, save_figure

if TYPE_CHECKING:
    from weft.experiments.dynamic.table import Line

_COLOURS = ("tab:blue", "tab:green", "tab:orange", "tab:gray")


def draw_needles(
    curves: Mapping[str, Sequence[Line]], lines: Sequence[int], path: str | os.PathLike[str]
) -> None:
    """Write a curve per way over numbers of lines: the mean, and the interval of 95 % over seeds.

    Raises MissingExtraError without matplotlib, SaveError when the disk refuses.
    """
    drawn, axes = figure(6.5, 3.6)
    for (name, points), colour in zip(curves.items(), _COLOURS, strict=False):
        means = [point.mean for point in points]
        axes.plot(lines, means, color=colour, marker="o", linewidth=2, label=name)
        low, high = [point.interval.low for point in points], [point.interval.high for point in points]
        axes.fill_between(lines, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lines, [str(count) for count in lines])
    axes.set_xlabel("lines of the document, one of which is a fact")
    axes.set_ylabel("facts answered rightly")
    axes.set_ylim(-0.02, 1.05)
    axes.legend(frameon=False)
    save_figure(drawn, path)
