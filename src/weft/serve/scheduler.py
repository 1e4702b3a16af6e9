"""The thread that owns the tensors: requests come in through a queue, pieces of text go out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from weft.engine import Loop, Sampling, Spoken
from weft.engine.prefixes import Prefixes
from weft.engine.score import prompt_logits
from weft.errors import PoolFullError, PromptTooLongError, WeftError, WorkerError
from weft.host import Host, Pool
from weft.host.pool import content
from weft.rows import AbstractController, AbstractHost, Request, Share
from weft.serve.writing import Likely, Piece, Writing, likely_prompt

Update = Piece | list[Likely] | Exception
"""A piece, the likelihoods of the prompt before the first one, or why nothing follows."""

_MOST_WAITING = 256
"""Jobs beyond the rows of the loop; whoever comes then is refused."""
_TOGETHER = 0.002
"""Seconds that an idle server waits for another job: those that come at once are read in one step."""

T = TypeVar("T")
log = logging.getLogger("weft.serve")


class StoppedError(RuntimeError):
    """The thread has ended, and the request with it."""


class BusyError(RuntimeError):
    """Too many requests wait."""


@dataclass(frozen=True, eq=False)
class Job:
    """One text to write."""

    request: Request
    sampling: Sampling
    writing: Writing
    tell: Callable[[Update], None]
    """Called by the scheduler's thread."""
    stop_ids: frozenset[int]
    prompt_top: int | None = None
    """How many likely tokens to tell at every place of the prompt; None tells nothing of it."""
    only_prompt: bool = False
    """Tell of the prompt, and write nothing."""
    controller: AbstractController | None = None
    """What changes the row while it is written."""


class _Work(NamedTuple):
    """Something else that the thread does between two steps."""

    call: Callable[[], Any]
    done: Future[Any]


