"""SmolLM2 over three worker processes against one process: cost of a hop, and of a worker that dies or hangs.

One row, greedy, one thread a process; the same tokens are written everywhere, and compared. One process and
the workers take turns; the workers listen on the loopback address. WEFT_BENCH_BASE names another base.
"""

from __future__ import annotations

import io
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch

from weft.cli.swarm.down import down
from weft.cli.swarm.up import up
from weft.engine import Loop, Sampling
from weft.host import Host
from weft.rows import Request, Share
from weft.swarm import SwarmHost, open_swarm
from weft.swarm.codec import CODECS
from weft.swarm.folder import SwarmFolder

BASE = os.environ.get("WEFT_BENCH_BASE", "weft/smollm2")
TOKENS = int(os.environ.get("WEFT_BENCH_TOKENS", "64"))
STAGES = 3
TURNS = 4
PROMPT = tuple(range(100, 132))


def run() -> list[dict[str, Any]]:
    """Every measurement as a row: what, measured, goal."""
    torch.set_num_threads(1)
    local = Host.from_pretrained(BASE)
    want, _ = write(local)  # warm
    with swarm() as folder:
        host = open_swarm(folder.name)
        write(host)
        alone, spread = [], []
        for _ in range(TURNS):
            for writer, seconds in ((local, alone), (host, spread)):
                said, taken = write(writer)
                assert said == want, "the swarm says something else than one process"
                seconds += taken[1:]  # the first one read the prompt
        one, many = statistics.median(alone), statistics.median(spread)
        time.sleep(1.5)  # until the supervisor has asked the workers how long their steps take
        inside = sum(worker["seconds"] or 0.0 for worker in folder.state["workers"])
        rows = [
            row("one process, ms a token", 1000 * one, ""),
            row("three stages over TCP, ms a token", 1000 * many, ""),
            row("overhead a hop, ms", 1000 * (many - one) / STAGES, "<= 0.3"),
            row("messages, wake-ups and the rest outside a stage, ms", 1000 * (many - inside) / STAGES, ""),
            row("tokens/s against one process", one / many, ">= 0.9 where a token costs >= 15 ms"),
        ]
        for name, number in (("kill", signal.SIGKILL), ("hang", signal.SIGSTOP)):
            gaps, loads = [], []
            for stage in range(STAGES):
                gap, load = fault(host, folder, want, stage, number)
                gaps.append(gap)
                loads.append(load)
            goal = "<= 2 + load + a prefill" if name == "kill" else "<= 7 + load + a prefill"
            rows.append(row(f"longest wait for a token after a {name}, s", max(gaps), goal))
            rows.append(row(f"of that, load of the replacement after a {name}, s", max(loads), ""))
        rows.append(row("a killed worker is a spare again, s", restarted(folder), ""))
        host.close()
        served = first_token(folder)
        rows.append(row("first token of a new session after the load of a replacement, s", served, "<= 5"))
    return [*rows, larger(local, want), *codecs()]


def row(what: str, value: float, goal: str) -> dict[str, Any]:
    return {"measured": what, "value": float(f"{value:.4g}"), "goal": goal}


@contextmanager
def swarm(**options: Any) -> Iterator[SwarmFolder]:
    """Three workers and a spare, with the options of `weft swarm up`."""
    name = f"bench-{os.getpid()}"
    with redirect_stdout(io.StringIO()):  # how they are is told by the rows
        up(base=BASE, name=name, workers=STAGES, threads=1, launcher="processes", **options)
    try:
        yield SwarmFolder(name)
    finally:
        down(name=name)


def write(host: Any, before: Any = lambda step: None) -> tuple[list[int], list[float]]:
    """Tokens, and the seconds that each took; the first one reads the prompt."""
    loop = Loop(host)
    loop.submit(Request("0", PROMPT, Share()), sampling=Sampling(max_new_tokens=TOKENS))
    tokens, seconds, step = [], [], 0
    while loop.busy:
        before(step)
        begun = time.perf_counter()
        tokens += [spoken.token_id for spoken in loop.step()]
        seconds.append(time.perf_counter() - begun)
        step += 1
    return tokens, seconds


def fault(
    host: SwarmHost, folder: SwarmFolder, want: list[int], stage: int, number: signal.Signals
) -> tuple[float, float]:
    """The longest wait in a text during which a stage's worker got a signal, and its replacement's load."""
    settle(folder)
    ready = sum(event["event"] == "ready" for event in folder.events())

    def before(step: int) -> None:
        if step == TOKENS // 2:
            worker = next(one for one in folder.state["workers"] if one["stage"] == stage)
            os.kill(worker["pid"], number)

    said, seconds = write(host, before)
    assert said == want, "a fault changed the text"
    loads = [event["seconds"] for event in folder.events() if event["event"] == "ready"][ready:]
    return max(seconds[1:]), max(loads)


def settle(folder: SwarmFolder) -> float:
    """Wait until every stage has a worker, and a spare is there; how long that took."""
    begun = time.perf_counter()
    while sorted(worker["state"] for worker in folder.state["workers"]) != ["ready"] * STAGES + ["spare"]:
        time.sleep(0.05)
    return time.perf_counter() - begun


def restarted(folder: SwarmFolder) -> float:
    """Seconds from the death of a worker until all places are filled again: start, imports, load."""
    settle(folder)
    worker = next(one for one in folder.state["workers"] if one["stage"] == 1)
    os.kill(worker["pid"], signal.SIGKILL)
    while folder.state["workers"][worker["worker"]]["state"] != "starting":
        time.sleep(0.01)
    return settle(folder)


def first_token(folder: SwarmFolder) -> float:
    """Seconds from when a replacement has its weights until a new coordinator has a token from it."""
    settle(folder)
    worker = next(one for one in folder.state["workers"] if one["stage"] == 1)
    os.kill(worker["pid"], signal.SIGKILL)
    host = open_swarm(folder.name)
    host.step(torch.tensor([PROMPT]), host.new_cache(), [Share()])
    host.close()
    return time.time() - [event["time"] for event in folder.events() if event["event"] == "ready"][-1]


def larger(local: Host, want: list[int]) -> dict[str, Any]:
    """A base twice as large as what any worker takes, with the same text."""
    whole = sum(tensor.numel() * tensor.itemsize for tensor in local.module.parameters())
    with swarm(memory=str(whole // 2)) as folder:
        host = open_swarm(folder.name)
        said, _ = write(host)
        host.close()
        most = max(worker["weights"] or 0 for worker in folder.state["workers"])
    assert said == want, "a swarm under a limit of memory says something else than one process"
    return row("bytes of the base against those of the largest worker, limit a half", whole / most, ">= 2")


def codecs() -> list[dict[str, Any]]:
    """How far the logits are from the exact ones where states travel in fewer bytes; in float32."""
    ids, found = torch.tensor([PROMPT]), []
    with swarm(dtype="float32") as folder:
        for codec in CODECS:
            host = open_swarm(folder.name, codec=codec)
            found.append(host.step(ids, host.new_cache(), [Share()]).logits_BV)
            host.close()
    want = found[0]
    errors = [float((said - want).norm() / want.norm()) for said in found]
    named = zip(CODECS[1:], errors[1:], strict=True)
    return [row(f"relative error of logits in float32, {codec}", error, "") for codec, error in named]
