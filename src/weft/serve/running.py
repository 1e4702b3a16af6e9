"""PATCH /v1/running/ID: a text that is being written goes on under another name."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from weft.errors import ConfigError
from weft.serve.service import Refused, account_of, headers, refusal, resolve, service_of

router = APIRouter()


class GoOn(BaseModel):
    """What acts from the next token on."""

    model_config = ConfigDict(extra="forbid")

    model: str
    text: str = ""
    """What a library is routed by, where `model` is `route:LIBRARY`."""


@router.patch("/v1/running/{id}")
async def go_on(id: str, body: GoOn, request: Request) -> Response:
    """Let all texts of a request go on under another name; what was read and written stays as it is.

    `from` tells, by the index of a text, how many tokens it had written: the place of the first one under
    the new name.
    404 for a request that has ended, or another key's.
    """
    service, account = service_of(request), account_of(request)
    running = service.running.get(id)
    if running is None or running.account is not account:
        raise Refused(404, f"no request {id!r:.80} is being written", "not_running")
    acting = await resolve(service, account, body.model, body.text)
    if acting.controller is not None:
        raise ConfigError(f"{body.model:.80} changes a text by itself, and must do so from its first token")
    rows = {int(row.rpartition("-")[2]): row for row in sorted(running.rows)}
    try:
        at = await asyncio.wrap_future(service.scheduler.change(list(rows.values()), acting.share))
    except Exception as error:
        raise refusal(error) from error
    began = {index: count for index, count in zip(rows, at, strict=True) if count is not None}
    if not began:
        raise Refused(404, f"request {id!r:.80} has ended", "not_running")
    answer: dict[str, Any] = {"id": id, "model": body.model, "from": began, "adapters": list(acting.adapters)}
    return JSONResponse(answer, headers=headers(acting))
