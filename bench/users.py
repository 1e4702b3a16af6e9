"""Users of a server, for `bench/serve.py`: a process of their own that needs no torch."""

import asyncio
import json
import time
from typing import Any

import httpx


def users_of(url: str, pipe: Any) -> None:
    """Answer lists of (model, prompt, new tokens, how many others have to speak first) with their times."""

    async def one(
        client: httpx.AsyncClient, model: str, ids: list[int], new: int, after: int, spoken: set[int]
    ) -> Any:
        while len(spoken) < after:
            await asyncio.sleep(0.0005)
        begun = time.perf_counter()
        body = {"model": model, "prompt": ids, "max_tokens": new, "temperature": 0, "stream": True}
        first, tokens = 0.0, 0
        body |= {"stream_options": {"include_usage": True}}
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    first = first or time.perf_counter() - begun
                    spoken.add(id(body))
                    usage = json.loads(line[6:]).get("usage")
                    tokens = usage["completion_tokens"] if usage else tokens
        return first, time.perf_counter() - begun, tokens

    async def all_of(wanted: Any) -> Any:
        spoken: set[int] = set()
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            return await asyncio.gather(*(one(client, *words, spoken) for words in wanted))

    while (wanted := pipe.recv()) is not None:
        pipe.send(asyncio.run(all_of(wanted)))
