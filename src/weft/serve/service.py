"""One server's parts together, and the errors that every route answers with."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from urllib.parse import quote

from fastapi import HTTPException, Request

from weft.engine import Engine, Sampling
from weft.errors import PoolFullError, SaveError, UnknownNameError, WeftError, WorkerError
from weft.rows import Request as RowRequest
from weft.serve.keys import Account, Keys, Role, TooMuchError
from weft.serve.metrics import Metrics
from weft.serve.names import Base, Blend, Made, Named, Planted, Routed, Shifted, Spec, Stored, parse
from weft.serve.post import Post
from weft.serve.scheduler import BusyError, Job, Scheduler, StoppedError, Update
from weft.serve.shelf import Acting, Shelf
from weft.serve.writing import Writing


class Refused(HTTPException):
    """An answer that is an error, in OpenAI's form."""

    def __init__(self, status: int, message: str, code: str | None = None, wait: float | None = None) -> None:
        headers = {"Retry-After": str(max(1, round(wait)))} if wait is not None else None
        super().__init__(status, message, headers)
        self.code = code


def refusal(error: Exception) -> Refused:
    """What an error of Weft's is as an answer."""
    match error:
        case Refused():
            return error
        case TooMuchError():
            return Refused(429, str(error), "rate_limit_exceeded", error.wait)
        case BusyError():
            return Refused(429, str(error), "rate_limit_exceeded", 1.0)
        case StoppedError():
            return Refused(503, str(error), "stopped")
        case PoolFullError():
            return Refused(503, str(error), "no_slot", 1.0)
        case WorkerError():
            return Refused(503, str(error), "no_worker", 1.0)
        case UnknownNameError():
            return Refused(404, str(error), "model_not_found")
        case SaveError() | OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Refused(507, f"the disk refuses: {error}", "disk")
        case WeftError():
            return Refused(400, str(error), "invalid_request")
    raise error


class Running(NamedTuple):
    """A request whose texts are being written."""

    account: Account
    rows: set[str]
    """Ids of the texts that have not ended: the request's own, `-` and their index."""


@dataclass(frozen=True, eq=False)
class Service:
    """What the routes work with."""

    engine: Engine
    scheduler: Scheduler
    shelf: Shelf
    keys: Keys
    metrics: Metrics = field(default_factory=Metrics)
    post: Post = field(default_factory=Post)
    running: dict[str, Running] = field(default_factory=dict)
    """Requests whose texts are being written, by the id that their answers carry."""

    @property
    def base(self) -> str:
        """Name of the base."""
        return self.shelf.host.name


class Text(NamedTuple):
    """One text that a request asks for."""

    ids: Sequence[int]
    sampling: Sampling
    stop_ids: frozenset[int]
    """What ends it."""
    top: int | None = None
    prompt_top: int | None = None
    only_prompt: bool = False
    trace: bool = False


def service_of(request: Request) -> Service:
    """The server that a request came to."""
    return request.app.state.service


def account_of(request: Request, role: Role = "user") -> Account:
    """Whose request it is. Raises Refused for a missing key, or one of a lesser role."""
    account = service_of(request).keys.account(request.headers.get("authorization"))
    if account is None:
        raise Refused(401, "give a key: Authorization: Bearer KEY", "invalid_api_key")
    if not account.may(role):
        raise Refused(403, f"this key is of a {account.key.role}, that needs a {role}", "forbidden")
    return account


async def resolve(service: Service, account: Account, model: str, request: str) -> Acting:
    """What acts under a name, for one who may use it. Raises Refused, and what `Shelf.acting` raises."""
    spec = Base() if model == service.base else parse(model)
    for name in _names(spec):
        if not account.may_use(name):
            raise Refused(403, f"this key may not use {name}", "forbidden")
    if isinstance(spec, Made):
        if not account.may("maker") or account.key.adapters is not None:
            raise Refused(403, "this key makes no adapters", "forbidden")
        account.make()
    if isinstance(spec, Base | Named | Planted | Shifted):  # waits for nothing
        return service.shelf.acting(spec, request)
    return await asyncio.to_thread(service.shelf.acting, spec, request)


def _names(spec: Spec) -> list[str]:
    match spec:
        case Base() | Made():
            return []
        case Named(name):
            return [name]
        case Stored(store, name, _):
            return [f"store:{store}/{name}" if store else f"store:{name}"]
        case Blend(parts):
            return [name for part, _ in parts for name in _names(part)]
        case Routed(library):
            return [f"route:{library}"]
        case Planted(tree):
            return [f"tree:{tree}"]
        case Shifted(shift):
            return [f"shift:{shift}"]


def headers(acting: Acting) -> dict[str, str]:
    """The header that names what acted; names are percent-encoded."""
    return {
        "x-weft-adapters": ",".join(f"{w:g}*{quote(name, safe='+@:/')}" for name, w in acting.adapters)[:4000]
    }


@asynccontextmanager
async def written(
    service: Service, account: Account, texts: Sequence[Text], acting: Acting, name: str
) -> AsyncIterator[AsyncIterator[tuple[int, Update]]]:
    """Have texts written under what acts; gives (index of the text, what is new of it) as it comes.

    `name` is the id of the request, under which it is running meanwhile.

    Leaving early cancels what is not finished. Raises ConfigError, TooMuchError, BusyError, StoppedError.
    """
    tell, queue = service.post.to(asyncio.get_running_loop()), asyncio.Queue()
    account.begin(len(texts), sum(text.sampling.max_new_tokens for text in texts))
    open_ids: set[str] = set()
    service.running[name] = Running(account, open_ids)

    def teller(index: int) -> Callable[[Update], None]:
        return lambda piece: tell(partial(queue.put_nowait, (index, piece)))

    async def pieces() -> AsyncIterator[tuple[int, Update]]:
        while open_ids:
            index, piece = await queue.get()
            if isinstance(piece, Exception):
                open_ids.discard(f"{name}-{index}")
                raise refusal(piece)
            if not isinstance(piece, list) and piece.reason is not None:
                open_ids.discard(f"{name}-{index}")
            yield index, piece

    try:
        for index, text in enumerate(texts):
            decode = lambda ids: service.engine.tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
            job = Job(
                RowRequest(f"{name}-{index}", tuple(text.ids), acting.share, account.key.name),
                text.sampling,
                Writing(decode, text.sampling.stop, text.stop_ids, text.top, trace=text.trace),
                teller(index),
                text.stop_ids,
                text.prompt_top,
                text.only_prompt,
                acting.controller,
            )
            service.scheduler.submit(job)
            open_ids.add(job.request.id)
        yield pieces()
    finally:
        del service.running[name]
        for id in open_ids:
            service.scheduler.cancel(id)
        account.end(len(texts))
