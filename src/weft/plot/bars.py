"""Bars with intervals, side by side: one for each name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from weft.evaluate.intervals import Interval
from weft.plot.page import figure, save_figure


class Bar(NamedTuple):
    """A mean with its interval, and the group that gives it a colour."""

    name: str
    value: Interval
    group: str


def draw_bars(bars: Sequence[Bar], path: str | os.PathLike[str], *, label: str, limit: float = 1.0) -> None:
    """Write horizontal bars, the first on top; a group has one colour and one entry in the legend.

    Raises MissingExtraError without matplotlib, SaveError when the disk refuses.
    """
    drawn, axes = figure(9.0, 1.2 + 0.24 * len(bars))
    groups = list(dict.fromkeys(bar.group for bar in bars))
    for place, bar in enumerate(bars):
        mean, low, high = bar.value.mean, bar.value.low, bar.value.high
        axes.barh(
            place,
            mean,
            color=f"C{groups.index(bar.group) % 10}",
            xerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]],
            error_kw={"linewidth": 0.9, "ecolor": "0.25"},
            label=bar.group if bar.group not in [other.group for other in bars[:place]] else None,
        )
        axes.text(min(max(high, 0.0), limit) + 0.01 * limit, place, f"{mean:.2f}", va="center", fontsize=7)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars], fontsize=8)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(min(0.0, *(bar.value.low for bar in bars)), limit * 1.08)
    axes.set_xlabel(label)
    axes.grid(visible=False, axis="y")
    if len(groups) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    save_figure(drawn, path)
