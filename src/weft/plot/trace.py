"""A trace as a picture: tokens from left to right, and how much of which adapter acted on each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from weft.plain import plain
from weft.plot.page import figure, save_figure

_WIDE = 2
"""Letters of a token that have room beneath its field."""


def draw_trace(trace: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write the picture of one `trace` of `weft generate --trace-json`: a row per adapter, events as lines.

    The darker a field, the larger the weight, negative ones in red. Raises MissingExtraError without
    matplotlib, SaveError when the disk refuses.
    """
    names = list(dict.fromkeys(one["adapter"] for token in trace for one in token["acting"]))
    drawn, axes = figure(2.0 + 0.19 * max(len(trace), 12), 1.1 + 0.3 * max(len(names), 1))
    for column, token in enumerate(trace):
        for one in token["acting"]:
            weight = float(one["weight"])
            axes.add_patch(_field(column, names.index(one["adapter"]), weight))
        if token["events"]:
            axes.axvline(column + 0.5, color="0.2", linewidth=0.8)
    axes.set_xlim(-0.5, max(len(trace), 1) - 0.5)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.set_xticks(range(len(trace)), [_shown(token) for token in trace], fontsize=7)
    for tick in axes.get_xticklabels():
        if len(tick.get_text()) > _WIDE:
            tick.set_rotation(90)  # beside its neighbours it would lie over them
    axes.set_yticks(range(len(names)), [plain(name) for name in names], fontsize=8)
    axes.grid(visible=False)
    save_figure(drawn, path)


def _field(column: int, row: int, weight: float) -> Any:
    from matplotlib.patches import Rectangle

    colour = "C0" if weight >= 0 else "C3"
    return Rectangle(
        (column - 0.5, row - 0.4), 1, 0.8, color=colour, alpha=min(abs(weight), 1.0), linewidth=0
    )


def _shown(token: Mapping[str, Any]) -> str:
    text = plain(token["token"]).replace("\n", "\\n").replace("$", r"\$")
    return "\u25b2" if token["silent"] else text.strip() or "\u2423"
