"""/v1/completions and /v1/chat/completions: from a request to texts, and back in OpenAI's form."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from weft.engine import Engine
from weft.engine.loop import check_prompt
from weft.errors import ConfigError, PromptTooLongError
from weft.serve.keys import Account
from weft.serve.replies import Choice, chunk, usage, whole_reply
from weft.serve.schema import ChatRequest, Drawn, StreamOptions, TextRequest
from weft.serve.service import Refused, Service, Text, account_of, headers, resolve, service_of, written
from weft.serve.shelf import Acting

router = APIRouter()
T = TypeVar("T")


class _Work(NamedTuple):
    """The texts of one request, and the choices that they become."""

    service: Service
    account: Account
    acting: Acting
    prompts: Sequence[Sequence[int]]
    texts: Sequence[Text]
    choices: Sequence[Choice]
    head: dict[str, Any]
    """What every answer and every event begins with."""
    acted: dict[str, Any]
    """What `usage` tells of it, where that was asked for."""

    def used(self) -> dict[str, Any]:
        """Tokens so far."""
        return {**usage(self.prompts, self.choices), **self.acted}


@router.post("/v1/chat/completions")
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer a chat."""
    service, account = service_of(request), account_of(request)
    turns = [message.turn() for message in body.messages]
    last = next((turn for turn in reversed(turns) if turn["role"] == "user"), turns[-1])
    ids = await asyncio.to_thread(service.engine.prompt_ids, turns)
    if body.top_logprobs and not body.logprobs:
        raise ConfigError("top_logprobs needs logprobs: true")
    top = body.top_logprobs if body.logprobs else None
    new = body.max_completion_tokens or body.max_tokens or _room(service, account, ids)
    acting = await resolve(service, account, body.model, last["content"])
    work = await _work(service, account, acting, body, [ids], new, top=top, chat=True)
    return await _answer(work, body, request)


@router.post("/v1/completions")
async def complete(body: TextRequest, request: Request) -> Response:
    """Continue prompts."""
    service, account = service_of(request), account_of(request)
    prompts = _prompts(body.prompt)
    if len(prompts) * body.n > 128:
        raise ConfigError(f"{len(prompts) * body.n} texts in one request; at most 128")
    ids, asked = await asyncio.to_thread(_read, service.engine, prompts)
    new = 16 if body.max_tokens is None else body.max_tokens
    if not new and not body.echo:
        raise ConfigError("max_tokens 0 is for echo alone")
    acting = await resolve(service, account, body.model, asked)
    if acting.controller is not None and body.echo and body.logprobs is not None:
        raise ConfigError("a prompt under shift: has no log-probabilities; leave out echo or logprobs")
    work = await _work(service, account, acting, body, ids, new, top=body.logprobs, echo=body.echo)
    return await _answer(work, body, request)


def _prompts(prompt: str | list[int] | list[str] | list[list[int]]) -> list[str] | list[list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise ConfigError("there is no prompt, the list is empty")
    if isinstance(prompt[0], int):
        return [cast("list[int]", prompt)]
    return cast("list[str] | list[list[int]]", prompt)


def _read(engine: Engine, prompts: list[str] | list[list[int]]) -> tuple[list[list[int]], str]:
    """Prompts as token ids, and the text of the first one. Raises what `check_prompt` raises."""
    ids = [one if isinstance(one, list) else engine.prompt_ids(one, raw=True) for one in prompts]
    for one in ids:
        check_prompt(engine.host, one)
    return ids, prompts[0] if isinstance(prompts[0], str) else engine.tokenizer.decode(ids[0])


def _room(service: Service, account: Account, ids: Sequence[int]) -> int:
    """New tokens where none are asked for: what the window and the key leave, at most 1024."""
    window, most = service.shelf.host.window, max(1, min(1024, account.key.tokens_per_minute))
    if window is None:
        return most
    if len(ids) >= window:
        raise PromptTooLongError(f"a prompt of {len(ids)} tokens leaves no room in a window of {window}")
    return min(window - len(ids), most)


async def _work(
    service: Service,
    account: Account,
    acting: Acting,
    body: Drawn,
    prompts: Sequence[Sequence[int]],
    new: int,
    *,
    top: int | None,
    chat: bool = False,
    echo: bool = False,
) -> _Work:
    """Every prompt `n` times, each text with a seed of its own.

    Raises PromptTooLongError for one that no text can follow, and what `Drawn.sampling` raises.
    """
    window = service.shelf.host.window
    if acting.controller is None and window is not None and max(map(len, prompts)) > window:
        raise PromptTooLongError(f"{max(map(len, prompts))} tokens exceed the model's window of {window}")
    sampling = body.sampling(new, service.shelf.host.vocab_size)
    stop_ids = body.stop_ids(service.engine.stop_ids)
    texts = [
        Text(
            ids,
            replace(sampling, seed=(sampling.seed + place * body.n + k) % (1 << 63)),
            stop_ids,
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
    id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
    head = {"id": id, "created": int(time.time()), "model": body.model}
    acted = {}
    if body.weft:
        acted = {"weft": {"adapters": await asyncio.to_thread(acting.usage, service.shelf.sha256)}}
    return _Work(service, account, acting, prompts, texts, choices, head, acted)


async def _answer(work: _Work, body: Drawn, request: Request) -> Response:
    """A stream of events, or once all is written one answer."""
    work.service.metrics.prompt_tokens.inc(sum(map(len, work.prompts)))
    if body.stream:
        events = _events(work, body.stream_options)
        # What is wrong before the first token is an answer of its own.
        first = await _unless_gone(_first(events), request)
        named = headers(work.acting)
        return StreamingResponse(_after(first, events), media_type="text/event-stream", headers=named)
    await _unless_gone(_collect(work), request)
    reply = whole_reply(work.head, work.choices, chat=isinstance(body, ChatRequest))
    return JSONResponse({**reply, "usage": work.used()}, headers=headers(work.acting))


async def _first(events: AsyncIterator[str]) -> str:
    return await anext(events)


async def _unless_gone(work: Coroutine[Any, Any, T], request: Request) -> T:
    """Do something while the client is there. Raises Refused once it has gone, and what the work raises."""
    doing, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Refused(499, "the client has gone")
        return doing.result()
    finally:
        doing.cancel()
        gone.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # what is left of a body


async def _collect(work: _Work) -> None:
    begun = time.perf_counter()
    async with written(work.service, work.account, work.texts, work.acting, work.head["id"]) as pieces:
        async for index, piece in pieces:
            if work.choices[index].take(piece):
                begun = _count(work.service, begun)


def _count(service: Service, begun: float) -> float:
    if begun:
        service.metrics.first.observe(time.perf_counter() - begun)
    service.metrics.new_tokens.inc()
    return 0.0


async def _events(work: _Work, options: StreamOptions) -> AsyncIterator[str]:
    begun = time.perf_counter()
    started, chat = False, work.choices[0].chat
    try:
        async with written(work.service, work.account, work.texts, work.acting, work.head["id"]) as pieces:
            async for index, piece in pieces:
                if work.choices[index].take(piece):
                    begun = _count(work.service, begun)
                news = work.choices[index].news()
                if news is not None:
                    used = work.used() if options.continuous_usage_stats else None
                    rest = {"usage": used} if options.include_usage else {}
                    yield _event(chunk(work.head, news, rest, chat=chat))
                    started = True
        if options.include_usage:
            yield _event(chunk(work.head, None, {"usage": work.used()}, chat=chat))
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
