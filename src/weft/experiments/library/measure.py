"""Every way to use one library, on the same rows: single adapters, merges, routers, gates, a tree.

A request is a question and an unseen wording of its task. A way may look at the wording or at the prompt, as
its page says. Some adapters of the library are distractors: no request is theirs. The description is in no
prompt, unless a way says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from jaxtyping import Float

from weft.engine import Engine, take_rows
from weft.errors import ConfigError
from weft.evaluate.specialists import Specialists, load_specialists, score_rows
from weft.experiments.library.recipe import RoutingRecipe
from weft.experiments.library.requests import Requests, Way, draw_requests
from weft.experiments.library.ways import prepare_ways
from weft.experiments.merging.measure import draw_set
from weft.host import Host
from weft.tasks import render_prompt


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of one way to use the library."""

    name: str
    sees: str
    active: float
    total: float
    scores_TMX: Float[np.ndarray, "T M 2"]
    """Exact match and loss, by task and row; the rows of all seeds side by side."""
    weight_STK: Float[np.ndarray, "S T K"] | None
    time: float
    """Of a forward, in units of the base's."""


def measure_routing(
    recipe: RoutingRecipe, progress: Callable[[str], None] = lambda _: None
) -> tuple[Specialists, list[Measured]]:
    """Measure every way, on the same rows; the library comes back with its distractors last.

    Raises ConfigError for more tasks, rows or seeds than there are, and what loading raises.
    """
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


def _gather(seeds: Sequence[tuple[Way, np.ndarray, float]]) -> Measured:
    ways = [way for way, _, _ in seeds]
    weights = [way.weight_TK for way in ways if way.weight_TK is not None]
    return Measured(
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
