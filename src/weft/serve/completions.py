"""/v1/completions and /v1/chat/completions: from a request to texts, and back in OpenAI's form."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from weft.errors import ConfigError, PromptTooLongError
from weft.serve.keys import Account
from weft.serve.replies import Choice, chat_reply, chunk, text_reply, usage
from weft.serve.schema import ChatRequest, Drawn, TextRequest
from weft.serve.service import Refused, Service, Text, account_of, acting, headers, service_of, written
from weft.serve.shelf import Acting

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer a chat."""
    service, account = service_of(request), account_of(request)
    turns = [message.turn() for message in body.messages]
    asked = next((text for role, text in reversed(turns) if role == "user"), turns[-1][1])
    ids = service.engine.prompt_ids([{"role": role, "content": text} for role, text in turns])
    top = (body.top_logprobs or 0) if body.logprobs else None
    new = body.max_completion_tokens or body.max_tokens or _room(service, account, ids)
    return await _answer(service, account, body, request, [ids], asked, new, top=top, chat=True)


@router.post("/v1/completions")
async def complete(body: TextRequest, request: Request) -> Response:
    """Continue prompts."""
    service, account = service_of(request), account_of(request)
    prompts = _prompts(body.prompt)
    if len(prompts) * body.n > 128:
        raise ConfigError(f"{len(prompts) * body.n} texts in one request; at most 128")
    ids = [p if isinstance(p, list) else service.engine.prompt_ids(p, raw=True) for p in prompts]
    new = 16 if body.max_tokens is None else body.max_tokens
    if not new and not body.echo:
        raise ConfigError("max_tokens 0 is for echo alone")
    asked = prompts[0] if isinstance(prompts[0], str) else service.engine.tokenizer.decode(prompts[0])
    return await _answer(
        service, account, body, request, ids, asked, new, top=body.logprobs, chat=False, echo=body.echo
    )


def _prompts(prompt: str | list[int] | list[str] | list[list[int]]) -> list[str] | list[list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise ConfigError("there is no prompt, the list is empty")
    if isinstance(prompt[0], int):
        return [cast("list[int]", prompt)]
    return cast("list[str] | list[list[int]]", prompt)


def _room(service: Service, account: Account, ids: Sequence[int]) -> int:
    """New tokens where none are asked for: what the window and the key leave, at most 1024."""
    window, most = service.shelf.host.window, max(1, min(1024, account.key.tokens_per_minute))
    if window is None:
        return most
    if len(ids) >= window:
        raise PromptTooLongError(f"a prompt of {len(ids)} tokens leaves no room in a window of {window}")
    return min(window - len(ids), most)


async def _answer(
    service: Service,
    account: Account,
    body: Drawn,
    request: Request,
    prompts: Sequence[Sequence[int]],
    asked: str,
    new: int,
    *,
    top: int | None,
    chat: bool,
    echo: bool = False,
) -> Response:
    told = await acting(service, account, body.model, asked)
    if told.controller is not None and echo and top is not None:
        raise ConfigError("a prompt under shift: has no log-probabilities; leave out echo or logprobs")
    sampling = body.sampling(new, service.shelf.host.vocab_size)
    texts = [
        Text(
            ids,
            replace(sampling, seed=(sampling.seed + place * body.n + k) % (1 << 63)),
            top,
            top if echo else None,
            echo and not new,
            body.trace,
        )
        for place, ids in enumerate(prompts)
        for k in range(body.n)
    ]
    shown = service.engine.tokenizer
    choices = [
        Choice(i, shown, list(text.ids), chat=chat, echo=echo, logprobs=top, trace=body.trace)
        for i, text in enumerate(texts)
    ]
    service.metrics.prompt_tokens.inc(sum(map(len, prompts)))
    head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", "created": int(time.time())}
    head |= {"model": body.model}

    def used() -> dict[str, Any]:
        return {**usage(prompts, choices), **({"weft": {"adapters": told.usage()}} if body.weft else {})}

    if body.stream:
        include = body.stream_options is not None and body.stream_options.include_usage
        events = _events(service, account, texts, told, choices, head, used if include else None)
        first = await anext(events)  # what is wrong before the first token is an answer of its own
        return StreamingResponse(_after(first, events), media_type="text/event-stream", headers=headers(told))
    work = asyncio.create_task(_collect(service, account, texts, told, choices, head["id"]))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Refused(499, "the client has gone")
        work.result()
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)
    reply = chat_reply if chat else text_reply
    return JSONResponse({**reply(head, choices), "usage": used()}, headers=headers(told))


async def _gone(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.05)


async def _collect(
    service: Service,
    account: Account,
    texts: Sequence[Text],
    told: Acting,
    choices: Sequence[Choice],
    name: str,
) -> None:
    begun = time.perf_counter()
    async with written(service, account, texts, told, name) as pieces:
        async for index, piece in pieces:
            if choices[index].take(piece):
                begun = _count(service, begun)


def _count(service: Service, begun: float) -> float:
    if begun:
        service.metrics.first.observe(time.perf_counter() - begun)
    service.metrics.new_tokens.inc()
    return 0.0


async def _events(
    service: Service,
    account: Account,
    texts: Sequence[Text],
    told: Acting,
    choices: Sequence[Choice],
    head: dict[str, Any],
    used: Callable[[], dict[str, Any]] | None,
) -> AsyncIterator[str]:
    begun = time.perf_counter()
    started = False
    try:
        async with written(service, account, texts, told, head["id"]) as pieces:
            async for index, piece in pieces:
                if choices[index].take(piece):
                    begun = _count(service, begun)
                news = choices[index].news()
                if news is not None:
                    yield _event(chunk(head, news, chat=choices[index].chat, usage_key=bool(used)))
                    started = True
        if used is not None:
            last = chunk(head, None, chat=choices[0].chat, usage_key=False)
            yield _event({**last, "usage": used()})
        yield "data: [DONE]\n\n"
    except Refused as error:
        if not started:
            raise
        yield _event({"error": {"message": str(error.detail), "type": "server_error", "code": error.code}})


async def _after(first: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    try:
        yield first
        async for event in events:
            yield event
    finally:
        await events.aclose()  # pyright: ignore[reportAttributeAccessIssue]


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
