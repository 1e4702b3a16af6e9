"""The loop of rows: everything that speaks is a client of it.

A step writes one token for every row, or reads a stretch of the prompts that have come. Where there is both
to do they take turns, so that a first token waits for the step that runs and its own prompt alone. Rows
join, leave, change, are cut and are read again between steps, each on its own: a row never notices its
mates. When a controller changes a row after token t, the cache of the tokens before t stays as it is and
the new share acts from token t on, as activated LoRA does (Greenewald et al. 2025, arXiv 2504.12397); with
`reread` what the cache holds is read again, token t included, under the new share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from weft.engine.choose import choose
from weft.engine.controllers import apply, consult, decide, swap
from weft.engine.prefixes import Prefixes
from weft.engine.row import Ends, Reason, Row
from weft.engine.sampling import Sampling
from weft.errors import ConfigError, PoolFullError, PromptTooLongError, ShapeError, WeftError, WeightsError
from weft.host.cache import RowCache
from weft.rows import AbstractCache, AbstractController, AbstractHost, Request, Share


class Spoken(NamedTuple):
    """A token that a row has written."""

    id: str
    """Of the request."""
    token_id: int
    logits_V: Tensor
    """What the host said, before sampling changed it; float32."""
    reason: Reason | None
    """Why the row has ended with this token; None where it goes on."""
    silent: bool
    """Whether a controller keeps the token out of the text."""
    share: Share
    """What it was chosen under."""
    start: int
    """Position of the first token that the row's cache held."""
    note: str
    """What a controller says of what it did after the token."""


class _Reading(NamedTuple):
    """Rows whose prompts are being read, in a cache of their own."""

    rows: list[Row]
    cache: AbstractCache


