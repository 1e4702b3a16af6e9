"""Prompts that were read before: keys and values kept, so that a text which begins alike reads only the rest.

What a token's keys and values are depends on the tokens before it and on what acts, so a prefix is found by
the contents and weights of its adapters, never by their names, and by who asked: nobody can tell from the
time of an answer what another tenant has asked. Rows under gates, banks or controllers are not kept, nor are
those that changed on the way: what their caches hold does not follow from the prompt and the share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from weft.engine.row import Row
from weft.errors import ConfigError
from weft.host import Host
from weft.host.cache import RowCache

Key = tuple[str, tuple[tuple[str, float], ...]]
"""Tenant, and the contents and weights of what acts."""


class _Kept(NamedTuple):
    ids: tuple[int, ...]
    cache: RowCache
    """Of one row, which holds all of `ids`."""


class Prefixes:
    """At most `tokens` tokens of texts under one host, the least recently used text leaving first.

    A text of fewer than `least` tokens in common is read anew. Raises ConfigError for a size below 1.
    """

    def __init__(self, host: Host, *, tokens: int, least: int = 16) -> None:
        if tokens < 1 or least < 1:
            raise ConfigError(f"tokens and least are 1 or more, got {tokens} and {least}")
        self.host = host
        self.tokens = tokens
        self.least = least
        self.reused = 0
        """Tokens that were not read again so far."""
        self._kept: OrderedDict[tuple[Key, tuple[int, ...]], _Kept] = OrderedDict()

    @property
    def held(self) -> int:
        """How many tokens are kept."""
        return sum(len(one.ids) for one in self._kept.values())

    def take(self, row: Row) -> RowCache | None:
        """A cache of one row that holds the longest known beginning of a prompt, its last token left out."""
        key = self._key(row)
        prompt = row.request.prompt_ids
        if key is None or len(prompt) <= self.least:
            return None
        best, longest = None, self.least - 1
        for name, one in self._kept.items():
            common = _common(one.ids, prompt[:-1]) if name[0] == key else 0
            if common > longest:
                best, longest = name, common
        if best is None:
            return None
        self._kept.move_to_end(best)
        cache = self.host.new_cache()
        cache.join(self._kept[best].cache, [0])
        cache.trim(0, longest)
        self.reused += longest
        return cache

    def keep(self, row: Row, cache: RowCache, place: int) -> None:
        """Remember what row `place` of a cache holds: a text that has ended."""
        key, held = self._key(row), cache.lengths[place]
        if key is None or cache.starts[place] or not self.least <= held <= self.tokens:
            return
        ids = tuple(row.ids[:held])
        shorter = [name for name in self._kept if name[0] == key and name[1] == ids[: len(name[1])]]
        for name in shorter:
            del self._kept[name]
        copy = self.host.new_cache()
        copy.join(cache, [place])
        self._kept[key, ids] = _Kept(ids, copy)
        held = self.held
        while held > self.tokens:
            held -= len(self._kept.popitem(last=False)[1].ids)

    def _key(self, row: Row) -> Key | None:
        share = row.share
        if row.controller is not None or share.terms or share is not row.request.share:
            return None
        pairs = tuple((self.host.pool.key(adapter), weight) for adapter, weight in share.adapters)
        return row.request.tenant, pairs


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
