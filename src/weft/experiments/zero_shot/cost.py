"""Seconds and FLOPs: an adapter from a description, a decode step, and examples in the prompt instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from weft.errors import ConfigError
from weft.experiments.zero_shot.recipe import Cost
from weft.host import Host
from weft.hyper import HyperNetwork
from weft.rows import AbstractHost, Share
from weft.tasks import Row, Task, render
from weft.types import Description, Mixture


@torch.no_grad()
def measure_cost(host: Host, hyper: HyperNetwork, tasks: Sequence[Task], cost: Cost) -> dict[str, Any]:
    """Medians in seconds, and mean FLOPs, by what was done. Raises ConfigError for too few rows."""
    texts = [text for task in tasks for text in task.descriptions]
    cues = [Description(texts[i % len(texts)]) for i in range(cost.adapters)]
    e_KD = hyper.encode(cues)
    adapter = hyper.adapt(cues[0])
    seconds = {
        "encode one description": _median(lambda: hyper.encode(cues[:1]), cost.repeats),
        "one adapter, description encoded": _median(lambda: hyper.generate(e_KD[:1]), cost.repeats),
        f"{cost.adapters} adapters, descriptions encoded": _median(
            lambda: hyper.generate(e_KD), cost.repeats
        ),
        "one decode step of the base, batch 1": _step(host, Share(), cost),
        "one decode step under an adapter, batch 1": _step(host, Share.of(adapter), cost),
    }
    flops: dict[str, float] = {
        "encode one description": _flops(lambda: hyper.encode(cues[:1])),
        "one adapter, description encoded": _flops(lambda: hyper.generate(e_KD[:1])),
    }
    chosen = tasks[: cost.tasks]
    bank = hyper.generate(cues[:1])
    flops["one answer under an adapter"] = _answers(host, Mixture.rows(bank, [0]), chosen, 0)
    for shots in cost.shots:
        flops[f"one answer, {shots} examples in the prompt"] = _answers(host, None, chosen, shots)
    return {"seconds": seconds, "flops": flops, "threads": torch.get_num_threads()}


def with_examples(task: Task, shots: int) -> Row:
    """The first test row, with train rows as turns of a chat before it. Raises ConfigError for too few."""
    if len(task.train) < shots or not task.test:
        raise ConfigError(f"task {task.name} has {len(task.train)} train rows, {shots} are asked for")
    turns = [
        turn for row in task.train[:shots] for turn in (("user", row.prompt), ("assistant", row.completion))
    ]
    return replace(task.test[0], history=tuple(turns))


def _answers(host: Host, mixture: Mixture | None, tasks: Sequence[Task], shots: int) -> float:
    """FLOPs of reading a prompt and writing its answer, each token read once."""
    found = []
    for task in tasks:
        ids = render(host.tokenizer, with_examples(task, shots)).ids
        ids_BT = torch.tensor([ids], device=host.device)
        found.append(_flops(lambda ids_BT=ids_BT: host(ids_BT, mixture)))
    return fmean(found)


def _flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _median(call: Callable[[], Any], repeats: int) -> float:
    call()  # the first one fills caches
    return median(_seconds(call) for _ in range(repeats))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _step(host: AbstractHost, share: Share, cost: Cost) -> float:
    cache = host.new_cache()
    host.hold(share)
    try:
        host.step(torch.arange(1, cost.prompt + 1, device=host.device)[None], cache, [share])
        token_BT = torch.ones(1, 1, dtype=torch.long, device=host.device)
        return _median(lambda: host.step(token_BT, cache, [share]), cost.repeats)
    finally:
        host.release(share)


def ratios(found: Mapping[str, Any], adapters: int) -> dict[str, float]:
    """What the goals speak of: an adapter in decode steps, and many adapters in one."""
    seconds = found["seconds"]
    one = seconds["one adapter, description encoded"]
    return {
        "one adapter, in decode steps": one / seconds["one decode step of the base, batch 1"],
        f"{adapters} adapters, in one": seconds[f"{adapters} adapters, descriptions encoded"] / one,
    }
