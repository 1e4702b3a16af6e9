"""What a tree is trained and measured on: rows of tasks, and rows of plain text."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from weft.errors import ConfigError
from weft.rows import AbstractHost
from weft.tasks import Encoded, Task, TaskSampler, row_encoder
from weft.tasks.chat import encode_longest
from weft.tasks.source import load_split, load_texts
from weft.train.tree.recipe import TreeRecipe

_HELD_OUT = 20
"""Of so many stretches of plain text the last is kept for evaluation, so that every source is measured."""
_STRETCH = 8
"""Rows of text that a stretch holds."""

Groups = list[list[Encoded]]


def choose_tasks(recipe: TreeRecipe) -> list[Task]:
    """The tasks of a recipe. Raises UnknownNameError for the split, ConfigError for more than it has."""
    return list(load_split(recipe.data, recipe.split, recipe.tasks))


def tree_rows(
    recipe: TreeRecipe, host: AbstractHost, tasks: Sequence[Task]
) -> tuple[Callable[[int], Groups], Groups]:
    """The groups of rows of a step, by its number, and those to measure on.

    Rows of a group share lines; a tree per sequence decides once per line, so there each row is a group.
    Raises ConfigError for too little text, or no row to measure on.
    """
    longest = recipe.max_length or host.window or sys.maxsize
    stretches_SL = _text(recipe, host, longest) if recipe.text_rows else torch.zeros(0, 0, dtype=torch.long)
    is_held_S = torch.arange(len(stretches_SL)) % _HELD_OUT == _HELD_OUT - 1
    seen_SL, held_SL = stretches_SL[~is_held_S], stretches_SL[is_held_S]
    sampler = None
    if recipe.tasks_per_batch:
        sampler = TaskSampler(
            tasks,
            tasks_per_batch=recipe.tasks_per_batch,
            rows_per_task=recipe.rows_per_task,
            seed=recipe.run.seed,
        )

    encode = row_encoder(host.tokenizer, describe=recipe.describe, max_length=longest)
    encode_longest(encode, tasks if sampler else ())

    def cut(stretch_L: Tensor, start: int) -> Encoded:
        ids = stretch_L[start : start + recipe.text_length].tolist()
        return Encoded(ids[: recipe.text_prompt], ids[recipe.text_prompt :])

    def grouped(groups: Groups) -> Groups:
        return alone(groups) if recipe.scope == "sequence" else groups

    def draw_groups(draw: int) -> Groups:
        groups = [
            [encode(row, v.description) for row in v.rows] for v in (sampler.draw(draw) if sampler else ())
        ]
        chance = random.Random(f"{recipe.run.seed}/{draw}/text")
        for _ in range(recipe.text_rows):
            stretch_L = seen_SL[chance.randrange(len(seen_SL))]
            groups.append([cut(stretch_L, chance.randrange(len(stretch_L) - recipe.text_length + 1))])
        return grouped(groups)

    # Spread evenly: a source may begin with its simplest tasks.
    apart = -(-len(tasks) // recipe.eval_tasks)
    measured = tasks[::apart] if sampler else ()
    test = [[encode(row, task.descriptions[0]) for row in task.test[: recipe.eval_rows]] for task in measured]
    if recipe.text_rows:
        most = 16 * recipe.eval_rows
        cuts = held_SL.reshape(-1, recipe.text_length)
        apart = -(-len(cuts) // most)
        test += [[cut(row_L, 0)] for row_L in cuts[::apart]]
    test = [group for group in test if group]
    if not test:
        raise ConfigError("there is no row to measure on; the tasks have no test rows")
    return draw_groups, grouped(test)


def alone(groups: Groups) -> Groups:
    """Every row a group of its own."""
    return [[row] for group in groups for row in group]


def _text(recipe: TreeRecipe, host: AbstractHost, longest: int) -> Tensor:
    """The plain texts of the source as token ids, each with its end, in stretches [S, L]."""
    if recipe.text_length > longest:
        raise ConfigError(f"text_length is {recipe.text_length}, the base reads at most {longest} tokens")
    ids: list[int] = []
    for text in load_texts(recipe.data):
        ids += [*host.tokenizer.encode(text, add_special_tokens=False), host.tokenizer.eos_token_id]
        if recipe.text_tokens is not None and len(ids) >= recipe.text_tokens:
            break
    length = _STRETCH * recipe.text_length
    if len(ids) < length * _HELD_OUT:
        raise ConfigError(
            f"the plain text has {len(ids)} tokens, rows of {recipe.text_length} need "
            f"{length * _HELD_OUT}; give data.texts more, or set text_rows to 0"
        )
    stretches = len(ids) // length
    return torch.tensor(ids[: stretches * length]).view(stretches, length)
