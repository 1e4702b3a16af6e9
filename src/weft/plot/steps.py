"""Held-out loss against steps of training, from two starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from weft.plot.page import figure, save_figure

if TYPE_CHECKING:
    from weft.experiments.zero_shot.steps import Curve

_STARTS = {"zero": ("tab:gray", "from zero"), "generated": ("tab:red", "from the generated adapter")}


def draw_steps(curves: Sequence[Curve], path: str | os.PathLike[str]) -> None:
    """Write a thin line for every function and a thick one for their median, by start.

    Raises MissingExtraError without matplotlib, SaveError when the disk refuses.
    """
    drawn, axes = figure(6.5, 3.6)
    for start, (colour, name) in _STARTS.items():
        lines = [getattr(curve, start) for curve in curves]
        for line in lines:
            axes.plot(curves[0].at, line, color=colour, alpha=0.3, linewidth=0.7)
        middle = [median(column) for column in zip(*lines, strict=True)]
        axes.plot(curves[0].at, middle, color=colour, linewidth=2, label=name)
    axes.set_xlabel("steps")
    axes.set_ylabel("held-out loss, nats per token")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    save_figure(drawn, path)
