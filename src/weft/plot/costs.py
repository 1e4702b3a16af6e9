"""Right answers against what making an adapter costs: fixed depths, a unit that stops, and one network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from weft.plot.page import figure, save_figure

if TYPE_CHECKING:
    from weft.experiments.dynamic.table import Line


_SHAPES = ("o", "*", "s", "D", "^")


def draw_costs(
    groups: Mapping[str, Mapping[str, Sequence[tuple[Line, Line]]]],
    path: str | os.PathLike[str],
    *,
    label: str,
) -> None:
    """Write pairs of cost and share, a group in one colour, a way in one shape; those of a way are joined.

    Means, with the interval of 95 % of the share. Raises MissingExtraError without matplotlib, SaveError
    when the disk refuses.
    """
    drawn, axes = figure(7.5, 4.0)
    shape_of = dict(
        zip(dict.fromkeys(way for ways in groups.values() for way in ways), _SHAPES, strict=False)
    )
    for number, (group, ways) in enumerate(groups.items()):
        axes.plot([], [], color=f"C{number}", linewidth=3, label=group)
        for way, points in ways.items():
            axes.errorbar(
                [cost.mean for cost, _ in points],
                [right.mean for _, right in points],
                yerr=[right.half for _, right in points],
                color=f"C{number}",
                marker=shape_of[way],
                markersize=11 if shape_of[way] == "*" else 5,
                linewidth=1.5 if len(points) > 1 else 0,
                elinewidth=0.9,
            )
    for way, shape in shape_of.items():
        axes.plot([], [], color="0.4", marker=shape, linewidth=0, label=way)
    axes.set_xlabel(label)
    axes.set_ylabel("exact match")
    axes.set_xlim(left=0)
    axes.set_ylim(-0.02, 1.0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    save_figure(drawn, path)
