"""How much of a library is kept, against how many adapters a network writes down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.plot.page import figure, save_figure

if TYPE_CHECKING:
    from weft.experiments.reconstruct.measure import Written

_DASHES = {"text": "-", "one-hot": "--"}


def draw_reconstruction(found: Sequence[Written], path: str | os.PathLike[str]) -> None:
    """Write a line for every network and cue: a colour for a network, dashes for names.

    Raises MissingExtraError without matplotlib, SaveError when the disk refuses.
    """
    drawn, axes = figure(6.5, 3.6)
    networks = list(dict.fromkeys(one.network for one in found))
    for network, cue in dict.fromkeys((one.network, one.cue) for one in found):
        line = sorted((one.count, one.kept) for one in found if (one.network, one.cue) == (network, cue))
        axes.plot(
            *zip(*line, strict=True),
            _DASHES[cue],
            marker="o",
            markersize=3,
            color=f"C{networks.index(network) % 10}",
            label=f"{network}, {cue}",
        )
    axes.set_xscale("log", base=2)
    counts = sorted({one.count for one in found})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("adapters")
    axes.set_ylabel("share of the library's score")
    axes.set_ylim(0, 1.08)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(drawn, path)
