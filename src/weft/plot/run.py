"""A training as a picture: what metrics.jsonl holds, one panel for each measure, steps from left to right."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from weft.errors import ConfigError
from weft.plain import plain
from weft.plot.page import figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FIRST = ("loss", "steering", "loss_margin", "margin")
"""Measures that stand first, in this order; then the others by name, and what the optimizer does."""
_LAST = ("learning_rate", "grad_norm")
_COLUMNS = 3
_MANY = 6
"""Above this, lines are grey and only the lowest and highest are named."""

Line = list[tuple[int | float, int | float]]
Logged = Sequence[Mapping[str, int | float]]
"""The lines of a log; each has a `step`."""


def draw_run(logged: Logged, path: str | os.PathLike[str], *, title: str) -> None:
    """Write the panels of a run's log: `test/loss` and `loss` share one, as lines of their own.

    Raises ConfigError for a log without numbers, MissingExtraError without matplotlib, SaveError when the
    disk refuses.
    """
    panels = _panels(logged)
    if not panels:
        raise ConfigError("there is nothing to draw: the log holds no measures yet")
    columns = 2 if len(panels) == 4 else min(_COLUMNS, len(panels))
    steps = [line["step"] for line in logged]
    edge = 0.04 * (max(steps) - min(steps)) or 0.5
    rows = -(-len(panels) // columns)
    drawn, first = figure(4.2 * columns, 3.1 * rows)
    first.remove()
    drawn.suptitle(plain(title), fontsize=10)
    for place, (measure, lines) in enumerate(panels.items(), 1):
        axes = drawn.add_subplot(rows, columns, place)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(plain(measure).replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.margins(y=0.12)
        axes.set_xlim(min(steps) - edge, max(steps) + edge)  # one for all panels
        if place > len(panels) - columns:
            axes.set_xlabel("step", fontsize=8)
        _draw(axes, lines)
    save_figure(drawn, path)


def _draw(axes: Axes, lines: Mapping[str, Line]) -> None:
    many = len(lines) > _MANY
    ends = sorted(lines, key=lambda name: lines[name][-1][1])
    coloured = {ends[0], ends[-1], ""} if many else set(lines)
    colours = iter(range(10))
    for name, points in sorted(lines.items(), key=lambda item: (item[0] in coloured, item[0])):
        xs, ys = zip(*points, strict=True)
        mark = "." if len(points) < 40 else None
        if name not in coloured:
            axes.plot(xs, ys, color="0.8", linewidth=0.8)
            continue
        label = plain(name) or ("mean" if len(lines) > 1 else None)
        axes.plot(xs, ys, marker=mark, linewidth=1.3, color=f"C{next(colours)}", label=label)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=7)


def _panels(logged: Logged) -> dict[str, dict[str, Line]]:
    """Measure -> what is measured -> its (step, value) pairs; values that are no numbers are left out."""
    found: dict[str, dict[str, Line]] = {}
    for line in logged:
        for key, value in line.items():
            if key not in ("step", "seconds") and isinstance(value, int | float) and math.isfinite(value):
                who, _, measure = key.rpartition("/")
                found.setdefault(measure, {}).setdefault(who, []).append((line["step"], value))
    first = [name for name in _FIRST if name in found]
    last = [name for name in _LAST if name in found]
    between = sorted(found.keys() - {*first, *last})
    return {name: found[name] for name in [*first, *between, *last]}
