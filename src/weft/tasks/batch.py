"""Encoded rows to padded tensors, and the order in which training meets tasks and rows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from weft.errors import ConfigError, ShapeError
from weft.files import nearest
from weft.rows import AbstractHost
from weft.tasks.chat import Encoded
from weft.tasks.task import Row, Task
from weft.types import IGNORE

T = TypeVar("T")


class Batch(NamedTuple):
    """Padded rows, ready for a causal language model."""

    ids_BT: Int[Tensor, "B T"]
    mask_BT: Int[Tensor, "B T"]
    """1 on tokens, 0 on padding."""
    labels_BT: Int[Tensor, "B T"]
    """The ids of the completions, and IGNORE elsewhere. Not shifted: Hugging Face models do that."""


def pad_id(host: AbstractHost) -> int:
    """The token that fills lines; since it is masked, any does where the tokenizer's is none of the base's.

    A pad token is often put into a tokenizer alone, one past the last row of the embeddings.
    """
    found = host.tokenizer.pad_token_id
    return found if found is not None and 0 <= found < host.vocab_size else 0


def collate(encoded: Sequence[Encoded], *, pad_id: int, side: Literal["left", "right"] = "right") -> Batch:
    """Pad rows to the longest one. Raises ShapeError when there are none."""
    if not encoded:
        raise ShapeError("a batch needs at least one row, got none")
    shape = (len(encoded), max(len(row.ids) for row in encoded))
    ids = torch.full(shape, pad_id, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE, dtype=torch.long)
    for i, row in enumerate(encoded):
        start = 0 if side == "right" else shape[1] - len(row.ids)
        middle, end = start + len(row.prompt_ids), start + len(row.ids)
        ids[i, start:end] = torch.tensor(row.ids, dtype=torch.long)
        mask[i, start:end] = 1
        labels[i, middle:end] = ids[i, middle:end]
    return Batch(ids, mask, labels)


class Draw(NamedTuple):
    """One task's share of a training step."""

    task_index: int
    """Where the task stands in the sampler's tasks."""
    task: Task
    description: str
    rows: tuple[Row, ...]


class TaskSampler:
    """Which tasks, wordings and rows each training step sees: a function of (seed, step) alone.

    Tasks come in shuffled rounds and every task is met equally often; a batch may reach into the next round.
    The rows of a task come in shuffled rounds of their own, and each visit draws one of its descriptions.
    Since nothing is kept between steps, a resumed run continues exactly where it stopped.

    Raises ConfigError for no tasks, two of one name, a task without train rows, or a size below 1.
    """

    def __init__(self, tasks: Sequence[Task], *, tasks_per_batch: int, rows_per_task: int, seed: int) -> None:
        if not tasks:
            raise ConfigError("there are no tasks to draw from")
        if tasks_per_batch < 1 or rows_per_task < 1:
            raise ConfigError(
                f"a batch needs 1 task and 1 row or more, got {tasks_per_batch} and {rows_per_task}"
            )
        names: set[str] = set()
        for task in tasks:
            if task.name in names:
                raise ConfigError(f"two tasks are called {task.name}; rename one")
            if not task.train:
                raise ConfigError(f"task {task.name} has no train rows to draw from")
            names.add(task.name)
        self.tasks = tuple(tasks)
        self.tasks_per_batch = tasks_per_batch
        self.rows_per_task = rows_per_task
        self.seed = seed

    def draw(self, step: int) -> tuple[Draw, ...]:
        """The tasks of one step, in order, each with a description and rows. `step` counts from 0."""
        places = range(step * self.tasks_per_batch, (step + 1) * self.tasks_per_batch)
        order = _in_rounds(places, len(self.tasks), f"{self.seed}/tasks")
        return tuple(
            self._visit(index, place // len(self.tasks)) for place, index in zip(places, order, strict=True)
        )

    def _visit(self, index: int, visit: int) -> Draw:
        task = self.tasks[index]
        key = f"{self.seed}/{task.name}"
        chance = random.Random(f"{key}/description/{visit}").random()
        places = range(visit * self.rows_per_task, (visit + 1) * self.rows_per_task)
        rows = (task.train[i] for i in _in_rounds(places, len(task.train), f"{key}/rows"))
        return Draw(index, task, task.descriptions[int(chance * len(task.descriptions))], tuple(rows))


def draw_rows(rows: Sequence[Encoded], count: int, step: int, key: str) -> list[Encoded]:
    """Rows of one step, counted from 0: every row is met once before one is met again."""
    count = min(count, len(rows))
    return [rows[i] for i in _in_rounds(range(step * count, (step + 1) * count), len(rows), key)]


def _in_rounds(places: range, size: int, key: str) -> list[int]:
    """Items at these places of an endless sequence that shuffles `size` items anew in every round."""
    rounds = {number: shuffled(size, f"{key}/{number}") for number in {place // size for place in places}}
    return [rounds[place // size][place % size] for place in places]


def shuffled(size: int, key: str) -> list[int]:
    """A permutation that depends on the key alone.

    Python promises `random()` for a given seed in every version, but not `shuffle`.
    """
    chance = random.Random(key)
    return sorted(range(size), key=lambda _: chance.random())


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most so many of some items, evenly spread over them: a source may begin with its simplest ones."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def samplers_by_category(
    tasks: Sequence[Task], shares: Mapping[str, int], *, tasks_per_batch: int, rows_per_task: int, seed: int
) -> list[TaskSampler]:
    """One sampler per category with its number of tasks per step; without shares one for all tasks.

    Raises ConfigError for a category that no task has.
    """
    if not shares:
        return [TaskSampler(tasks, tasks_per_batch=tasks_per_batch, rows_per_task=rows_per_task, seed=seed)]
    known = {task.category for task in tasks}
    for category in shares:
        if category not in known:
            raise ConfigError(f"no task has the category {category!r}{nearest(category, known)}")
    return [
        TaskSampler(
            [task for task in tasks if task.category == category],
            tasks_per_batch=count,
            rows_per_task=rows_per_task,
            seed=seed,
        )
        for category, count in shares.items()
    ]
