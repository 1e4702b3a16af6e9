"""A server under 16 users: tokens per second beside PEFT and our own loop, and the time to a first token.

Float32, prompts of 24 tokens, 64 new tokens each, rank 8 on q_proj and v_proj. PEFT answers users as they
arrive, one `generate(adapter_names=[...])` each; its rate does not depend on how many there are, so four are
timed. The loop has all rows from the start. Users are a process of their own, over HTTP, and stream.
llama.cpp and vLLM stand beside where they are installed (bench/serve_peers.py says how).
"""

import multiprocessing
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import uvicorn
from bench.engine import PROMPT, RANK, ROWS, TARGETS, _adapter, _peft
from bench.serve_peers import llama_cpp, vllm
from bench.users import users_of

from weft.embed import SentenceEncoder
from weft.engine import Loop, Sampling
from weft.host import Host
from weft.hyper import HyperNetwork, T2LConfig, build_t2l
from weft.rows import Request, Share
from weft.serve import Scheduler, Shelf, build_app, server_config

NEW, FEW, MANY, ARRIVALS = 64, 8, 64, 4


class Timed(NamedTuple):
    """When the tokens of one text came, from the moment that its users asked."""

    first: float
    last: float
    tokens: int


Ask = Callable[[list[tuple[str, list[int], int, int]]], list[Timed]]
"""(model, prompt, new tokens, how many others have to speak first) of every user -> when tokens came."""


def run(*, repeats: int = 5) -> list[dict[str, Any]]:
    """SmolLM2 if it is here."""
    host = Host.from_pretrained("weft/smollm2", dtype="float32", target_modules=list(TARGETS))
    few = [_adapter(host, k) for k in range(FEW)]
    with ExitStack() as stack:
        urls = {
            "llama.cpp, one adapter for all": stack.enter_context(llama_cpp(host, few[0], ROWS)),
            "vLLM": stack.enter_context(vllm(few, [f"a{k}" for k in range(FEW)], ROWS)),
        }
        peers = {name: stack.enter_context(users(url)) for name, url in urls.items() if url is not None}
        return measure(host, repeats, peers)


