"""Users of a server, for `bench/serve.py`: a process of their own that needs no torch.

They read lines off a socket and parse no more of them than they must: they run on the machine that is
measured, and what a client does with its text is its own affair.
"""

import asyncio
import json
import time
from typing import Any
from urllib.parse import urlsplit


def users_of(url: str, pipe: Any) -> None:
    """Answer lists of (model, prompt, new tokens, how many others have to speak first) with their times."""
    address = urlsplit(url)

    async def one(model: str, ids: list[int], new: int, after: int, spoken: set[object]) -> Any:
        me = object()
        while len(spoken) < after:
            await asyncio.sleep(0.0005)
        body = {"model": model, "prompt": ids, "max_tokens": new, "temperature": 0, "stream": True}
        # The last two are for other servers: every text has its full length, every prompt is read.
        body |= {"stream_options": {"include_usage": True}, "ignore_eos": True, "cache_prompt": False}
        sent = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
        begun, first, last, usage = time.perf_counter(), 0.0, 0.0, b""
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(head.encode() + sent)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status!r} {await reader.read()!r}")
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                last = time.perf_counter() - begun
                first = first or last
                spoken.add(me)
                usage = line if b'"completion_tokens"' in line else usage
            elif line.startswith(b"data: [DONE]"):
                break
        writer.close()
        return first, last, json.loads(usage[6:])["usage"]["completion_tokens"]

    async def all_of(wanted: Any) -> Any:
        spoken: set[object] = set()
        return await asyncio.gather(*(one(*words, spoken) for words in wanted))

    while (wanted := pipe.recv()) is not None:
        pipe.send(asyncio.run(all_of(wanted)))
