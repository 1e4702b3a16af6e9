"""The window controller: what leaves a row's window goes into its adapter.

    cache holds W tokens -> its oldest chunk is evicted, pressed, and joined to what the row knows

Positions of the tokens that stay are as they were, so rotary distances are right; cache and adapter are of
bounded size, so a text may go on for ever. A prompt that is longer than the window is pressed up to its last
W tokens before anything is read into the cache, so the memory for it is bounded too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weft.errors import ConfigError
from weft.hyper.context import ContextNetwork, batched
from weft.rows import AbstractController, Change, Event, Request, Share
from weft.types import Adapter

_TOGETHER = 16
"""Chunks of a prompt that are pressed in one forward."""


@dataclass(frozen=True)
class Pressed:
    """What a row knows of the tokens that have left its window."""

    known: Adapter | None = None
    tokens: int = 0
    """How many have left."""


class WindowController(AbstractController):
    """Keeps rows within `window` tokens by a context network, which presses a chunk at a time.

    Raises ConfigError for a window that has no room beside a chunk, or larger than the base's own.
    """

    def __init__(self, network: ContextNetwork, *, window: int) -> None:
        chunk = network.longest
        if window <= chunk:
            raise ConfigError(
                f"a window of {window} tokens is no larger than a chunk of {chunk}; give at least {chunk + 1}"
            )
        largest = network.host.window
        if largest is not None and window > largest:
            raise ConfigError(f"a window of {window} tokens, the base was made for {largest}")
        self.network = network
        self.window = window
        self.evicts = network.host.endless  # positions stay as they were, and those of a table come to an end

    def start(self, request: Request) -> tuple[Share, Pressed]:
        """Press the part of a long prompt that lies before its last tokens."""
        ids = request.prompt_ids[: self.skips(request)]
        known: Adapter | None = None
        for several in batched(self.network.chunks(ids), _TOGETHER):
            known = self.network.learn(known, several)
        return (Share() if known is None else Share.of(known)), Pressed(known, len(ids))

    def skips(self, request: Request) -> int:
        """Whole chunks, until what is left fits the window."""
        over = len(request.prompt_ids) - self.window
        return sum(map(len, self.network.leaving(request.prompt_ids, over)))

    def fires(self, token_id: int, cached: int) -> bool:
        """Where the next token would no longer fit."""
        return cached + 1 > self.window

    def observe(
        self, states: Sequence[Pressed], events: Sequence[Event]
    ) -> Sequence[tuple[Pressed, Change | None]]:
        """Press the oldest chunks of all rows that are full, in one forward."""
        leaving = [
            self.network.leaving(event.ids[state.tokens :], event.cached + 1 - self.window)
            for state, event in zip(states, events, strict=True)
        ]
        bank = self.network.press([chunk for chunks in leaving for chunk in chunks])
        made, answers = 0, []
        for state, chunks in zip(states, leaving, strict=True):
            new = [bank[k] for k in range(made, made + len(chunks))]
            made += len(chunks)
            known = self.network.join([*([] if state.known is None else [state.known]), *new])
            left = sum(map(len, chunks))
            answers.append((Pressed(known, state.tokens + left), Change(Share.of(known), evict=left)))
        return answers