class Scheduler:
    """Writes jobs over a host in a thread of its own: rows join and leave between steps.

    `slots` adapters of rank `r` or less act at a time, and the caches hold `max_tokens` or less (rows times
    the longest); a row for which there is no room waits. `prefix_tokens` of texts that have ended are kept
    for those that begin alike, each tenant's for itself. When a step fails,
    every open job is told so and the thread ends; `start` begins anew. Where it was the workers of a spread
    host that were lost, the thread goes on: they may come back.
    """

    def __init__(
        self,
        host: AbstractHost,
        *,
        max_rows: int = 32,
        chunk: int | None = 256,
        max_tokens: int | None = None,
        prefix_tokens: int = 0,
        slots: int = 32,
        r: int = 64,
    ) -> None:
        self.host = host
        self.slots, self.r = slots, r
        self.prefix_tokens = prefix_tokens
        self.max_rows = max_rows
        self._sizes = {"max_rows": max_rows, "chunk": chunk, "max_tokens": max_tokens}
        self._inbox: SimpleQueue[Job | _Work | str | None] = SimpleQueue()
        self._open: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop = Loop(host, **self._sizes, refused=self._refuse)

    @property
    def alive(self) -> bool:
        """Whether jobs are served."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def open(self) -> int:
        """How many jobs wait or are written."""
        return len(self._open)

    @property
    def active(self) -> int:
        """How many rows are read or written."""
        return self._loop.active

    @property
    def reused(self) -> int:
        """How many tokens of prompts were not read again."""
        return 0 if self._loop.prefixes is None else self._loop.prefixes.reused

    @property
    def resident(self) -> int:
        """How many adapters have a slot."""
        return len(self.host.pool) if isinstance(self.host, Host) else 0

    def start(self) -> None:
        """Begin, with an empty pool; nothing where the thread runs."""
        host = self.host
        with self._lock:
            if self.alive:
                return
            prefixes = None
            if isinstance(host, Host):  # a spread one keeps its pools and caches with its stages
                host.pool = Pool(
                    host.sites, slots=self.slots, r=self.r, base=host.fingerprint, device=host.device
                )
                prefixes = Prefixes(host, tokens=self.prefix_tokens) if self.prefix_tokens else None
            self._loop = Loop(host, **self._sizes, refused=self._refuse, prefixes=prefixes)
            self._inbox = SimpleQueue()
            self._thread = threading.Thread(target=self._run, name="weft-scheduler", daemon=True)
            self._thread.start()

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn. Raises StoppedError where the thread has ended, BusyError."""
        with self._lock:
            if not self.alive:
                raise StoppedError("the scheduler has stopped; restart it")
            if len(self._open) >= _MOST_WAITING + self.max_rows:
                raise BusyError(f"{len(self._open)} requests are open")
            self._open[job.request.id] = job
            self._inbox.put(job)

    def cancel(self, id: str) -> None:
        """Drop a job, wherever it is; nothing for one that has ended."""
        if id in self._open:
            self._inbox.put(id)

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Have something done between two steps. Raises StoppedError, as the result may."""
        done: Future[T] = Future()
        with self._lock:
            if not self.alive:
                raise StoppedError("the scheduler has stopped; restart it")
            self._inbox.put(_Work(work, done))
        return done

    def change(self, ids: Sequence[str], share: Share) -> Future[list[int | None]]:
        """Let jobs go on under another share, all or none of them; what `Loop.change` tells of each.

        Raises StoppedError. The future raises what `Loop.change` raises, or PoolFullError.
        """

        def between_steps() -> list[int | None]:
            self._check(share)
            return self._loop.change_all(ids, share)

        return self.call(between_steps)

    def close(self) -> None:
        """End the thread; open jobs are told so."""
        if self._thread is not None and self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join()

    def _run(self) -> None:
        error: Exception = StoppedError("the server is stopping")
        try:
            while self._goes_on():
                pass
        except Exception as failed:  # every open request has to hear of it
            log.exception("the scheduler has failed")
            error = StoppedError(f"the scheduler has failed: {type(failed).__name__}")
        with self._lock:
            left, self._open = list(self._open.values()), {}
            self._thread = None
            while not self._inbox.empty():
                heard = self._inbox.get()
                if isinstance(heard, _Work) and heard.done.set_running_or_notify_cancel():
                    heard.done.set_exception(error)
        for job in left:
            job.tell(error)

    def _goes_on(self) -> bool:
        """Hear, and do a step where there is something to do; whether to go on."""
        try:
            if not self._hear():
                return False
            if self._loop.busy:
                self._tell(self._loop.step())
        except WorkerError as error:
            log.warning("%s", error)
            self._loop.close()
            with self._lock:
                left, self._open = list(self._open.values()), {}
            for job in left:
                job.tell(error)
        return True

    def _tell(self, spoken: Sequence[Spoken]) -> None:
        """Tell jobs their newest tokens."""
        for one in spoken:
            job = self._open[one.id]
            piece = job.writing.piece(one)
            if piece.reason is not None:
                self._forget(one.id)
            job.tell(piece)

    def _hear(self) -> bool:
        """Take in what has come, waiting where there is nothing else to do; whether to go on."""
        idle = not self._loop.busy
        seconds = None if idle else 0
        while True:
            try:
                heard = self._inbox.get(timeout=seconds)
            except Empty:
                return True
            gathers = idle and isinstance(heard, Job) and len(self._loop.waiting) < self.max_rows
            seconds = _TOGETHER if gathers else 0
            if heard is None:
                return False
            if isinstance(heard, str):
                self._loop.cancel(heard)
                self._forget(heard)
            elif isinstance(heard, Job):
                self._begin(heard)
            else:
                _do(heard)

    def _begin(self, job: Job) -> None:
        """Hand a job to the loop; what is wrong with it is told to it alone."""
        share = job.request.share
        if job.request.id not in self._open:  # it waited while the workers were lost, and was told
            return
        try:
            self._check(share)
            if job.prompt_top is not None:
                ids = job.request.prompt_ids
                if self.host.window is not None and len(ids) > self.host.window:
                    raise PromptTooLongError(f"{len(ids)} tokens, the window has {self.host.window}")
                job.tell(likely_prompt(prompt_logits(self.host, ids, share), ids, job.prompt_top))
            if job.only_prompt:
                self._forget(job.request.id)
                job.tell(Piece("", None, None, "length"))
                return
            self._loop.submit(
                job.request,
                sampling=job.sampling,
                controller=job.controller,
                stop_ids=job.stop_ids,
                ends=job.writing.ends,
            )
        except WeftError as error:
            self._refuse(job.request.id, error)

    def _check(self, share: Share) -> None:
        """An adapter that cannot act is refused before others share its step; one without a slot waits."""
        several = len(share.adapters) > self.slots  # else nothing is hashed here, between two steps
        if several and len({content(adapter) for adapter, _ in share.adapters}) > self.slots:
            raise PoolFullError(f"{len(share.adapters)} adapters at once, this server has {self.slots} slots")
        try:
            self.host.hold(share)
            self.host.release(share)
        except PoolFullError:
            pass

    def _refuse(self, id: str, error: WeftError) -> None:
        """Tell a job alone that it cannot begin or go on."""
        job = self._open[id]
        self._forget(id)
        job.tell(error)

    def _forget(self, id: str) -> None:
        with self._lock:
            self._open.pop(id, None)


def _do(work: _Work) -> None:
    if not work.done.set_running_or_notify_cancel():  # whoever asked has gone
        return
    try:
        work.done.set_result(work.call())
    except Exception as error:  # it belongs to whoever asked
        work.done.set_exception(error)
