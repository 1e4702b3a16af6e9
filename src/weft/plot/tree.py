"""Trees beside what they compete with: perplexity against four costs, a row of panels per corpus."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from weft.plot.page import figure, save_figure

if TYPE_CHECKING:
    from weft.experiments.tree.measure import Outcome

_COSTS: tuple[tuple[str, Callable[[Outcome], float]], ...] = (
    ("parameters per token, with the base", lambda outcome: outcome.base + outcome.active),
    ("parameters learned", lambda outcome: outcome.total),
    ("training FLOPs", lambda outcome: outcome.flops),
    ("training time, s", lambda outcome: outcome.seconds),
)
_MARKS = {
    "lora": ("o", "tab:blue"),
    "wide lora": ("s", "tab:orange"),
    "smear": ("^", "tab:green"),
    "top-1": ("D", "tab:red"),
    "larger": ("P", "tab:purple"),
}
"""Mark and colour of every kind, the same on every page."""


_DEPTH: dict[str, Any] = {
    "ha": "center",
    "va": "center",
    "fontsize": 7,
    "bbox": {
        "boxstyle": "circle,pad=0.2",
        "facecolor": (1.0, 1.0, 1.0, 0.65),
        "edgecolor": "black",
        "linewidth": 0.8,
    },
}
"""A digit in the place of its point: lines are faint behind it, and so is a mark that it would hide."""


def draw_trees(outcomes: Sequence[Outcome], path: str | os.PathLike[str]) -> None:
    """Write the panels; contestants are means over seeds, trees a line by depth.

    Raises MissingExtraError without matplotlib, SaveError when the disk refuses.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

    corpora = list(dict.fromkeys(outcome.corpus for outcome in outcomes))
    drawn, first = figure(13.0, 3.4 * len(corpora))
    first.remove()
    for row, corpus in enumerate(corpora):
        mine = [outcome for outcome in outcomes if outcome.corpus == corpus]
        kinds = {outcome.name: outcome.kind for outcome in mine}
        for column, (label, cost) in enumerate(_COSTS):
            axes = drawn.add_subplot(len(corpora), len(_COSTS), row * len(_COSTS) + column + 1)

            def point(
                name: str, cost: Callable[[Outcome], float] = cost, mine: Sequence[Outcome] = mine
            ) -> tuple[float, float]:
                seeds = [outcome for outcome in mine if outcome.name == name]
                return fmean(map(cost, seeds)), math.exp(fmean(outcome.loss for outcome in seeds))

            trees = [name for name, kind in kinds.items() if kind == "tree"]
            xs, ys = zip(*map(point, trees), strict=True)
            line = "-" if column else "*-"  # where digits stand, they are the points
            axes.plot(xs, ys, line, color="black", label="tree, depth on the point")
            if column:  # in the first panel they lie on one another
                for name, x, y in zip(trees, xs, ys, strict=True):
                    axes.text(x, y, name.rpartition(" ")[2], **_DEPTH)
            for name, kind in kinds.items():
                if kind == "tree":
                    continue
                mark, colour = _MARKS[kind]
                axes.plot(*point(name), mark, color=colour, label=name)
                if column == 0 and kind in ("lora", "larger"):
                    alone = next(outcome for outcome in mine if outcome.name == name)
                    said = name.partition(" on ")[2] or "base"
                    x, y = alone.base, math.exp(alone.base_loss)
                    axes.plot(x, y, mark, color=colour, fillstyle="none", label=said)
            axes.margins(0.12)  # room for the digits at the points
            low, high = axes.get_xlim()
            if low > 0 and high < 2 * low:
                axes.xaxis.set_major_locator(MaxNLocator(4))
            else:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.tick_params(axis="x", which="minor", labelbottom=False)
            axes.set_xlabel(label)
            if column == 0:
                axes.set_ylabel(f"{corpus}: perplexity")
                axes.legend(fontsize=7, frameon=False)
    save_figure(drawn, path)
