"""/v1/models: the names that a request may say, in OpenAI's form."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from weft.serve.service import Refused, account_of, service_of

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The base and all adapters that this key may use, in the form of OpenAI and vLLM."""
    return {"object": "list", "data": list(_models(request).values())}


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """One of them. 404 for any other name, also for one that would be made or mixed."""
    listed = _models(request)
    if name not in listed:
        raise Refused(404, f"no model {name!r:.80}; GET /v1/models lists all", "model_not_found")
    return listed[name]


def _models(request: Request) -> dict[str, dict[str, Any]]:
    service, account = service_of(request), account_of(request)
    window = service.shelf.host.window
    common = {"object": "model", "created": 0, "owned_by": "weft", "max_model_len": window}
    listed = {service.base: {"id": service.base, **common, "root": service.base}}
    for name in service.shelf.names:
        if account.may_use(name):
            listed[name] = {"id": name, **common, "root": name, "parent": service.base}
    return listed
