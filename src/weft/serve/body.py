"""Bodies come whole, in time, and no larger than allowed, before anything looks at them."""

from __future__ import annotations

import asyncio
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class WholeBody:
    """Reads a body of at most `limit` bytes within `seconds`: 413 for a larger one, 408 for a slow one."""

    def __init__(self, app: ASGIApp, *, limit: int = 4 << 20, seconds: float = 30.0) -> None:
        self.app, self.limit, self.seconds = app, limit, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(receive), self.seconds)
        except TimeoutError:
            await _refuse(send, 408, f"the body did not come within {self.seconds:g} s")
            return
        if body is None:
            await _refuse(send, 413, f"a body has at most {self.limit} bytes")
            return
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def given() -> Message:
            return first.pop() if first else await receive()

        await self.app(scope, given, send)

    async def _read(self, receive: Receive) -> bytes | None:
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.limit:
                return None
            more = message.get("more_body", False)
        return b"".join(parts)


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": None}}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
