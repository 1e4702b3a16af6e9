"""The degradation curve: exact match against the number of adapters that are merged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from weft.plot.page import figure, save_figure

if TYPE_CHECKING:
    from weft.experiments.merging.page import Point

_BOLD = {"own adapter": "black", "routed": "tab:red", "base": "tab:gray"}
_COLOURS = ("tab:blue", "tab:orange", "tab:green")
"""Of the best ways to merge; the others are a light gray."""
_OTHERS = "0.8"
_APART = 0.035
"""Least distance of two labels, as a share of the height."""


def draw_merging(found: Sequence[Point], path: str | os.PathLike[str]) -> None:
    """Write the curve of every way to answer; each is named at its end, the worse ways to merge as one.

    Raises MissingExtraError without matplotlib, SaveError when the disk refuses.
    """
    sizes = sorted({point.size for point in found})
    lines = {
        way: sorted((point for point in found if point.way == way), key=lambda point: point.size)
        for way in dict.fromkeys(point.way for point in found)
    }
    merges = sorted((way for way in lines if way not in _BOLD), key=lambda way: -_height(lines[way]))
    whole = [way for way in merges if lines[way][-1].size == sizes[-1]]
    best = dict(zip(whole, _COLOURS, strict=False))
    others = [way for way in merges if way not in best]
    drawn, axes = figure(9.0, 5.0)
    ends: list[tuple[float, str, str]] = []
    for way, line in lines.items():
        colour = _BOLD.get(way) or best.get(way, _OTHERS)
        xs, ys = [point.size for point in line], [point.right.mean for point in line]
        bold = way in _BOLD
        axes.plot(
            xs,
            ys,
            color=colour,
            linewidth=2.5 if bold else 1.6 if way in best else 0.9,
            marker="o" if way not in others else None,
            markersize=4,
            zorder=4 if bold else 3 if way in best else 2,
        )
        if bold:
            low, high = [point.right.low for point in line], [point.right.high for point in line]
            axes.fill_between(xs, low, high, color=colour, alpha=0.12, linewidth=0)
        if way not in others:
            ends.append((ys[-1], way, colour))
    if others:
        ends.append((min(lines[way][-1].right.mean for way in others), f"{len(others)} other merges", "0.5"))
    # From the top down, each label at its line's end or as far below as those before it need.
    at = float("inf")
    for y, way, colour in sorted(ends, key=lambda end: -end[0]):
        at = min(y, at - _APART)
        axes.annotate(
            way,
            (1.0, at),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
            parse_math=False,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(min(-0.02, at - 0.02), 1.02)
    axes.set_xlabel("adapters merged into one, or routed among")
    axes.set_ylabel("exact match on the tasks of all")
    save_figure(drawn, path)


def _height(line: Sequence[Point]) -> float:
    """How well a way does over all sizes of two and more, where merging begins."""
    return fmean([point.right.mean for point in line if point.size > 1] or [line[0].right.mean])
