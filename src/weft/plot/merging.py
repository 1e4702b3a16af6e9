"""The degradation curve: exact match against the number of adapters that are merged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.plot.page import figure, save_figure

if TYPE_CHECKING:
    from weft.experiments.merging.page import Point

_BOLD = {"own adapter": "black", "routed": "tab:red", "base": "tab:gray"}
_COLORS = [f"C{i}" for i in range(10) if i not in (3, 7)]  # neither that red nor that gray


def draw_merging(found: Sequence[Point], path: str | os.PathLike[str]) -> None:
    """Write the curve of every way to answer; the legend is in the order of the last values.

    Raises MissingExtraError without matplotlib, SaveError when the disk refuses.
    """
    sizes = sorted({point.size for point in found})
    lines = {
        way: sorted((point for point in found if point.way == way), key=lambda point: point.size)
        for way in dict.fromkeys(point.way for point in found)
    }
    order = sorted(lines, key=lambda way: (-lines[way][-1].size, -lines[way][-1].right.mean))
    drawn, axes = figure(9.0, 5.0)
    for place, way in enumerate(order):
        line = lines[way]
        color = _BOLD.get(way) or _COLORS[place % len(_COLORS)]
        axes.plot(
            [point.size for point in line],
            [point.right.mean for point in line],
            color=color,
            linewidth=2.5 if way in _BOLD else 1.3,
            linestyle="-" if way in _BOLD else ("-", "--", ":")[place // len(_COLORS) % 3],
            marker="o" if way in _BOLD else "osv^D<>pPX"[place % 10],
            markersize=4,
            label=way,
            zorder=3 if way in _BOLD else 2,
        )
        if way in _BOLD:
            low, high = [point.right.low for point in line], [point.right.high for point in line]
            axes.fill_between([point.size for point in line], low, high, color=color, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("adapters merged into one, or routed among")
    axes.set_ylabel("exact match on the tasks of all")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    save_figure(drawn, path)
