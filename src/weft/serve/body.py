"""Bodies come whole, in time, and no larger than allowed, before anything looks at them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.serve.keys import Keys


class Limits(NamedTuple):
    """What a body may be."""

    body: int = 4 << 20
    """Bytes of a body."""
    upload: int = 128 << 20
    """Bytes of an uploaded adapter, for keys that may make adapters."""
    seconds: float = 30.0
    """How long a body may take to come, and how long an upload may wait for its turn."""
    rate: int = 128 << 10
    """Bytes a second that give an upload more time, up to ten times as long."""
    uploads: int = 2
    """Uploads that come at a time; others wait."""


def is_form(content_type: str) -> bool:
    """Whether a body is a form with files."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


class WholeBody:
    """Reads a body within its limits: 413 for a larger one, 408 for a slow one.

    Uploads take turns, since each is held in memory: 429 for one whose turn does not come.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, limits: Limits) -> None:
        self.app, self.keys, self.limits = app, keys, limits
        self._turns = asyncio.Semaphore(limits.uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self._is_upload(scope):
            await self._upload(scope, receive, send)
        else:
            await self._serve(scope, receive, send, self.limits.body)

    def _is_upload(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        if scope["path"] != "/v1/adapters" or not is_form(headers.get("content-type", "")):
            return False
        account = self.keys.account(headers.get("authorization"))
        return account is not None and account.may("maker")

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.limits.seconds):
                await self._turns.acquire()
        except TimeoutError:
            message = f"{self.limits.uploads} uploads come already; send it again later"
            await _read(receive, -1, self.limits.seconds, None)
            await _refuse(send, 429, message, [(b"retry-after", b"%d" % max(1, round(self.limits.seconds)))])
            return
        try:
            await self._serve(scope, receive, send, self.limits.upload, self.limits.rate)
        finally:
            self._turns.release()

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, limit: int, rate: int | None = None
    ) -> None:
        try:
            body = await _read(receive, limit, self.limits.seconds, rate)
        except TimeoutError:
            await _refuse(send, 408, "the body came too slowly")
            return
        if body is None:
            await _refuse(send, 413, f"a body has at most {limit} bytes")
            return
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        del body

        async def given() -> Message:
            return first.pop() if first else await receive()

        await self.app(scope, given, send)


async def _read(receive: Receive, limit: int, seconds: float, rate: int | None) -> bytes | None:
    """A body, or None for one above the limit. Raises TimeoutError for one that is late at its rate.

    What is above the limit is let go by until its time is over: a connection that is closed while something
    comes is reset, and the client would not read why.
    """
    parts, size, more = [], 0, True
    begun = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(begun + seconds) as time:
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    break
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                more = message.get("more_body", False)
                if size > limit:
                    parts.clear()
                elif rate is not None:
                    time.reschedule(begun + min(seconds + size / rate, 10 * seconds))
    except TimeoutError:
        if size <= limit:
            raise
    return b"".join(parts) if size <= limit else None


async def _refuse(send: Send, status: int, message: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": None}}).encode()
    size = (b"content-length", b"%d" % len(body))
    headers = [(b"content-type", b"application/json"), size, (b"connection", b"close"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
