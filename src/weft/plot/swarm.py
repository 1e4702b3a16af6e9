"""A swarm over time: tokens that were written, and who held each stage; faults as marks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from weft.errors import ConfigError
from weft.plot.page import figure, save_figure


def draw_swarm(events: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write the picture of what a swarm told: a bar per stage and holder, a curve of tokens above them.

    Gaps in a bar are times without a worker; a cross is a worker that was lost. Raises ConfigError where no
    layers were placed, MissingExtraError without matplotlib, SaveError when the disk refuses.
    """
    placed = next((event for event in events if event["event"] == "placed"), None)
    if placed is None:
        raise ConfigError("nothing has happened yet: no layers were placed")
    stages = placed["stages"]
    steps = [event for event in events if event["event"] == "step"]
    begun = min(step["time"] - step["seconds"] for step in steps) if steps else placed["time"]
    ends = steps[-1]["time"] if steps else events[-1]["time"]
    drawn, axes = figure(8.0, 1.6 + 0.45 * (len(stages) + 2))
    for stage, worker, since, until in _spans(events, ends):
        left, right = max(since, begun) - begun, min(until, ends) - begun
        if right > left:
            axes.barh(stage, right - left, left=left, height=0.6, color=f"C{worker % 10}", alpha=0.8)
            axes.text((left + right) / 2, stage, f"worker {worker}", ha="center", va="center", fontsize=7)
    for event in events:
        if event["event"] == "lost" and event.get("stage") is not None and begun <= event["time"] <= ends:
            axes.plot(event["time"] - begun, event["stage"], "x", color="C3", markersize=9, zorder=3)
    labels = [f"layers {first}-{last - 1}" for first, last in stages]
    axes.set_yticks(range(len(stages)), labels, fontsize=8)
    axes.set_ylim(len(stages) - 0.4, -0.6)
    axes.set_xlabel("seconds")
    tokens = axes.twinx()
    written = list(itertools.accumulate(step["rows"] for step in steps))
    tokens.step([step["time"] - begun for step in steps], written, where="post", color="0.2", linewidth=1.2)
    tokens.set_ylabel("tokens written")
    tokens.set_ylim(bottom=0)
    save_figure(drawn, path)


def _spans(events: Sequence[Mapping[str, Any]], ends: float) -> list[tuple[int, int, float, float]]:
    """(stage, worker, since, until) of everyone who held a stage."""
    held: dict[int, tuple[int, float]] = {}
    spans = []
    for event in events:
        if event["event"] == "ready" and event.get("stage") is not None:
            held[event["worker"]] = (event["stage"], event["time"])
        elif event["event"] == "lost" and event["worker"] in held:
            stage, since = held.pop(event["worker"])
            spans.append((stage, event["worker"], since, event["time"]))
    return spans + [(stage, worker, since, ends) for worker, (stage, since) in held.items()]
