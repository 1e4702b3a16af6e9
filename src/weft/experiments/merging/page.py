"""What `weft experiment merging` found: how answers degrade with the number of adapters, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from weft.evaluate.intervals import Interval, bootstrap, interval, p_value, task_means
from weft.evaluate.tables import how_made, markdown_table, show_interval
from weft.experiments.merging.measure import BASE, OWN, SetScores
from weft.experiments.merging.recipe import MergingRecipe

AVERAGE = "linear"
"""What the other methods are compared with: the plain average of deltas."""

_KEPT = 0.9
_PROMPTS = {
    False: "No description is in any prompt: the same question has another answer in every task.",
    True: "Every prompt holds the description of its task, so that one model can tell the tasks apart.",
}
_COMPARED = (2, 4)


@dataclass(frozen=True, slots=True)
class Point:
    """One way to answer at one size."""

    way: str
    size: int
    sets: int
    right: Interval
    """Exact match."""
    loss: Interval
    """Nats per answer token."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A method minus the plain average, on the same sets."""

    way: str
    size: int
    sets: int
    right: Interval
    loss: Interval
    p: float
    """Two-sided, that the difference in loss is 0."""


def points(scores: Sequence[SetScores]) -> list[Point]:
    """Mean and interval of every way at every size, over sets and the tasks in them."""
    return [
        Point(way, size, len(right_NM), _mean(right_NM), _mean(loss_NM))
        for way, size in _keys(scores)
        for right_NM, loss_NM in [_values(scores, way, size)]
    ]


def differences(scores: Sequence[SetScores]) -> list[Difference]:
    """Every way minus the plain average at two sizes, paired by set and task."""
    found = []
    for way, size in _keys(scores):
        if size in _COMPARED and way not in (AVERAGE, BASE) and (AVERAGE, size) in _keys(scores):
            here, there = _values(scores, way, size), _values(scores, AVERAGE, size)
            right_NM, loss_NM = (one - other for one, other in zip(here, there, strict=True))
            p = p_value(bootstrap(loss_NM[None])[:, 0])
            found.append(Difference(way, size, len(right_NM), _mean(right_NM), _mean(loss_NM), p))
    return found


def carried(found: Sequence[Point]) -> dict[str, int]:
    """Way -> the largest size up to which it keeps 0.9 of what the tasks' own adapters get; 0 for none."""
    own = {point.size: point.right.mean for point in found if point.way == OWN}
    most: dict[str, int] = {}
    for way in dict.fromkeys(point.way for point in found):
        most[way] = 0
        for point in sorted((p for p in found if p.way == way), key=lambda p: p.size):
            if point.right.mean < _KEPT * own[point.size]:
                break
            most[way] = point.size
    return most


def merging_page(recipe: MergingRecipe, scores: Sequence[SetScores], *, picture: str, command: str) -> str:
    """The Markdown page."""
    found = points(scores)
    kept = carried(found)
    sizes = sorted({point.size for point in found})
    cells = {(point.way, point.size): point for point in found}
    ways = list(dict.fromkeys(point.way for point in found))

    def table(metric: str) -> str:
        head = ["", *(str(size) for size in sizes)] + (["carries"] if metric == "right" else [])
        rows = []
        for way in ways:
            shown = [
                show_interval(getattr(cells[way, size], metric)) if (way, size) in cells else ""
                for size in sizes
            ]
            rows.append([way, *shown, *([str(kept[way])] if metric == "right" else [])])
        return markdown_table([head, *rows])

    compared = [["method - average", "adapters", "sets", "exact match", "loss", "p (loss)"]]
    compared += [
        [
            d.way,
            str(d.size),
            str(d.sets),
            show_interval(d.right, sign=True),
            show_interval(d.loss, sign=True),
            f"{d.p:.4f}",
        ]
        for d in differences(scores)
    ]
    how_many = ", ".join(f"{n} of {size}" for size, n in sorted(recipe.sets.items()))
    about = f"Sets: {how_many}. {recipe.rows_per_task} rows of each task. Seed {recipe.seed}. "
    parts = [
        f"# How many adapters a merge carries: {recipe.base}",
        "Random sets of a library are merged into one adapter, which answers test rows of all of them. "
        "Beside the merges: the base, each task's own adapter, and the adapter of the set that is nearest to "
        f"an unseen wording (`routed`). {_PROMPTS[recipe.described]} Means over sets and tasks with 95 % "
        "bootstrap intervals over both.",
        f"![exact match against the number of adapters]({picture})",
        "## Exact match, by the number of adapters",
        f"`carries`: the most adapters with which a way keeps {_KEPT} of what the tasks' own adapters get.",
        table("right"),
        "## Loss, nats per answer token",
        table("loss"),
        "## Against the plain average",
        "Paired: the same sets and rows. Less loss is better.",
        markdown_table(compared),
        *how_made(recipe, command, about),
    ]
    return "\n\n".join(parts) + "\n"


def _keys(scores: Sequence[SetScores]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((one.way, one.size) for one in scores))


def _values(
    scores: Sequence[SetScores], way: str, size: int
) -> tuple[Float[np.ndarray, "N M"], Float[np.ndarray, "N M"]]:
    """Exact match and loss, by set and task."""
    chosen = sorted((one for one in scores if (one.way, one.size) == (way, size)), key=lambda one: one.draw)
    return np.array([one.right for one in chosen]), np.array([one.loss for one in chosen])


def _mean(values_NM: Float[np.ndarray, "N M"]) -> Interval:
    return interval(float(task_means(values_NM[None]).mean()), bootstrap(values_NM[None])[:, 0])
