"""What holds for every request: it is counted, its failure has an id in the log, no other site sent it."""

from __future__ import annotations

import logging
import uuid

from starlette.datastructures import Headers
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
            if _is_foreign(scope):
                refused = error_reply(403, "a page of another site may change nothing here", "forbidden")
                await refused(scope, receive, counted)
            else:
                await self.app(scope, receive, counted)
        except Exception:
            if begun:  # the answer cannot be taken back
                raise
            id = uuid.uuid4().hex
            log.exception("request %s failed", id)
            message = f"something went wrong here; the log knows it as {id}"
            await error_reply(500, message, "internal_error")(scope, receive, counted)


def _is_foreign(scope: Scope) -> bool:
    """Whether a page of another site lets a browser change something here, as only browsers tell."""
    changes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
    return changes and Headers(scope=scope).get("sec-fetch-site", "none") not in ("none", "same-origin")
