"""The requests of an experiment on a library, and the ways to answer them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError
from weft.evaluate.specialists import Specialists
from weft.experiments.library.recipe import RoutingRecipe
from weft.tasks import Row, shuffled
from weft.types import Mixture

QUARTER = "oracle at 1/4, described"
"""The way that shows what a gate on prompts with a description could gain from the task's own adapter."""


@dataclass(frozen=True, eq=False)
class Requests:
    """N questions of T tasks, `rows_per_task` of each in a row."""

    rows: tuple[Row, ...]
    wordings: tuple[str, ...]
    """By task: one that no training saw."""
    known: tuple[str, ...]
    """By task: one that trainings saw; what stands in the prompt of the ways that put one there."""
    per_task: int


@dataclass(frozen=True, eq=False)
class Way:
    """One way to answer the requests of one seed."""

    name: str
    sees: Literal["nothing", "wording", "examples", "prompt", "prompt with description", "the task"]
    """What it decides on."""
    mixture: Mixture | None
    """A row for every request, or one for all; None is the base."""
    active: float
    """Adapters, of the library's rank, that every token passes."""
    total: float
    """Adapters, of the library's rank, that are kept."""
    weight_TK: Float[Tensor, "T K"] | None = None
    """Of every adapter for each task, where a router decides; adapters 0 to T - 1 are the tasks' own."""
    described: bool = False
    """Whether the known description is in the prompt."""


Ways = Callable[[Requests, int], Sequence[Way]]


def draw_requests(recipe: RoutingRecipe, library: Specialists, place: int, seed: int) -> Requests:
    """The requests of one seed: different seeds ask different rows. Raises ConfigError for too few rows."""
    rows: list[Row] = []
    wordings, known = [], []
    each = recipe.rows_per_task
    for task in library.tasks[: recipe.tasks]:
        if len(task.test) < each * len(recipe.seeds):
            raise ConfigError(
                f"task {task.name} has {len(task.test)} test rows, not {len(recipe.seeds)} times {each}"
            )
        order = shuffled(len(task.test), f"rows/{task.name}")
        rows += [task.test[i] for i in order[place * each : (place + 1) * each]]
        chance = random.Random(f"{seed}/{task.name}")
        unseen = task.unseen_descriptions or task.descriptions
        wordings.append(unseen[int(chance.random() * len(unseen))])
        known.append(task.descriptions[int(chance.random() * len(task.descriptions))])
    return Requests(tuple(rows), tuple(wordings), tuple(known), each)