class Loop:
    """Writes rows over a host, at most `max_rows` of them at a time; the others wait in order.

    `chunk` bounds how many tokens of each prompt one step reads, so that rows that are being written go on
    beside long prompts; None reads prompts whole. `max_tokens` bounds the blocks of the cache, which have
    room for rows times the longest of them, its new tokens included. `refused` hears of a request that
    cannot begin or go on, for want of a slot say, and that leaves; without it, that is raised by the step.
    `prefixes` are prompts that were read before, on a local host; without them each is read whole.
    Raises ConfigError for a size below 1.
    """

    def __init__(
        self,
        host: AbstractHost,
        *,
        max_rows: int = 64,
        chunk: int | None = None,
        max_tokens: int | None = None,
        refused: Callable[[str, WeftError], None] | None = None,
        prefixes: Prefixes | None = None,
    ) -> None:
        if any(size is not None and size < 1 for size in (max_rows, chunk, max_tokens)):
            raise ConfigError(
                f"max_rows, chunk and max_tokens are 1 or more, got {max_rows}, {chunk} and {max_tokens}"
            )
        self.host = host
        self.max_rows = max_rows
        self.chunk = chunk
        self.max_tokens = max_tokens
        self._refused = refused
        self.prefixes = prefixes
        self.waiting: deque[Row] = deque()
        self.rows: list[Row] = []
        """Row i is row i of the cache."""
        self._cache = host.new_cache()
        self._reading: list[_Reading] = []
        self._wrote = True
        """Whether the last step wrote: prompts are next."""

    @property
    def busy(self) -> bool:
        """Whether a row is waiting, read or written."""
        return bool(self.waiting or self._reading or self.rows)

    @property
    def held(self) -> list[int]:
        """How many tokens the caches hold of every row that is being read or written."""
        caches = [self._cache, *(group.cache for group in self._reading)]
        return [length for cache in caches for length in cache.lengths]

    @property
    def active(self) -> int:
        """How many rows are being read or written."""
        return len(self.rows) + sum(len(group.rows) for group in self._reading)

    def submit(
        self,
        request: Request,
        *,
        sampling: Sampling | None = None,
        controller: AbstractController | None = None,
        stop_ids: Collection[int] = (),
        ends: Ends | None = None,
    ) -> None:
        """Let a request wait for its turn. It ends with one of `stop_ids`, by `ends`, or by its length.

        Raises PromptTooLongError when prompt and new tokens exceed the window and no controller evicts, or
        `max_tokens`, ShapeError for an empty prompt or token ids outside the vocabulary, ConfigError for a
        share beside a controller, which starts with its own.
        """
        sampling = sampling or Sampling()
        check_prompt(self.host, request.prompt_ids)
        if controller is None or not controller.evicts:
            check_window(self.host, len(request.prompt_ids), sampling.max_new_tokens)
        if sampling.logit_bias:
            check_prompt(self.host, [token for token, _ in sampling.logit_bias])
        needed = len(request.prompt_ids) + sampling.max_new_tokens
        if self.max_tokens is not None and needed > self.max_tokens:
            raise PromptTooLongError(
                f"prompt and new tokens are {needed}, the cache has room for {self.max_tokens}"
            )
        if controller is not None and (request.share.adapters or request.share.terms):
            raise ConfigError("give a mixture or a controller, not both: a controller starts with its own")
        stream = None
        if sampling.temperature > 0:
            stream = torch.Generator(self.host.device).manual_seed(sampling.seed)
        self.waiting.append(
            Row(
                request,
                sampling,
                stop_ids,
                ends,
                controller,
                request.share,
                ids=list(request.prompt_ids),
                stream=stream,
            )
        )

    def cancel(self, id: str) -> bool:
        """Drop a request, wherever it is; whether there was one."""
        for row in self.waiting:
            if row.request.id == id:
                self.waiting.remove(row)
                return True
        for group in self._reading:
            for place, row in enumerate(group.rows):
                if row.request.id == id:
                    self._leave(group.rows, group.cache, place)
                    self._reading = [group for group in self._reading if group.rows]
                    return True
        for place, row in enumerate(self.rows):
            if row.request.id == id:
                self._leave(self.rows, self._cache, place)
                return True
        return False

    def run(self) -> Iterator[Spoken]:
        """What is said until nothing is left to say; dropped where a step raises or nobody listens on.

        Raises what `step` raises.
        """
        try:
            while self.busy:
                yield from self.step()
        finally:
            self.close()

    def close(self) -> None:
        """Drop every request, so that no adapter of theirs stays in its slot."""
        self.waiting.clear()
        for rows, cache in [(self.rows, self._cache), *((one.rows, one.cache) for one in self._reading)]:
            while rows:
                self._leave(rows, cache, len(rows) - 1)
        self._reading.clear()

    def change(self, id: str, share: Share) -> int | None:
        """Let a request go on under another share, wherever it is: what was read before stays as it is.

        Returns how many tokens it had written, so the index of the first one under the new share; None where
        there is no such request. Raises ConfigError for a request that a controller changes, PoolFullError
        where the share finds no place; the row is then as it was.
        """
        return self.change_all([id], share)[0]

    @torch.no_grad()
    def change_all(self, ids: Sequence[str], share: Share) -> list[int | None]:
        """`change` of several requests: all of them, or none where it raises what `change` raises.

        Raises ConfigError, PoolFullError.
        """
        held = [*self.rows, *(row for group in self._reading for row in group.rows)]
        known = {row.request.id: row for row in [*held, *self.waiting]}
        rows = [known.get(id) for id in ids]
        for row in rows:
            if row is not None and row.controller is not None:
                raise ConfigError(f"request {row.request.id} is changed by its controller alone")
        share = replace(share)  # never the request's own: what a cache holds no longer follows from that
        if any(row in held for row in rows):
            self.host.hold(share)  # while it is held no row can be refused after another was changed
            try:
                for row in rows:
                    if row in held:
                        swap(self.host, row, share)
            finally:
                self.host.release(share)
        for row in rows:
            if row is not None and row not in held:
                row.share = share
        return [None if row is None else row.written for row in rows]

    @torch.no_grad()
    def step(self) -> list[Spoken]:
        """Write one token for every row that was read, or read the next stretch of prompts.

        Raises PoolFullError when a row needs more adapter slots than there are; rows that were there before
        are then as they were. Raises WeightsError for logits that are not finite, and what a host or a
        controller raises; all that is left to do then is to close the loop.
        """
        self._admit()
        if self._reading and (self._wrote or not self.rows):
            self._wrote = False
            return self._read()
        self._wrote = True
        return self._speak(self.rows, self._cache, *self._write()) if self.rows else []

    def _read(self) -> list[Spoken]:
        """Read on; rows that were read to their end join those that are written, with a first token."""
        spoken = []
        for group, places, logits_BV, hidden_BH in self._read_on():
            rows = [group.rows[place] for place in places]
            first = len(self.rows)
            self._cache.join(group.cache, places)
            self.rows += rows
            for place in sorted(places, reverse=True):
                group.cache.leave(place)
                group.rows[place] = group.rows[-1]
                group.rows.pop()
            spoken += self._speak(rows, self._cache, logits_BV, hidden_BH, first)
        self._reading = [group for group in self._reading if group.rows]
        return spoken

    def _admit(self) -> None:
        """Begin waiting rows, together, while there is room."""
        begun: list[Row] = []
        try:
            self._begin(begun)
        finally:  # a row that is refused takes no other with it
            if begun:
                try:
                    decide(self.host, begun)
                except BaseException:  # they are in no list any more that `close` releases
                    for row in begun:
                        self.host.release(row.share)
                    raise
                fresh = [row for row in begun if not self._goes_on(row)]
                if fresh:
                    self._reading.append(_Reading(fresh, self.host.new_cache()))

    def _goes_on(self, row: Row) -> bool:
        """Let a row begin where a prompt that was read before leaves off; whether there is one."""
        cache = None if self.prefixes is None else self.prefixes.take(row)
        if cache is None:
            return False
        row.unread = cache.lengths[0]
        self._reading.append(_Reading([row], cache))
        return True

    def _begin(self, begun: list[Row]) -> None:
        while self.waiting and self.active + len(begun) < self.max_rows:
            row = self.waiting[0]
            if not self._has_room(row, begun):
                break
            if row.controller is not None and not row.started:
                row.share, row.state = row.controller.start(row.request)
                row.start = row.unread = row.controller.skips(row.request)
                row.started = True
            try:
                self.host.hold(row.share)
            except PoolFullError as error:
                if self.active or begun:
                    break
                self._refuse(self.waiting.popleft(), error)
                continue
            except WeftError as error:
                self._refuse(self.waiting.popleft(), error)
                continue
            begun.append(self.waiting.popleft())

    def _has_room(self, row: Row, begun: Sequence[Row]) -> bool:
        """Whether the blocks of the cache may grow to hold one row more."""
        if self.max_tokens is None:
            return True
        rows = [row, *begun, *self.rows, *(row for group in self._reading for row in group.rows)]
        longest = max(len(row.request.prompt_ids) + row.sampling.max_new_tokens for row in rows)
        return len(rows) == 1 or len(rows) * longest <= self.max_tokens

    def _refuse(self, row: Row, error: WeftError) -> None:
        if self._refused is None:
            raise error
        self._refused(row.request.id, error)

    def _write(self) -> tuple[Tensor, Tensor | None]:
        """One decode step of all rows."""
        ids_BT = torch.tensor([[row.ids[-1]] for row in self.rows], device=self.host.device)
        said = self.host.step(
            ids_BT, self._cache, [row.share for row in self.rows], capture=_captures(self.rows)
        )
        for row in self.rows:
            row.unread = len(row.ids)
        return said.logits_BV, said.hidden_BH

    def _read_on(self) -> list[tuple[_Reading, list[int], Tensor, Tensor | None]]:
        """Read on in every group of prompts; the rows that were read to their end, with what comes next."""
        arrived = []
        for group in self._reading:
            left = [len(row.ids) - row.unread for row in group.rows]
            tokens = max(left) if self.chunk is None else min(max(left), self.chunk)
            counts = [min(count, tokens) for count in left]
            ids_BT = torch.zeros(len(group.rows), tokens, dtype=torch.long)
            for ids_T, row, count in zip(ids_BT, group.rows, counts, strict=True):
                ids_T[:count] = torch.tensor(row.ids[row.unread : row.unread + count])
            said = self.host.step(
                ids_BT.to(self.host.device),
                group.cache,
                [row.share for row in group.rows],
                counts=counts,
                capture=_captures(group.rows),
                starts=[row.start for row in group.rows],
            )
            for row, count in zip(group.rows, counts, strict=True):
                row.unread += count
            places = [i for i, row in enumerate(group.rows) if row.unread == len(row.ids)]
            if places:
                hidden_BH = None if said.hidden_BH is None else said.hidden_BH[places]
                arrived.append((group, places, said.logits_BV[places], hidden_BH))
        return arrived

    def _speak(
        self,
        rows: Sequence[Row],
        cache: AbstractCache,
        logits_BV: Tensor,
        hidden_BH: Tensor | None,
        first: int = 0,
    ) -> list[Spoken]:
        """Draw a token for rows `first` on, hear their controllers, and let those that have ended leave."""
        rows, order = list(rows), list(range(len(rows)))
        # NaN would be the most likely token, and be written as some text.
        for place in reversed((~logits_BV.amax(-1).isfinite()).nonzero().flatten().tolist()):
            self._leave(self.rows, cache, first + place)
            self._refuse(rows[place], _unsound(rows[place]))
            rows[place], order[place] = rows[-1], order[-1]
            del rows[-1], order[-1]
        if len(order) < len(logits_BV):
            logits_BV, hidden_BH = logits_BV[order], None if hidden_BH is None else hidden_BH[order]
        tokens = choose(logits_BV, rows)
        for row, token in zip(rows, tokens, strict=True):
            row.ids.append(token)
        changes = consult(rows, hidden_BH, cache.lengths[first:])
        spoken = []
        for row, token, logits_V, change in zip(rows, tokens, logits_BV, changes, strict=True):
            silent, note = (change.silent, change.note) if change is not None else (False, "")
            reason = row.reason(token, silent=silent)
            spoken.append(Spoken(row.request.id, token, logits_V, reason, silent, row.share, row.start, note))
        for place in range(len(rows) - 1, -1, -1):
            change = changes[place]
            if spoken[place].reason is not None:
                if self.prefixes is not None and isinstance(cache, RowCache):
                    self.prefixes.keep(rows[place], cache, first + place)
                self._leave(self.rows, cache, first + place)
            elif change is not None:
                row = rows[place]
                try:
                    reread = apply(self.host, row, change, cache, first + place)
                except WeftError as error:
                    if self._refused is None:
                        raise
                    self._leave(self.rows, cache, first + place)
                    self._refused(row.request.id, error)
                    spoken.pop(place)
                    continue
                if reread:
                    self._drop(self.rows, cache, first + place)
                    self._reading.append(_Reading([row], self.host.new_cache()))
        return spoken

    def _leave(self, rows: list[Row], cache: AbstractCache, place: int) -> None:
        share = rows[place].share
        self._drop(rows, cache, place)  # first: where it raises, the row is there to leave again
        self.host.release(share)

    @staticmethod
    def _drop(rows: list[Row], cache: AbstractCache, place: int) -> None:
        if place < len(cache.lengths):  # a row whose prompt was not begun is in no cache
            cache.leave(place)
        rows[place] = rows[-1]
        rows.pop()


