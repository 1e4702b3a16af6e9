"""The application: routes together, errors in OpenAI's form, and the thread that writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from weft.engine import Engine
from weft.errors import ConfigError, WeftError
from weft.serve import adapters, completions, embeddings, models, plan, running, web
from weft.serve.body import Limits, WholeBody
from weft.serve.keys import Keys, TooMuchError
from weft.serve.replies import error_reply
from weft.serve.scheduler import BusyError, Scheduler, StoppedError
from weft.serve.schema import DetokenizeRequest, TokenizeRequest
from weft.serve.service import Service, account_of, refusal, service_of
from weft.serve.shelf import Shelf
from weft.serve.watched import Watched

router = APIRouter()


def build_app(
    scheduler: Scheduler,
    shelf: Shelf,
    keys: Keys | None = None,
    *,
    adapter_root: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """A server over one host; its scheduler starts and ends with it.

    `adapter_root` holds the folders that an admin may load. `hosts` are the names that requests may call it
    by: on a loopback address its own, so that no web page reaches it by another.

    Raises ConfigError for a host without tokenizer.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        scheduler.close()

    app = FastAPI(title="Weft", lifespan=life, docs_url=None, redoc_url=None)
    keys = keys or Keys()
    app.state.service = Service(Engine(shelf.host), scheduler, shelf, keys)
    app.state.adapter_root = adapter_root
    for part in (
        router,
        *(room.router for room in (completions, embeddings, models, adapters, plan, running, web)),
    ):
        app.include_router(part)
    for kind in (WeftError, TooMuchError, BusyError, StoppedError, OSError):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ValidationError, _invalid)
    app.add_middleware(Watched)
    app.add_middleware(WholeBody, keys=keys, limits=limits)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return app


@router.get("/health")
async def health(request: Request) -> Response:
    """200 while texts are written, 503 after the scheduler has failed."""
    return Response(status_code=200 if service_of(request).scheduler.alive else 503)


@router.post("/restart")
async def restart(request: Request) -> Response:
    """Begin anew after a failure."""
    account_of(request, "admin")
    service_of(request).scheduler.start()
    return Response(status_code=200)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    account_of(request)
    service = service_of(request)
    at = service.scheduler
    text = service.metrics.text(open=at.open, active=at.active, resident=at.resident, reused=at.reused)
    return Response(text, media_type="text/plain; version=0.0.4")


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
    """A text, or a chat as the model reads it, to token ids."""
    account_of(request)
    service = service_of(request)
    engine = service.engine
    if (body.prompt is None) == (not body.messages):
        raise ConfigError("give a prompt or messages")
    body.refuse_unserved()
    if body.prompt is None:
        if body.add_special_tokens:
            raise ConfigError("add_special_tokens is for a prompt; a chat's template writes its own")
        encode = partial(engine.prompt_ids, [message.turn() for message in body.messages])
    else:
        encode = partial(
            engine.tokenizer.encode, body.prompt, add_special_tokens=body.add_special_tokens is not False
        )
    tokens = await asyncio.to_thread(encode)
    return {"tokens": tokens, "count": len(tokens), "max_model_len": service.shelf.host.window}


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request) -> dict[str, Any]:
    """What a client has to know of the tokenizer to count its tokens and to write chats."""
    account_of(request)
    service = service_of(request)
    tokenizer = service.engine.tokenizer
    names = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
    named = {name: getattr(tokenizer, name, None) for name in names}
    return {
        **named,
        "tokenizer_class": type(tokenizer).__name__,
        "vocab_size": len(tokenizer),
        "model_max_length": service.shelf.host.window,
    }


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, Any]:
    """Token ids to text."""
    account_of(request)
    service = service_of(request)
    known = [token for token in body.tokens if 0 <= token < len(service.engine.tokenizer)]
    if len(known) < len(body.tokens):
        raise HTTPException(400, "a token id is outside the vocabulary")
    return {"prompt": await asyncio.to_thread(service.engine.tokenizer.decode, known)}


async def _refused(_: Request, error: Exception) -> JSONResponse:
    return await _http(_, refusal(error))


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    reply = error_reply(error.status_code, str(error.detail), getattr(error, "code", None))
    reply.headers.update(error.headers or {})
    return reply


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError | ValidationError)
    first = error.errors()[0]
    if first["loc"] == ("body",) and "json" not in request.headers.get("content-type", ""):
        return error_reply(415, "send JSON, with Content-Type: application/json", "invalid_request")
    where = ".".join(str(part) for part in first["loc"])
    return error_reply(400, f"{where}: {first['msg']}", "invalid_request")
