"""The descriptions that one seed puts beside each task: right, unseen, another task's, meaningless."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from weft.tasks import Task, gibberish, shuffled

_ALIKE = 0.5
"""Two tasks are alike when they share this much of all their answers."""


@dataclass(frozen=True, slots=True)
class Wordings:
    """One entry per task, in the tasks' order."""

    seen: tuple[str, ...]
    unseen: tuple[str | None, ...]
    """None for a task that keeps no wording for evaluation."""
    gibberish: tuple[str, ...]
    other: tuple[int, ...] | None
    """The task whose description stands in; None when there is but one task."""


def draw_wordings(tasks: Sequence[Task], seed: int) -> Wordings:
    """Draw a wording of each kind for every task; the same seed and tasks give the same ones."""
    seen = tuple(_pick(task.descriptions, f"{seed}/seen/{task.name}") for task in tasks)
    return Wordings(
        seen=seen,
        unseen=tuple(
            _pick(task.unseen_descriptions, f"{seed}/unseen/{task.name}")
            if task.unseen_descriptions
            else None
            for task in tasks
        ),
        gibberish=tuple(
            gibberish(text, f"{seed}/gibberish/{task.name}") for task, text in zip(tasks, seen, strict=True)
        ),
        other=derangement(tasks, seed) if len(tasks) > 1 else None,
    )


def derangement(tasks: Sequence[Task], seed: int) -> tuple[int, ...]:
    """Another task for every task, each used once: of two tasks or more, none is given to itself.

    A round through the tasks in random order, improved by swaps: where possible the other task has neither
    a description in common nor much the same answers (the same labels, say), so that its description is
    wrong for these rows. What has a picture is told apart by its answers alone.
    """
    assert len(tasks) > 1
    order = shuffled(len(tasks), f"{seed}/derangement")
    other = dict(zip(order, [*order[1:], order[0]], strict=True))
    answers = [{answer for row in task.test for answer in row.answers} for task in tasks]
    texts = [set() if task.image else {*task.descriptions, *task.unseen_descriptions} for task in tasks]

    def alike(i: int, j: int) -> bool:
        shared = len(answers[i] & answers[j])
        return i == j or bool(texts[i] & texts[j]) or shared >= _ALIKE * max(1, len(answers[i] | answers[j]))

    for i in order:
        if alike(i, other[i]):
            swap = next((j for j in order if not (alike(i, other[j]) or alike(j, other[i]))), i)
            other[i], other[swap] = other[swap], other[i]
    return tuple(other[i] for i in range(len(tasks)))


def _pick(texts: Sequence[str], key: str) -> str:
    return texts[int(random.Random(key).random() * len(texts))]