def measure(
    host: Host, repeats: int, peers: Mapping[str, Ask] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """A line per goal: medians, and the ratio of every repeat; and one for every other server."""
    host.module.generation_config.eos_token_id = None
    adapters = [_adapter(host, k) for k in range(MANY)]
    chance = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(3, host.vocab_size, (ROWS, PROMPT), generator=chance)
    prompts = ids_BT.tolist()
    peft = _peft(host.module, adapters[:FEW], TARGETS)
    encoder = SentenceEncoder()
    hyper = HyperNetwork(encoder, build_t2l(T2LConfig(), host.sites, dim=encoder.dim), base=host.fingerprint)
    measured: dict[str, list[float]] = {}

    def note(what: str, value: float) -> None:
        measured.setdefault(what, []).append(value)

    shelf = Shelf(host, hypernetwork=hyper.eval())
    for k, adapter in enumerate(adapters):
        shelf.put(f"a{k}", adapter)
    with served(shelf) as ask:
        for repeat in range(repeats + 1):
            new = NEW if repeat else 4  # the first one warms up
            note("PEFT", _arriving(peft, ids_BT, new))
            spent, step = _loop(host, [adapters[i % FEW] for i in range(ROWS)], prompts, new)
            note("loop", ROWS * new / spent)
            note("step", step)

            wanted = [(f"a{i % FEW}", prompts[i], new, 0) for i in range(ROWS)]
            few = ask(wanted)
            note("few", _rate(few))
            for peer, ask_peer in peers.items():
                note(peer, _rate(ask_peer(wanted)))
            note("served step", (_last(few) - max(one.first for one in few)) / (new - 1))
            wave = repeat * ROWS % MANY
            note("many", _rate(ask([(f"a{wave + i}", prompts[i], new, 0) for i in range(ROWS)])))

            (idle,) = ask([("a0", prompts[0], 1, 0)])
            note("idle first", idle.first)
            late = ask([("a1", prompts[1], 1, 15), *((f"a{i % FEW}", prompts[i], new, 0) for i in range(15))])
            note("late first", late[0].first)
            (made,) = ask([(f"gen:count to {repeat}", prompts[0], 1, 0)])
            note("gen first", made.first)
            begun = time.perf_counter()
            hyper.adapt(f"count down from {repeat}")
            note("adapt", time.perf_counter() - begun)
    for values in measured.values():
        values.pop(0)
    return _lines(measured, repeats, list(peers))


def _lines(measured: dict[str, list[float]], repeats: int, peers: Sequence[str]) -> list[dict[str, Any]]:
    def line(
        what: str, unit: str, ours: list[float], peer: str, theirs: list[float], goal: str
    ) -> dict[str, Any]:
        ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
        return {
            "what": what,
            "unit": unit,
            "weft": statistics.median(ours),
            "peer": peer,
            "peer's": statistics.median(theirs),
            "ratio": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "goal": goal,
            "repeats": repeats,
        }

    sixteen = f"{ROWS} users, {FEW} adapters"
    waits = [late - idle for late, idle in zip(measured["late first"], measured["idle first"], strict=True)]
    sums = [
        sum(parts) for parts in zip(measured["adapt"], measured["idle first"], measured["step"], strict=True)
    ]
    seconds = {key: [value * 1000 for value in values] for key, values in measured.items()}
    return [
        line(sixteen, "tokens/s", measured["few"], "PEFT per arrival", measured["PEFT"], ">= 3"),
        line(sixteen, "tokens/s", measured["few"], "our loop, all rows at once", measured["loop"], ">= 0.95"),
        line(
            f"{MANY} adapters, 16 slots",
            "tokens/s",
            measured["many"],
            f"{FEW} adapters",
            measured["few"],
            ">= 0.85",
        ),
        line("a step of 16 rows", "ms", seconds["served step"], "our loop", seconds["step"], "<= 1.03"),
        line(
            "first token while 15 decode, above idle",
            "ms",
            [wait * 1000 for wait in waits],
            "a step of 16 rows",
            seconds["served step"],
            "<= 2",
        ),
        line(
            "first token of a new gen: name",
            "ms",
            seconds["gen first"],
            "encoder and network + idle first token + a step",
            [value * 1000 for value in sums],
            "<= 1",
        ),
        *(line(sixteen, "tokens/s", measured["few"], peer, measured[peer], "none") for peer in peers),
    ]


@torch.no_grad()
def _arriving(peft: Any, ids_BT: torch.Tensor, new: int) -> float:
    """Tokens per second of PEFT, one user after another."""
    begun = time.perf_counter()
    for i in range(ARRIVALS):
        ids = ids_BT[i : i + 1]
        peft.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            adapter_names=[str(i % FEW)],
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
    return ARRIVALS * new / (time.perf_counter() - begun)


def _rate(texts: Sequence[Timed]) -> float:
    return sum(one.tokens for one in texts) / _last(texts)


def _last(texts: Sequence[Timed]) -> float:
    return max(one.last for one in texts)


def _loop(host: Host, adapters: Sequence[Any], prompts: Sequence[list[int]], new: int) -> tuple[float, float]:
    """Seconds for all rows, and for one step of all once they were read."""
    loop = Loop(host, max_rows=len(prompts), chunk=256)
    begun = time.perf_counter()
    for i, (adapter, ids) in enumerate(zip(adapters, prompts, strict=True)):
        loop.submit(Request(str(i), tuple(ids), Share.of(adapter)), sampling=Sampling(max_new_tokens=new))
    loop.step()
    read = time.perf_counter()
    while loop.busy:
        loop.step()
    ended = time.perf_counter()
    return ended - begun, (ended - read) / (new - 1)


@contextmanager
def served(shelf: Shelf) -> Iterator[Ask]:
    """A server of 16 rows and slots in this process; gives what lets users in another one ask it."""
    scheduler = Scheduler(shelf.host, max_rows=ROWS, slots=16, r=RANK * 2)
    app = build_app(scheduler, shelf)
    app.state.service.engine.stop_ids = frozenset()  # every text has its full length
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        with users(f"http://127.0.0.1:{listening.getsockname()[1]}") as ask:
            yield ask
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def users(url: str) -> Iterator[Ask]:
    """Users of an address, in a process of their own: asked for texts, they tell when the tokens came."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    crowd = context.Process(target=users_of, args=(url, there), daemon=True)
    crowd.start()
    there.close()  # so that their end is heard

    def ask(wanted: list[tuple[str, list[int], int, int]]) -> list[Timed]:
        here.send(wanted)
        return [Timed(*one) for one in here.recv()]

    try:
        yield ask
    finally:
        with suppress(BrokenPipeError):
            here.send(None)
        crowd.join()
