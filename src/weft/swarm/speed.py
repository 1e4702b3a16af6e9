"""How fast a worker is, measured; and which layers each should take."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from weft.errors import ConfigError
from weft.swarm.load import base_folder, part_dtype, read_config

_REPEATS = 12


@dataclass(frozen=True)
class Speed:
    """What one worker needs and takes: seconds of a layer and of the head, and bytes of weights at most."""

    layer: float
    head: float
    memory: int | None = None


def measure(base: str, dtype: str, device: str) -> dict[str, Any]:
    """Seconds that one token takes in a layer and in the head of a base; random weights of its shapes."""
    config = read_config(base_folder(base))
    vocabulary, config.num_hidden_layers, config.vocab_size = config.vocab_size, 1, 1
    config.pad_token_id = None
    number = part_dtype(base, dtype)
    with torch.device(device), torch.no_grad():
        layer: Any = AutoModelForCausalLM.from_config(config, dtype=number).eval().model
        x_BTH = torch.randn(1, 1, config.hidden_size, dtype=number)
        seconds = _fastest(lambda: layer(inputs_embeds=x_BTH, use_cache=False))
        head_VH = torch.randn(vocabulary, config.hidden_size, dtype=number)
        return {"layer": seconds, "head": _fastest(lambda: F.linear(x_BTH, head_VH))}


def place(
    speeds: Sequence[Speed], layers: int, *, layer: int, first: int, last: int
) -> list[tuple[int, int]]:
    """The layers of every worker, in their order: the slowest stage as fast as memory allows.

    `layer`, `first` and `last` are the bytes of a layer and of what the first and the last stage hold beside
    theirs. Raises ConfigError where the layers do not fit, or are fewer than the workers.
    """
    if layers < len(speeds):
        raise ConfigError(f"{layers} layers cannot lie on {len(speeds)} workers; start fewer")
    best: list[tuple[float, tuple[int, ...]] | None] = [(0.0, ())] + [None] * layers
    for worker, speed in enumerate(speeds):
        is_last = worker == len(speeds) - 1
        extra = first * (worker == 0) + last * is_last
        found: list[tuple[float, tuple[int, ...]] | None] = [None] * (layers + 1)
        for end in range(worker + 1, layers + 1):
            for begin in range(worker, end):
                before = best[begin]
                fits = speed.memory is None or (end - begin) * layer + extra <= speed.memory
                if before is None or not fits:
                    continue
                slowest = max(before[0], (end - begin) * speed.layer + is_last * speed.head)
                if found[end] is None or slowest < found[end][0]:  # pyright: ignore[reportOptionalSubscript]
                    found[end] = (slowest, (*before[1], end))
        best = found
    whole = best[layers]
    if whole is None:
        need = layers * layer + first + last
        room = sum(speed.memory or 0 for speed in speeds)
        raise ConfigError(
            f"the base is {need} bytes of weights, the workers take {room} and their parts have to fit whole "
            "layers; give them more memory, or start more of them"
        )
    ends = [0, *whole[1]]
    return list(itertools.pairwise(ends))


def _fastest(run: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begun)
    return best