def check_prompt(host: AbstractHost, ids: Sequence[int]) -> None:
    """Raise ShapeError for an empty prompt or token ids outside the vocabulary."""
    if not ids:
        raise ShapeError("an empty prompt has no token to continue; give it some text")
    if min(ids) < 0 or max(ids) >= host.vocab_size:
        wrong = next(i for i in ids if not 0 <= i < host.vocab_size)
        raise ShapeError(f"token id {wrong} is outside the vocabulary of {host.vocab_size}")


def check_window(host: AbstractHost, tokens: int, max_new_tokens: int) -> None:
    """Raise PromptTooLongError when a prompt leaves no room for its new tokens."""
    if host.window is not None and tokens + max_new_tokens > host.window:
        raise PromptTooLongError(
            f"a prompt of {tokens} tokens and {max_new_tokens} new ones exceed the model's window of "
            f"{host.window}; shorten the prompt or lower max_new_tokens"
        )


def _unsound(row: Row) -> WeightsError:
    return WeightsError(
        f"the logits of request {row.request.id} are not finite: the base or an adapter holds NaN or "
        "infinity, or numbers too large for its dtype; try another one (float16 ends at 65504)"
    )


def _captures(rows: Sequence[Row]) -> bool:
    return any(row.controller is not None and row.controller.wants_hidden for row in rows)
