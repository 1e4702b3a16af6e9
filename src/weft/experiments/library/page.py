"""What `weft experiment library` found, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weft.evaluate.intervals import Interval, bootstrap, interval, task_means
from weft.evaluate.tables import how_made, markdown_table, show_interval
from weft.experiments.library.embeddings import Retrieved
from weft.experiments.library.measure import Measured
from weft.experiments.library.recipe import RoutingRecipe
from weft.experiments.library.requests import QUARTER

ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class WayScores:
    """One way to use the library."""

    name: str
    sees: str
    right: Interval
    loss: Interval
    of_oracle: Interval
    """Exact match over that of the oracle, on the same rows."""
    by_seed: tuple[float, ...]
    accuracy: float | None
    """Share of tasks whose own adapter has the largest weight, where a router decides."""
    entropy: float | None
    """Of the sizes of a request's weights, in nats."""
    dead: int | None
    """Asking tasks' adapters that are no request's first."""
    active: float
    """Adapters that every token passes."""
    total: float
    """Adapters that are kept."""
    time: float
    """Of a forward, in units of the base's."""


def summarise_ways(found: Sequence[Measured], seeds: int) -> list[WayScores]:
    """Means over tasks and rows with paired intervals, and what the weights say."""
    values_VTM = np.stack([one.scores_TMX[..., x] for one in found for x in (0, 1)])
    means_V = task_means(values_VTM).mean(-1)
    draws_SV = bootstrap(values_VTM)
    oracle = 2 * next(v for v, one in enumerate(found) if one.name == ORACLE)
    rows = []
    for v, one in enumerate(found):
        ratio_S = draws_SV[:, 2 * v] / np.maximum(draws_SV[:, oracle], 1e-9)
        parts = np.split(one.scores_TMX[..., 0], seeds, axis=1)
        rows.append(
            WayScores(
                one.name,
                one.sees,
                interval(means_V[2 * v], draws_SV[:, 2 * v]),
                interval(means_V[2 * v + 1], draws_SV[:, 2 * v + 1]),
                interval(means_V[2 * v] / max(means_V[oracle], 1e-9), ratio_S),
                tuple(round(float(part.mean()), 4) for part in parts),
                *_of_weights(one.weight_STK),
                active=one.active,
                total=one.total,
                time=one.time,
            )
        )
    return rows


def _of_weights(weight_STK: np.ndarray | None) -> tuple[float | None, float | None, int | None]:
    if weight_STK is None:
        return None, None, None
    first_ST = weight_STK.argmax(-1)
    tasks = weight_STK.shape[1]
    size_STK = np.abs(weight_STK)  # LoraHub weighs below 0 too
    p_STK = size_STK / np.maximum(size_STK.sum(-1, keepdims=True), 1e-30)
    entropy_ST = -(p_STK * np.log(np.maximum(p_STK, 1e-30))).sum(-1)
    dead = tasks - len(set(first_ST.flatten().tolist()) & set(range(tasks)))
    return float((first_ST == np.arange(tasks)).mean()), float(entropy_ST.mean()), dead


def routing_page(
    recipe: RoutingRecipe,
    ways: Sequence[WayScores],
    retrieved: Sequence[Retrieved],
    *,
    pictures: tuple[str, str],
    command: str,
) -> str:
    """The Markdown page."""
    head = ["way", "sees", "exact match", "of the oracle", "loss", "own adapter first", "entropy", "dead"]
    cells = [[*head, "adapters per token", "in all", "time"]]
    for way in ways:
        cells.append(
            [
                way.name,
                way.sees,
                show_interval(way.right),
                show_interval(way.of_oracle),
                show_interval(way.loss),
                _number(way.accuracy, 3),
                _number(way.entropy, 2),
                _number(way.dead, 0),
                f"{way.active:.3g}",
                f"{way.total:.3g}",
                f"{way.time:.2f}",
            ]
        )
    found = [["embedding", "a request is", "library", "requests", "top 1", "top 3"]]
    for one in retrieved:
        shown = (show_interval(one.top1), show_interval(one.top3))
        found.append([one.embedding, one.request, str(one.size), str(one.requests), *shown])
    by_seed = "\n".join(
        f"- {way.name}: {', '.join(f'{x:.3f}' for x in way.by_seed)}"
        for way in ways
        if len(set(way.by_seed)) > 1
    )
    rows = recipe.rows_per_task * len(recipe.seeds)
    parts = [
        f"# Choosing from a library: {recipe.base}",
        f"{recipe.tasks} tasks ask, {rows} test rows each; the library holds their adapters and "
        f"{recipe.distractors} of other tasks. Every way answers the same rows by greedy decoding. `sees`: "
        "what it decides on. `wording` is an unseen one; the description is in the prompt of ways that say "
        "`described`. Means over tasks with 95 % bootstrap intervals over tasks and rows.",
        f"![exact match of every way]({pictures[0]})",
        markdown_table(cells),
        "- own adapter first: share of tasks whose own adapter has the largest weight.\n"
        "- entropy: of the sizes of a request's weights, in nats. dead: adapters of asking tasks that "
        "are never first.\n"
        "- adapters per token: how many of the library's size every token passes. in all: how many are "
        "kept.\n"
        "- time: of a forward over a prompt of every task, in units of the base's, a median of 5; a busy "
        "machine moves it.",
        *_notes(ways),
        "Exact match by seed:",
        by_seed,
        "## Finding the right adapter",
        "Accuracy among libraries of a size, the right adapter always among them, as a mean over all such "
        "libraries. Ties count against the right one.",
        f"![top-1 accuracy of every embedding]({pictures[1]})",
        markdown_table(found),
        *how_made(recipe, command, f"Seeds {', '.join(map(str, recipe.seeds))} draw wordings and rows. "),
    ]
    return "\n\n".join(parts) + "\n"


def _notes(ways: Sequence[WayScores]) -> list[str]:
    """What the gates' rows need to be read, where it was measured."""
    named = {way.name: way for way in ways}
    base, own, quarter = (named[name] for name in ("base, described", f"{ORACLE}, described", QUARTER))
    if own.loss.mean <= base.loss.mean:
        return []
    return [
        "The adapters were trained without a description in the prompt. With one, the base alone has loss "
        f"{base.loss.mean:.3f}; the task's own adapter makes that {own.loss.mean:.3f} at weight 1 and "
        f"{quarter.loss.mean:.3f} at 1/4. So a gate that learns on such prompts is paid little for finding "
        "the own adapter, and much for keeping every adapter small."
    ]


def _number(value: float | int | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
