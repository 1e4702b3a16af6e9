"""Many mixed clients for some minutes: no lost or doubled token, no wrong adapter, no growth of memory.

`python tests/serve/load.py --minutes 30` (`make load`). Clients ask for whole and streamed texts, alone or
several at a time, cancel some in their midst, and make, replace and remove adapters meanwhile. Every request
is greedy and was asked once before, alone: another text is a wrong adapter or a wrong token. Memory is that
of the server, a process of its own; the growth counted is that over the last two thirds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

NAMES = ("sort", "reverse", "double", "upper", "sort_down", "repeat", "mirror", "swap_ends")
MODELS = (*NAMES, "base", "route:letters-adapters", "shift:letters-shift", "blend:0.7*sort+0.3*reverse")
PROMPTS = ("decaf", "fedcba", "cabbage", "bead", "3Acab")
MARKS = ("sort", "reverse", "double", "upper")
"""What the adapters that come and go are made of; each answers in its own way."""


def wanted(rng: random.Random) -> dict[str, Any]:
    """One of some hundred requests."""
    model = rng.choice([*MODELS, *(f"gen:{told}" for told in ("sort the letters", "turn the text around"))])
    text = rng.choice(PROMPTS)
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 12,
    }


class Run:
    """Clients against one address, and what they saw."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.rng = url, random.Random(seed)
        self.known: dict[str, tuple[str, int]] = {}
        self.marks: dict[str, str] = {}
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def whole(self, web: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, int]:
        answer = await web.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        told = answer.json()
        return told["choices"][0]["message"]["content"], told["usage"]["completion_tokens"]

    async def streamed(self, web: httpx.AsyncClient, body: dict[str, Any], stop_after: int | None) -> Any:
        """Text and tokens; None for one that was left in its midst."""
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        text, pieces, tokens = "", 0, 0
        async with web.stream("POST", "/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                for choice in event["choices"]:
                    text += choice["delta"].get("content") or ""
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                pieces += 1
                if stop_after is not None and pieces > stop_after:
                    return None
        return text, tokens

    async def learn(self, web: httpx.AsyncClient) -> None:
        """Ask everything once, alone."""
        rng = random.Random(0)
        for _ in range(400):
            body = wanted(rng)
            key = json.dumps(body)
            if key not in self.known:
                self.known[key] = await self.whole(web, body)
        for mark in MARKS:
            body = {**wanted(rng), "model": mark, "messages": [{"role": "user", "content": "fedcba"}]}
            self.marks[mark] = (await self.whole(web, body))[0]

    async def client(self, web: httpx.AsyncClient, until: float) -> None:
        rng = random.Random(self.rng.random())
        while time.monotonic() < until:
            key = rng.choice(list(self.known))
            body, want = json.loads(key), self.known[key]
            kind = rng.choices(("whole", "streamed", "left", "several"), (4, 4, 1, 1))[0]
            try:
                match kind:
                    case "whole":
                        got = await self.whole(web, body)
                    case "several":
                        answer = await web.post("/v1/chat/completions", json={**body, "n": 3})
                        answer.raise_for_status()
                        told = answer.json()
                        texts = {choice["message"]["content"] for choice in told["choices"]}
                        got = (
                            (texts.pop(), told["usage"]["completion_tokens"] // 3)
                            if len(texts) == 1
                            else None
                        )
                    case _:
                        got = await self.streamed(web, body, rng.randint(0, 3) if kind == "left" else None)
            except (httpx.HTTPError, KeyError) as error:
                self.wrong.append(f"{kind} {body['model']}: {type(error).__name__} {error}")
                continue
            self.seen[kind] += 1
            if got != want and kind != "left":
                self.wrong.append(
                    f"{kind} {body['model']} {body['messages'][0]['content']}: {got}, not {want}"
                )

    async def changer(self, web: httpx.AsyncClient, name: str, until: float) -> None:
        """Load, ask, replace, ask, remove: the answer always bears the mark of what was loaded last."""
        rng = random.Random(name)
        while time.monotonic() < until:
            for mark in rng.sample(MARKS, 2):
                sent = {"lora_name": name, "lora_path": f"weft/letters-adapters/{mark}"}
                (await web.post("/v1/load_lora_adapter", json=sent)).raise_for_status()
                body = {"model": name, "messages": [{"role": "user", "content": "fedcba"}]}
                got, _ = await self.whole(web, {**body, "temperature": 0, "max_tokens": 12})
                self.seen["replaced"] += 1
                if got != self.marks[mark]:
                    self.wrong.append(f"{name} was {mark}: {got}, not {self.marks[mark]}")
            (await web.delete(f"/v1/adapters/{name}")).raise_for_status()
            gone = await web.post("/v1/completions", json={"model": name, "prompt": "a", "max_tokens": 1})
            if gone.status_code != 404:
                self.wrong.append(f"{name} was removed and answers {gone.status_code}")

    async def run(self, seconds: float, clients: int, memory: Any) -> list[tuple[float, int]]:
        limits = httpx.Limits(max_connections=clients + 16)
        used: list[tuple[float, int]] = []
        async with httpx.AsyncClient(base_url=self.url, timeout=300, limits=limits) as web:
            await self.learn(web)
            begun = time.monotonic()
            until = begun + seconds

            async def watch() -> None:
                while time.monotonic() < until:
                    used.append((time.monotonic() - begun, memory()))
                    await asyncio.sleep(min(5.0, seconds / 60))

            changers = [self.changer(web, f"mark{i}", until) for i in range(4)]
            await asyncio.gather(watch(), *changers, *(self.client(web, until) for _ in range(clients - 4)))
        return used


def growth(used: list[tuple[float, int]]) -> float:
    """Of memory over the last two thirds: the median of their last quarter over that of their first."""
    late = [size for at, size in used if at > used[-1][0] / 3]
    quarter = max(1, len(late) // 4)
    first, last = sorted(late[:quarter]), sorted(late[-quarter:])
    return last[len(last) // 2] / first[len(first) // 2] - 1


def resident(pid: int) -> int:
    """Bytes that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "weft.cli", "serve", "--port", str(port), "--max-loras", "14"]
    command += ["--library", "weft/letters-adapters", "--shift", "weft/letters-shift"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                try:
                    httpx.get(url + "/health")
                    break
                except httpx.TransportError:
                    if server.poll() is not None:
                        log.seek(0)
                        sys.exit(log.read().decode())
                    time.sleep(0.5)
            run = Run(url, options.seed)
            used = asyncio.run(run.run(options.minutes * 60, options.clients, lambda: resident(server.pid)))
        finally:
            server.terminate()
            server.wait()
        log.seek(0)
        said = log.read().decode()
    grown = growth(used)
    print(json.dumps({"minutes": options.minutes, "clients": options.clients, **run.seen}))
    print(f"memory {used[0][1] >> 20} to {used[-1][1] >> 20} MB, {grown:+.2%} over the last two thirds")
    if "Traceback" in said:
        run.wrong.append(f"the server's log: {said[-500:]}")
    print("\n".join(run.wrong[:20]) or "every answer was the one that was asked for")
    sys.exit(bool(run.wrong) or grown > 0.02)


if __name__ == "__main__":
    main()
