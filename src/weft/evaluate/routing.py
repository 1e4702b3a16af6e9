"""Every way to use one library, on the same rows: single adapters, merges, routers, gates, a tree.

A request is a question and an unseen wording of its task. A way may look at the wording or at the prompt, as
its page says. Some adapters of the library are distractors: no request is theirs. The description is in no
prompt, unless a way says so.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt

from weft.config import Config
from weft.embed import EncoderConfig
from weft.engine import Engine, take_rows
from weft.errors import ConfigError
from weft.evaluate.learned_ways import GateTraining, LayerTraining, LoraHub
from weft.evaluate.merging import Method, draw_set
from weft.evaluate.specialists import Specialists, load_specialists, score_rows
from weft.host import Host
from weft.tasks import Row, render_prompt, shuffled
from weft.tasks.source import Source
from weft.types import Mixture

QUARTER = "oracle at 1/4, described"
"""The way that shows what a gate on prompts with a description could gain from the task's own adapter."""


class Single(Config):
    """One adapter that was trained on the rows of many tasks."""

    path: str
    described: bool = False
    """Whether it was trained, and is asked, with the description in the prompt."""


class RoutingRecipe(Config):
    """`weft experiment library RECIPE`."""

    base: str
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    library: str
    """Folder of adapter folders, each named as the task that it was trained for."""
    data: Source = Field(discriminator="kind")
    tasks: PositiveInt = 64
    """How many tasks ask, drawn from those of the library."""
    distractors: int = Field(default=32, ge=0)
    """Adapters beside theirs, of tasks that do not ask."""
    encoders: dict[str, EncoderConfig]
    """Name -> what reads descriptions, for the routers that do."""
    encoder_cache: str = "runs/encoder-cache"
    examples: PositiveInt = 4
    """Solved train rows that a request brings along, for the ways that look at them."""
    gates: GateTraining | None = GateTraining()
    """Training of the gates that learn, in the experiment; none are trained where it is null."""
    lorahub: LoraHub | None = LoraHub()
    """LoraHub's search, for every task and seed; null leaves it out."""
    layers: LayerTraining | None = LayerTraining()
    """Weights per layer, learned for every task and seed; null leaves them out."""
    merges: dict[str, Method] = {}
    """Name -> how the asking tasks' adapters and the distractors become one."""
    singles: dict[str, Single] = {}
    """Name -> one adapter that was trained on many tasks."""
    routers: dict[str, str] = {}
    """Name -> folder of a trained router."""
    trees: dict[str, str] = {}
    """Name -> folder of a tree, trained with the description in the prompt."""
    hypernetworks: dict[str, str] = {}
    """Name -> hypernetwork whose adapters, made from unseen wordings, are requests of retrieval."""
    early: dict[str, str] = {}
    """Name -> adapter folders of the same tasks from another, shorter training: requests of retrieval."""
    sizes: tuple[PositiveInt, ...] = (64, 256)
    """Specialists sizes at which retrieval is measured."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws a wording and rows of its own for every task."""
    rows_per_task: PositiveInt = 8
    max_new_tokens: PositiveInt = 16
    batch_size: PositiveInt = 128
    output: str | None = None
    """The Markdown page; JSON and a picture go beside it."""


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
    weight_TK: Float[torch.Tensor, "T K"] | None = None
    """Of every adapter for each task, where a router decides; adapters 0 to T - 1 are the tasks' own."""
    described: bool = False
    """Whether the known description is in the prompt."""


@dataclass(frozen=True, eq=False)
class Found:
    """What one way got."""

    name: str
    sees: str
    active: float
    total: float
    scores_TMX: Float[np.ndarray, "T M 2"]
    """Exact match and loss, by task and row; the rows of all seeds side by side."""
    weight_STK: Float[np.ndarray, "S T K"] | None
    time: float
    """Of a forward, in units of the base's."""


Ways = Callable[[Requests, int], Sequence[Way]]


def measure_routing(
    recipe: RoutingRecipe, progress: Callable[[str], None] = lambda _: None
) -> tuple[Specialists, list[Found]]:
    """Measure every way, on the same rows; the library comes back with its distractors last.

    Raises ConfigError for more tasks, rows or seeds than there are, and what loading raises.
    """
    from weft.evaluate.ways import prepare_ways

    host = Host.from_pretrained(recipe.base, dtype=recipe.dtype, device=recipe.device)
    whole = load_specialists(recipe.library, recipe.data, host)
    count = recipe.tasks + recipe.distractors
    if count > len(whole):
        raise ConfigError(
            f"{recipe.tasks} tasks and {recipe.distractors} distractors; the library has {len(whole)}"
        )
    chosen = draw_set(len(whole), count, "library")
    asking = draw_set(count, recipe.tasks, "tasks")
    order = [chosen[i] for i in asking] + [chosen[i] for i in range(count) if i not in set(asking)]
    library = whole.take(order)
    build = prepare_ways(recipe, host, library, progress)
    engine = Engine(host)
    found: dict[str, list[tuple[Way, np.ndarray, float]]] = {}
    base = 0.0
    for place, seed in enumerate(recipe.seeds):
        requests = draw_requests(recipe, library, place, seed)
        for way in build(requests, seed):
            progress(f"seed {seed}: {way.name}")
            texts = [text for text in requests.known for _ in range(requests.per_task)]
            scores_NX = score_rows(
                engine,
                requests.rows,
                way.mixture,
                descriptions=texts if way.described else None,
                max_new_tokens=recipe.max_new_tokens,
                batch_size=recipe.batch_size,
            )
            seconds = _seconds(host, requests, way) if place == 0 else 0.0
            base = base or seconds
            found.setdefault(way.name, []).append(
                (way, scores_NX.reshape(recipe.tasks, -1, 2), seconds / base)
            )
    return library, [_gather(ways) for ways in found.values()]


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


def _gather(seeds: Sequence[tuple[Way, np.ndarray, float]]) -> Found:
    ways = [way for way, _, _ in seeds]
    weights = [way.weight_TK for way in ways if way.weight_TK is not None]
    return Found(
        ways[0].name,
        ways[0].sees,
        ways[0].active,
        ways[0].total,
        np.concatenate([scores for _, scores, _ in seeds], axis=1),
        torch.stack(weights).double().numpy() if weights else None,
        seeds[0][2],
    )


@torch.no_grad()
def _seconds(host: Host, requests: Requests, way: Way, *, repeats: int = 5) -> float:
    """Median time of a forward over one prompt of every task, repeated 4 times to be long."""
    prompts = [render_prompt(host.tokenizer, row.question) * 4 for row in requests.rows[:: requests.per_task]]
    length = min(map(len, prompts))
    ids_BT = torch.tensor([ids[:length] for ids in prompts], device=host.device)
    mixture = way.mixture
    if mixture is not None:
        mixture = take_rows(mixture, torch.arange(0, len(requests.rows), requests.per_task))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        host(ids_BT, mixture)
        times.append(time.perf_counter() - start)
    return median(times[1:])
