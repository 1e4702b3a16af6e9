"""GET /v1/map: where the adapters of the shelf lie among each other, as `weft map` has it."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from weft.embed import cosines, lay_out, plan_to_dict
from weft.errors import MissingExtraError
from weft.serve.service import Refused, account_of, service_of
from weft.types import Adapter

router = APIRouter()

MOST = 256
"""Adapters of one map."""


@router.get("/v1/map")
async def plan(request: Request) -> dict[str, Any]:
    """Place, cluster and three nearest ones of every adapter that this key may use.

    400 for fewer than two adapters, more than 256, or one that changes nothing.
    """
    service, account = service_of(request), account_of(request)
    names = [name for name in service.shelf.names if ":" not in name and account.may_use(name)]
    if len(names) > MOST:
        raise Refused(400, f"a map has at most {MOST} adapters, here are {len(names)}", "invalid_request")
    adapters = {name: service.shelf.get(name) for name in names}
    known = getattr(request.app.state, "plan", None)
    if known is None or known[0] != adapters:  # adapters are equal where they are the same
        known = request.app.state.plan = adapters, await asyncio.to_thread(_laid, adapters)
    return known[1]


def _laid(adapters: dict[str, Adapter]) -> dict[str, Any]:
    try:
        return plan_to_dict(lay_out(list(adapters), cosines(list(adapters.values())).numpy()))
    except ImportError as error:
        raise MissingExtraError(f"a map needs the extra plot: pip install 'weft[plot]' ({error})") from None
