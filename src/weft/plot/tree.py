"""Trees beside what they compete with: perplexity against four costs, a row of panels per corpus."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from weft.plot.page import figure, save_figure

if TYPE_CHECKING:
    from weft.train.tree_compare import Outcome

_COSTS = (
    ("active", "active parameters per token"),
    ("total", "parameters learned"),
    ("flops", "training FLOPs"),
    ("seconds", "training time, s"),
)
_MARKS = {"lora": "o", "wide lora": "s", "smear": "^", "top-1": "D"}


def draw_trees(outcomes: Sequence[Outcome], path: str | os.PathLike[str]) -> None:
    """Write the panels; contestants are means over seeds, trees a line by depth.

    Raises MissingExtraError without matplotlib, SaveError when the disk refuses.
    """
    corpora = list(dict.fromkeys(outcome.corpus for outcome in outcomes))
    drawn, first = figure(13.0, 3.4 * len(corpora))
    first.remove()
    for row, corpus in enumerate(corpora):
        mine = [outcome for outcome in outcomes if outcome.corpus == corpus]
        kinds = {outcome.name: outcome.kind for outcome in mine}
        for column, (cost, label) in enumerate(_COSTS):
            axes = drawn.add_subplot(len(corpora), len(_COSTS), row * len(_COSTS) + column + 1)

            def mean(name: str, value: str, mine: Sequence[Outcome] = mine) -> float:
                return fmean(getattr(outcome, value) for outcome in mine if outcome.name == name)

            trees = [name for name, kind in kinds.items() if kind == "tree"]
            xs = [mean(name, cost) for name in trees]
            ys = [math.exp(mean(name, "loss")) for name in trees]
            axes.plot(xs, ys, "*-", color="black", label="tree, depth on the point")
            for name, x, y in zip(trees, xs, ys, strict=True):
                axes.annotate(name.rpartition(" ")[2], (x, y), xytext=(4, 4), textcoords="offset points")
            for place, (name, kind) in enumerate(kinds.items()):
                if kind != "tree":
                    y = math.exp(mean(name, "loss"))
                    axes.plot(mean(name, cost), y, _MARKS[kind], color=f"C{place % 10}", label=name)
            axes.set_xscale("log")
            axes.tick_params(axis="x", which="minor", labelbottom=False)
            axes.set_xlabel(label)
            if column == 0:
                axes.set_ylabel(f"{corpus}: perplexity")
                axes.legend(fontsize=7, frameon=False)
    save_figure(drawn, path)
