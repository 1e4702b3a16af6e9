"""Every answer is counted, and what nobody expected gets an id that is in the log too."""

from __future__ import annotations

import logging
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.serve.replies import error_reply

log = logging.getLogger("weft.serve")


class Watched:
    """Lets messages through as they are; a layer that wraps them would cost every token a task switch."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def counted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                route = getattr(scope.get("route"), "path", "none")
                scope["app"].state.service.metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:
            if begun:  # the answer cannot be taken back
                raise
            id = uuid.uuid4().hex
            log.exception("request %s failed", id)
            message = f"something went wrong here; the log knows it as {id}"
            await error_reply(500, message, "internal_error")(scope, receive, counted)
