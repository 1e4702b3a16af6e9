"""Mixes while a row is written: at an event the sources of a row are weighed anew, from the next token on.

An event is a token that the mix listens to (`tokens`), or, with a window, a chunk that leaves it: that chunk
is pressed into the row's context adapter, and what all sources count then is decided with the vector of the
last event. The cache is kept. A trace names the mean weight of each source over its sites.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weft.errors import ConfigError, ShapeError
from weft.hyper.window import Pressed, WindowController
from weft.route.mix import Mix, sizes, weighed
from weft.rows import AbstractController, Change, Event, Request, Share
from weft.types import Adapter, Bank

Sources = Sequence[Adapter | None]
"""One adapter per source, in the order of the mix; None where a source has nothing for a row."""


@dataclass(frozen=True, eq=False)
class Mixed:
    """What the controller knows of a row."""

    sources: tuple[Adapter | None, ...]
    vector_1D: Tensor
    """Of the last event."""
    pressed: Pressed | None
    """What has left the window; None without one."""
    events: int = 0


class MixController(AbstractController):
    """Weighs the sources of rows; `sources` says what they are for a request, by its id.

    With a `window`, source 0 is what it has pressed, and `sources` gives None there. `speaker` acts always.
    A row may have `max_events` of the tokens; after that they change nothing, which the change notes.

    Raises ConfigError for no event at all, or a bound below 0.
    """

    wants_hidden = True

    def __init__(
        self,
        mix: Mix,
        sources: Callable[[Request], Sources],
        *,
        tokens: Collection[int] = (),
        window: WindowController | None = None,
        speaker: Adapter | None = None,
        max_events: int = 64,
    ) -> None:
        if not tokens and window is None:
            raise ConfigError("nothing would ever be weighed again; give tokens to listen to, or a window")
        if max_events < 0:
            raise ConfigError(f"max_events is 0 or more, got {max_events}")
        self.mix = mix
        self.sources = sources
        self.tokens = frozenset(tokens)
        self.window = window
        self.speaker = speaker
        self.max_events = max_events
        self.evicts = window is not None and window.evicts

    def start(self, request: Request) -> tuple[Share, Mixed]:
        """What the mix makes of the sources before any event. Raises ConfigError for another number."""
        sources = tuple(self.sources(request))
        if len(sources) != self.mix.sources:
            raise ConfigError(
                f"this mix weighs {self.mix.sources} sources, request {request.id} has {len(sources)}"
            )
        pressed = None
        if self.window is not None:
            if sources[0] is not None:
                raise ConfigError("source 0 is what the window presses; give None there")
            pressed = self.window.start(request)[1]
            sources = (pressed.known, *sources[1:])
        state = Mixed(sources, self.mix.before(1).detach(), pressed)
        return self._shares([state])[0][0], state

    def skips(self, request: Request) -> int:
        """What the window takes in of a long prompt."""
        return 0 if self.window is None else self.window.skips(request)

    def fires(self, token_id: int, cached: int) -> bool:
        """At the tokens that it listens to, and where the window is full."""
        return token_id in self.tokens or (self.window is not None and self.window.fires(token_id, cached))

    @torch.no_grad()
    def observe(self, states: Sequence[Mixed], events: Sequence[Event]) -> list[tuple[Mixed, Change | None]]:
        """Press what leaves the windows, and weigh the sources of all rows that fired: a forward each."""
        now, evict, note = list(states), [0] * len(states), [""] * len(states)
        heard = [i for i, event in enumerate(events) if event.token_id in self.tokens]
        for i in heard:
            if states[i].events >= self.max_events:
                note[i] = f"not weighed: the bound of {self.max_events} is reached"
        heard = [i for i in heard if not note[i]]
        if heard:
            vector_BD = self.mix.vector(torch.stack([_hidden(events[i]) for i in heard]))
            for i, vector_D in zip(heard, vector_BD, strict=True):
                now[i] = replace(now[i], vector_1D=vector_D[None], events=now[i].events + 1)
        full = [i for i, event in enumerate(events) if self._full(event)]
        if full and self.window is not None:
            pressed = [state.pressed or Pressed() for state in (now[i] for i in full)]
            answers = self.window.observe(pressed, [events[i] for i in full])
            for i, (known, change) in zip(full, answers, strict=True):
                sources = (known.known, *now[i].sources[1:])
                now[i] = replace(now[i], sources=sources, pressed=known)
                evict[i] = 0 if change is None else change.evict
        changed = sorted({*heard, *full})
        found = dict(zip(changed, self._shares([now[i] for i in changed]), strict=True))
        shares = {i: share for i, (share, _) in found.items()}
        note = [note[i] or found.get(i, (None, ""))[1] for i in range(len(states))]
        return [(now[i], Change(shares.get(i), evict=evict[i], note=note[i])) for i in range(len(states))]

    def _full(self, event: Event) -> bool:
        return self.window is not None and self.window.fires(event.token_id, event.cached)

    @torch.no_grad()
    def _shares(self, states: Sequence[Mixed]) -> list[tuple[Share, str]]:
        """What acts on each row, and what a trace says of it."""
        if not states:
            return []
        sites = self.mix.sites
        size_BJS = torch.zeros(len(states), self.mix.sources, len(sites), device=self.mix.before_D.device)
        for row, state in enumerate(states):
            for place, adapter in enumerate(state.sources):
                if adapter is not None:
                    size_BJS[row, place] = sizes(Bank.stack([adapter]), sites)[0]
        weight_BJS = self.mix(torch.cat([state.vector_1D for state in states]), size_BJS)
        return [self._share(state, weight_JS) for state, weight_JS in zip(states, weight_BJS, strict=True)]

    def _share(self, state: Mixed, weight_JS: Tensor) -> tuple[Share, str]:
        parts, told = [] if self.speaker is None else [self.speaker], []
        place = {site: k for k, site in enumerate(self.mix.sites)}
        for adapter, weight_S in zip(state.sources, weight_JS, strict=True):
            if adapter is None or not adapter.factors:
                continue
            part = weighed(adapter, weight_S, self.mix.sites)
            parts += [] if part is None else [part]
            mean = float(weight_S[[place[site] for site in adapter.factors]].mean())
            told.append(f"{adapter.name} {mean:.2f}")
        return Share.of(*parts), f"mix: {', '.join(told)}"


def _hidden(event: Event) -> Tensor:
    if event.hidden_H is None:
        raise ShapeError("a mix needs the state that an event's token was chosen from; this host gives none")
    return event.hidden_H
