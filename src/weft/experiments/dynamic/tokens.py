"""Switching by tokens alone, as Granite Switch (2026) does: each control token names one fixed adapter."""

from __future__ import annotations

from collections.abc import Sequence

from weft.hyper import Speaker
from weft.rows import AbstractController, Change, Event, Request, Share
from weft.types import Adapter


class TokenSwitch(AbstractController):
    """Control token k puts library adapter k in force, the last one none; the speaker acts throughout."""

    def __init__(self, speaker: Speaker, library: Sequence[Adapter], base: str) -> None:
        self.controls = speaker.controls
        own = speaker.adapter(base)
        shares = [*(Share.of(own, adapter) for adapter in library), Share.of(own)]
        self.shares = dict(zip(self.controls, shares, strict=True))
        self.begin = shares[-1]

    def start(self, request: Request) -> tuple[Share, None]:
        """The speaker alone."""
        return self.begin, None

    def fires(self, token_id: int, cached: int) -> bool:
        """At every control token."""
        return token_id in self.shares

    def observe(self, states: Sequence[None], events: Sequence[Event]) -> list[tuple[None, Change | None]]:
        """The adapter that the token names."""
        return [(None, Change(self.shares[event.token_id], silent=True)) for event in events]
